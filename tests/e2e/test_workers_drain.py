"""Ensures that SIGTERM drains all workers as one: outbound serves on in each of them while any has a caller's request."""

from __future__ import annotations

import os
import signal
from contextlib import suppress
from typing import TYPE_CHECKING

import pytest

from tests.support.eventually import eventually
from tests.support.processes import TOOLS, Pending, ask, inbound, listens
from tests.support.workers import callers_of_all, children, worker_pids

if TYPE_CHECKING:
    from tests.support.backend import Backend
    from tests.support.processes import Site

MANY = 12


@pytest.mark.threat(54)
def test_threat_54_requests_in_flight_in_all_workers_are_finished(site: Site, backend: Backend) -> None:
    tools = site.tools(backend, workers=2).start()
    callers_of_all(site, tools)
    pending = [Pending(site.caller(tools.port()), "POST", f"/hold/{n}", body=b"x" * 1000) for n in range(MANY)]
    backend.await_held(MANY)
    tools.signal(signal.SIGTERM)
    eventually(lambda: not listens(tools.port()), "inbound to stop accepting")
    assert tools.ask("/ready").json == {"ready": False, "reason": "draining"}
    tools.signal(signal.SIGHUP)
    tools.await_stderr("a reload during a drain is ignored")
    backend.release()
    answers = [each.answer() for each in pending]
    assert {(answer.status, answer.fields["connection"]) for answer in answers} == {(200, "close")}
    assert tools.exit_code() == 0
    assert children(tools.running.pid) == {}
    changes = [line["event"] for line in tools.log() if line["event"] in {"start", "reload", "drain", "stop"}]
    assert changes == ["start", "drain", "stop"]
    assert len(tools.log(event="request", http_status=200)) == len(backend.requests)
    assert "Traceback" not in tools.stderr


def test_outbound_serves_in_every_worker_until_inbound_is_finished_in_all(site: Site, backend: Backend) -> None:
    tools = site.tools(backend).start()
    planner = site.planner(tools, workers=2, inbound=[inbound("front", backend.port, [{"caller": TOOLS}])]).start()
    pending = Pending(site.caller(planner.port(), "tools"), "GET", "/hold")
    backend.await_held()
    planner.signal(signal.SIGTERM)
    eventually(lambda: not listens(planner.port()), "inbound to stop accepting")
    for n in range(20):  # in one worker and in the other
        assert ask(site.agent(planner), "POST", f"/{n}", body=b"x").status == 200
    backend.release()
    assert pending.answer().status == 200
    assert planner.exit_code() == 0
    assert not listens(planner.port("outbound"))


@pytest.mark.threat(54)
def test_threat_54_a_worker_that_is_killed_in_a_drain_is_told_of_and_the_others_finish(
    site: Site, backend: Backend
) -> None:
    tools = site.tools(backend, workers=2).start()
    callers = callers_of_all(site, tools)
    pending = [Pending(caller, "GET", f"/hold/{n}") for n, caller in enumerate(callers)]
    backend.await_held(len(callers))
    tools.signal(signal.SIGTERM)
    tools.await_log(event="drain")
    os.kill(min(worker_pids(tools)), signal.SIGKILL)
    tools.await_log(event="worker", error="worker_gone")
    backend.release()
    statuses = []
    for each in pending:
        with suppress(OSError):
            statuses.append(each.answer().status)
    assert set(statuses) == {200}
    assert len(statuses) < len(callers)
    assert tools.exit_code() == 0
    assert [line["event"] for line in tools.log() if line["event"] != "request"] == ["start", "drain", "worker", "stop"]
    assert tools.stderr.count("a worker is gone") == 1
    assert "exit=-9" in tools.stderr


@pytest.mark.threat(54)
def test_threat_54_the_time_is_one_and_a_second_signal_ends_all(site: Site, backend: Backend) -> None:
    tools = site.tools(backend, workers=2, drain_timeout="300ms").start()
    Pending(site.caller(tools.port()), "GET", "/hold")
    backend.await_held()
    tools.signal(signal.SIGTERM)
    assert tools.exit_code() == 0
    assert "drain_timeout is over" in tools.stderr
    tools.config["drain_timeout"] = "1h"
    tools.start()
    Pending(site.caller(tools.port()), "GET", "/hold")
    backend.await_held(2)
    pids = worker_pids(tools)
    tools.signal(signal.SIGTERM)
    tools.await_log(2, event="drain")
    tools.signal(signal.SIGTERM)
    assert tools.exit_code() == 1
    assert pids
    assert children(tools.running.pid) == {}
    assert not listens(tools.port())


def test_what_a_terminal_sends_to_the_group_is_the_parents_alone(site: Site, backend: Backend) -> None:
    tools = site.tools(backend, workers=2).start()
    pending = Pending(site.caller(tools.port()), "GET", "/hold")
    backend.await_held()
    for pid in worker_pids(tools):
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            site.process("kill", f"-{number.value}", str(pid)).wait()
    assert tools.ready
    tools.signal(signal.SIGINT)
    eventually(lambda: not listens(tools.port()), "the drain to begin")
    backend.release()
    assert pending.answer().status == 200
    assert tools.exit_code() == 0

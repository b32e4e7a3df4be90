"""Ensures that a reload is one for all workers: all of them take it, or none; and that it costs no request."""

from __future__ import annotations

import os
import resource
import signal
import socket
from typing import TYPE_CHECKING

import pytest

from tests.support.eventually import eventually
from tests.support.processes import LOOPBACK, PLANNER, ask, free_port, listens
from tests.support.workers import Agent, callers_of_all, worker_pids

if TYPE_CHECKING:
    from tests.support.backend import Backend
    from tests.support.processes import Site

RELOADS = 10
OTHER = "spiffe://example.org/agent/other/1"


@pytest.mark.threat(24)
def test_threat_24_no_request_is_lost_while_workers_reload(site: Site, backend: Backend) -> None:
    tools = site.tools(backend, workers=2).start()
    planner = site.planner(tools, workers=2).start()
    pids = worker_pids(tools)
    agents = [Agent(site, planner) for _ in range(6)]
    for agent in agents:
        agent.served()
    for number in range(RELOADS):
        rules = [{"caller": PLANNER}] + [{"caller": OTHER}] * (number % 2)
        tools.config["inbound"][0]["allow"] = rules
        if number % 4 == 1:
            site.identity("tools")
        if number % 4 == 3:
            site.identity("planner")
        for sidecar in (tools, planner):
            sidecar.reload()
    for agent in agents:
        agent.served()
        agent.stop()
    assert [error for agent in agents for error in agent.errors] == []
    assert {status for agent in agents for status in agent.answers} == {200}
    assert (tools.reloads("ok"), tools.reloads("failed")) == (RELOADS, 0)
    assert worker_pids(tools) == pids
    assert len(tools.log(event="reload")) == RELOADS, "once, not once for each worker"


def test_it_is_in_force_in_all_workers_when_it_is_said_to_be(site: Site, backend: Backend) -> None:
    tools = site.tools(backend, workers=2).start()
    callers = callers_of_all(site, tools)
    tools.config["inbound"][0]["allow"] = [{"caller": OTHER}]
    tools.reload()
    assert {ask(caller, "GET", "/late").status for caller in callers} == {403}
    assert not backend.of("/late")


def test_a_broken_file_changes_nothing_anywhere(site: Site, backend: Backend) -> None:
    tools = site.tools(backend, workers=2).start()
    callers = callers_of_all(site, tools)
    tools.config["inbound"][0]["allow"] = [{"caller": "planner"}]
    tools.reload(result="failed")
    assert {ask(caller, "GET", "/x").status for caller in callers} == {200}
    tools.config["inbound"][0]["allow"] = [{"caller": PLANNER}]
    tools.config["workers"] = 3
    tools.reload(result="failed")
    assert "workers cannot change while running" in tools.stderr
    assert len(worker_pids(tools)) == 2
    assert {ask(caller, "GET", "/x").status for caller in callers} == {200}


def test_what_one_worker_cannot_make_ready_no_worker_takes(site: Site, backend: Backend) -> None:
    """One of them dies while it is at it: the other one has made it ready and lets go of it again."""
    tools = site.tools(backend, workers=2).start()
    callers = callers_of_all(site, tools)
    tools.config["inbound"][0]["allow"] = [{"caller": OTHER}]
    tools.config["inbound"].append(tools.config["inbound"][0] | {"name": "more", "listen": f"{LOOPBACK}:{free_port()}"})
    hung = min(worker_pids(tools))
    os.kill(hung, signal.SIGSTOP)
    tools.write()
    tools.signal(signal.SIGHUP)
    eventually(lambda: _bound(tools.port(entry=1)), "the parent to have bound the new address, and to have asked")
    os.kill(hung, signal.SIGKILL)
    eventually(lambda: tools.reloads("failed") == 1, "the reload to be refused")
    assert not listens(tools.port(entry=1))
    assert "reload refused, the old configuration serves on" in tools.stderr
    eventually(lambda: tools.metric("workers") == 2, "another worker")
    alive = [caller for caller in callers if _status(caller) is not None]
    assert alive
    assert {_status(caller) for caller in alive} == {200}
    assert ask(site.caller(tools.port()), "GET", "/x").status == 200


def test_listeners_come_and_go_in_all_workers(site: Site, backend: Backend) -> None:
    tools = site.tools(backend, workers=2).start()
    first = tools.port()
    tools.config["inbound"].append(tools.config["inbound"][0] | {"name": "more", "listen": f"{LOOPBACK}:{free_port()}"})
    tools.reload()
    second = tools.port(entry=1)
    assert listens(first)
    assert ask(site.caller(second), "GET", "/x").status == 200
    del tools.config["inbound"][0]
    tools.reload()
    eventually(lambda: not listens(first), "the first listener to go")
    for pid in worker_pids(tools):
        os.kill(pid, signal.SIGKILL)
    eventually(lambda: tools.metric("worker_restarts_total") == 2 and tools.metric("workers") == 2, "two new workers")
    assert ask(site.caller(second), "GET", "/y").status == 200
    assert not listens(first)


def test_an_address_that_is_taken_refuses_it(site: Site, backend: Backend) -> None:
    tools = site.tools(backend, workers=2).start()
    with socket.socket() as taken:
        taken.bind((LOOPBACK, 0))
        taken.listen()
        port = taken.getsockname()[1]
        tools.config["inbound"].append(tools.config["inbound"][0] | {"name": "more", "listen": f"{LOOPBACK}:{port}"})
        tools.reload(result="failed")
    assert "cannot listen on" in tools.stderr
    del tools.config["inbound"][1]
    tools.reload()
    assert ask(site.caller(tools.port()), "GET", "/x").status == 200


@pytest.mark.needs("root")
@pytest.mark.threat(51)
@pytest.mark.skipif(not hasattr(resource, "prlimit"), reason="needs prlimit(2) (Linux)")
def test_threat_51_a_worker_that_has_no_descriptor_for_a_new_listener_refuses_it_and_serves_on(
    site: Site, backend: Backend
) -> None:
    tools = site.tools(backend, workers=2).start()
    callers = callers_of_all(site, tools)
    pids = worker_pids(tools)
    limits = resource.prlimit(min(pids), resource.RLIMIT_NOFILE)
    resource.prlimit(min(pids), resource.RLIMIT_NOFILE, (3, limits[1]))  # all of these are taken
    tools.config["inbound"].append(tools.config["inbound"][0] | {"name": "more", "listen": f"{LOOPBACK}:{free_port()}"})
    tools.reload(result="failed")
    assert "the system does not give what a reload needs: Too many open files" in tools.stderr
    assert tools.log(event="reload", error="reload_system")
    assert not listens(tools.port(entry=1))
    resource.prlimit(min(pids), resource.RLIMIT_NOFILE, limits)
    tools.reload()
    assert listens(tools.port(entry=1))
    assert {ask(caller, "GET", "/kept").status for caller in callers} == {200}
    assert worker_pids(tools) == pids


def test_a_log_that_takes_nothing_does_not_hold_up_the_one_that_a_reload_puts_in_its_place(
    site: Site, backend: Backend
) -> None:
    reading, writing = os.pipe()
    tools = site.tools(backend, workers=2, access_log="stdout").start(stdout=writing)
    os.close(writing)
    callers = callers_of_all(site, tools)
    for caller in callers:
        for _ in range(20):  # more than the pipe takes, and nobody reads it
            assert ask(caller, "GET", "/" + "x" * 4000).status == 200
    tools.config["access_log"] = "tools.log"
    tools.reload()
    assert {ask(caller, "GET", "/after").status for caller in callers} == {200}
    tools.await_log(len(callers), event="request", http_path="/after")
    os.close(reading)


def _bound(port: int) -> bool:
    with socket.socket() as probe:
        try:
            probe.bind((LOOPBACK, port))
        except OSError:
            return True
        return False


def _status(caller: object) -> int | None:
    try:
        return ask(caller, "GET", "/x").status  # type: ignore[arg-type] - a connection
    except OSError:
        return None

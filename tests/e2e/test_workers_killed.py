"""Ensures that a worker that dies costs its own connections and nothing else, and that none outlives the parent."""

from __future__ import annotations

import os
import signal
from typing import TYPE_CHECKING

from tests.support.eventually import eventually
from tests.support.processes import Pending, ask, listens, replace_file
from tests.support.workers import Agent, callers_of_all, connected, worker_pids

if TYPE_CHECKING:
    from tests.support.backend import Backend
    from tests.support.processes import Site


def test_a_killed_worker_is_replaced_and_the_others_go_on(site: Site, backend: Backend) -> None:
    tools = site.tools(backend, workers=2).start()
    callers = callers_of_all(site, tools)
    agents = [Agent(site, tools, "inbound") for _ in range(6)]
    for agent in agents:
        agent.served()
    counted = tools.metric("requests_total")
    victim, other = sorted(worker_pids(tools))
    kept = connected(tools)[other]
    os.kill(victim, signal.SIGKILL)
    tools.await_log(1, event="worker", error="worker_gone")
    eventually(lambda: len(worker_pids(tools)) == 2 and victim not in worker_pids(tools), "another worker")
    assert tools.ready
    for agent in agents:
        agent.served(20)
        agent.stop()
    assert {status for agent in agents for status in agent.answers} == {200}
    lost = sum(len(agent.errors) for agent in agents)
    assert connected(tools)[other] >= kept, "those of the other worker are all there"
    eventually(lambda: len(tools.log(event="worker")) == 2, "the line of the new worker")
    assert [line.get("error") for line in tools.log(event="worker")] == ["worker_gone", None]
    assert f'a worker is gone worker="worker 1" pid={victim}' in tools.stderr or f"pid={victim}" in tools.stderr
    assert "exit=-9" in tools.stderr
    assert tools.metric("requests_total") >= counted, "a sum never goes back"
    assert (tools.metric("workers"), tools.metric("worker_restarts_total")) == (2, 1)
    assert lost <= 2 * len(agents)
    assert callers


def test_the_new_one_has_the_configuration_in_force_not_that_of_the_files(site: Site, backend: Backend) -> None:
    tools = site.tools(backend, workers=2).start()
    in_force = tools.ask("/config").json["policy_version"]
    tools.config["inbound"][0]["allow"] = "nobody knows"
    tools.write()
    replace_file(site.path("tools.key"), b"not a key any more")
    tools.signal(signal.SIGHUP)
    eventually(lambda: tools.reloads("failed") == 1, "the broken files to be refused")
    for pid in worker_pids(tools):
        os.kill(pid, signal.SIGKILL)
    eventually(lambda: tools.metric("worker_restarts_total") == 2 and tools.metric("workers") == 2, "two new workers")
    assert ask(site.caller(tools.port()), "GET", "/x").status == 200
    (line,) = tools.await_log(event="request")
    assert line["policy.version"] == in_force


def test_one_that_dies_again_and_again_is_not_started_without_pause(site: Site, backend: Backend) -> None:
    tools = site.tools(backend, workers=2).start()
    seen: set[int] = set()
    for _ in range(3):
        eventually(lambda: worker_pids(tools) - seen, "another worker")
        for pid in worker_pids(tools) - seen:
            seen.add(pid)
            os.kill(pid, signal.SIGKILL)
    eventually(lambda: not tools.ready, "nobody to serve")
    assert tools.ask("/ready").json["reason"] == "no_worker"
    eventually(lambda: tools.ready, "the pause to be over")
    assert ask(site.caller(tools.port()), "GET", "/x").status == 200


def test_no_worker_outlives_its_parent(site: Site, backend: Backend) -> None:
    tools = site.tools(backend, workers=2).start()
    pending = Pending(site.caller(tools.port()), "GET", "/hold")
    backend.await_held()
    pids = worker_pids(tools)
    tools.kill()
    eventually(lambda: not any(_alive(pid) for pid in pids), "the workers to end")
    assert not listens(tools.port())
    backend.release()
    assert pending is not None
    tools.start()
    assert ask(site.caller(tools.port()), "GET", "/x").status == 200


def _alive(pid: int) -> bool:
    try:
        with open(f"/proc/{pid}/stat") as stat:  # noqa: PTH123 - a file of the kernel's
            return stat.read().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False

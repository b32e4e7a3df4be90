"""Ensures that several worker processes serve as one: requests, metrics, the admin socket, the log."""

from __future__ import annotations

import json
import os
import signal
from contextlib import closing
from typing import TYPE_CHECKING

from tests.support.eventually import eventually
from tests.support.processes import LOOPBACK, PLANNER, UnixConnection, ask, free_port
from tests.support.workers import Agent, callers_of_all, children, connected, worker_pids

if TYPE_CHECKING:
    from tests.support.backend import Backend
    from tests.support.processes import Site

WORKERS = 2


def test_every_worker_serves_and_the_parent_sums(site: Site, backend: Backend) -> None:
    health = {"listen": f"{LOOPBACK}:{free_port()}"}
    tools = site.tools(backend, workers=WORKERS, health=health).start()
    assert len(worker_pids(tools)) == WORKERS
    callers = callers_of_all(site, tools)
    for caller in callers:
        for n in range(10):
            assert ask(caller, "GET", f"/{n}").status == 200
    count = 11 * len(callers)
    assert len(backend.requests) == count
    assert tools.metric("requests_total", direction="inbound", status_class="2xx") == count
    assert tools.metric("request_duration_seconds_count") == count
    assert tools.metric("connections", direction="inbound") == len(callers) == sum(connected(tools).values())
    assert (tools.metric("workers"), tools.metric("worker_restarts_total")) == (WORKERS, 0)
    assert tools.metric("policy_info") == tools.metric("build_info") == tools.metric("key_info") == 1
    expiry = tools.ask("/certs").json["certs"][0]["not_after"]
    assert tools.metric("certificate_expiry_timestamp_seconds") == expiry
    scraped = ask(site.at(health["listen"]), "GET", "/metrics")
    assert f"sidecar_workers {WORKERS}.0" in scraped.body.decode()
    head = ask(site.at(health["listen"]), "HEAD", "/metrics")
    assert (head.status, head.body) == (200, b"")
    config = tools.ask("/config").json
    assert (config["workers"], config["limits"]["connections"]) == (WORKERS, 4096), "of all of them together"
    lines = tools.await_log(count, event="request")
    assert len(lines) == count
    assert len({line["decision.id"] for line in lines}) == count
    assert tools.stop() == 0
    assert [line["event"] for line in tools.log() if line["event"] != "request"] == ["start", "drain", "stop"]
    assert children(tools.running.pid) == {}


def test_the_log_has_whole_lines_in_a_pipe(site: Site, backend: Backend) -> None:
    """More at once than a pipe takes whole, from two processes, to a reader that is slow."""
    reading, writing = os.pipe()
    tools = site.tools(backend, workers=WORKERS, access_log="stdout").start(stdout=writing)
    os.close(writing)
    paths = ["/" + "x" * 2000 + str(n) for n in range(40)]
    for caller in callers_of_all(site, tools):
        for path in paths:
            assert ask(caller, "GET", path).status == 200
    tools.signal(signal.SIGTERM)
    data = b""
    while more := os.read(reading, 3000):
        data += more
    os.close(reading)
    assert tools.exit_code() == 0
    lines = [json.loads(line) for line in data.splitlines()]
    assert len([line for line in lines if line["event"] == "request"]) == len(backend.requests)
    assert lines[-1]["event"] == "stop"


def test_limits_are_divided(site: Site, backend: Backend) -> None:
    tools = site.tools(backend, workers=WORKERS, limits={"connections": 40}).start()
    callers = callers_of_all(site, tools)
    share = 40 // WORKERS
    while tools.metric("limit_hits_total", limit="connections") == 0:
        callers.append(site.caller(tools.port()))
        try:
            assert ask(callers[-1], "GET", "/x").status == 200
        except OSError:
            break
    assert max(connected(tools).values()) <= share
    eventually(lambda: tools.metric("limit_hits_total", limit="connections") >= 1, "the limit to be counted")


def test_a_pair_with_workers_on_both_sides(site: Site, backend: Backend) -> None:
    tools = site.tools(backend, workers=WORKERS).start()
    planner = site.planner(tools, workers=3).start()
    agents = [Agent(site, planner) for _ in range(8)]
    for agent in agents:
        agent.served()
    for agent in agents:
        agent.stop()
    assert {status for agent in agents for status in agent.answers} == {200}
    count = sum(len(agent.answers) for agent in agents)
    assert len(backend.requests) == count
    assert planner.metric("requests_total") == tools.metric("requests_total") == count
    (line, *_) = planner.await_log(count, event="request")
    assert line["src.identity"] == PLANNER


def test_what_each_process_is_can_be_seen(site: Site, backend: Backend) -> None:
    tools = site.tools(backend, workers=WORKERS).start()
    commands = sorted(children(tools.running.pid).values())
    assert [" worker --of tools.yaml --number 1 " in commands[0], " --number 2 " in commands[1]] == [True, True]
    for pid in worker_pids(tools):
        assert os.getpgid(pid) == pid, "what is typed at a terminal is for the parent alone"


def test_one_that_hangs_is_named_and_not_waited_for(site: Site, backend: Backend) -> None:
    tools = site.tools(backend, workers=WORKERS).start()
    callers = callers_of_all(site, tools)
    before = tools.metric("requests_total")
    hung, other = sorted(worker_pids(tools))
    os.kill(hung, signal.SIGSTOP)
    try:
        answer = tools.ask("/connections").json
        assert answer["silent_workers"] == [hung]
        assert {each["worker"] for each in answer["connections"]} == {other}
        assert tools.metric("requests_total") == before, "what it said last"
        eventually(lambda: tools.ask("/ready").json.get("reason") == "worker_late", "it to be missed")
        assert ask(site.caller(tools.port()), "GET", "/other").status == 200
    finally:
        os.kill(hung, signal.SIGCONT)
    eventually(lambda: tools.ready, "it to answer again")
    assert worker_pids(tools) == {hung, other}
    assert len(callers) >= WORKERS


def test_unix_sockets_are_shared_as_well(site: Site, backend: Backend) -> None:
    """Their files are the parent's: there while it lives, whichever worker dies, and gone with it."""
    path = site.path("agent.sock")
    tools = site.tools(backend).start()
    planner = site.planner(tools, {"listen": f"unix:{path}"}, workers=WORKERS).start()
    while set(connected(planner)) != worker_pids(planner):
        agent = UnixConnection(path)
        site.owns(agent.close)
        assert ask(agent, "GET", "/x").status == 200
    os.kill(min(worker_pids(planner)), signal.SIGKILL)
    eventually(lambda: planner.metric("worker_restarts_total") == 1 and planner.metric("workers") == 2, "another one")
    assert path.is_socket()
    with closing(UnixConnection(path)) as agent:
        assert ask(agent, "GET", "/y").status == 200
    assert planner.stop() == 0
    assert not path.exists()


def test_tokens_are_those_of_all_workers(site: Site, backend: Backend) -> None:
    source = {"name": "mesh", "kind": "self-signed", "audience": "https://tools.internal", "helper": True}
    tools = site.tools(backend).start()
    planner = site.planner(tools, {"token": "mesh"}, tokens=[source], workers=WORKERS).start()
    while set(connected(planner)) != worker_pids(planner):
        assert ask(site.agent(planner), "GET", "/x").status == 200
    (shown,) = planner.ask("/tokens").json["tokens"]
    assert (shown["name"], shown["helper"]) == ("mesh", True)
    assert {each["worker"] for each in shown["tokens"]} == worker_pids(planner)
    given = planner.ask("/tokens/mesh", "POST")
    assert (given.status, given.json["token"].count(".")) == (200, 2)
    assert planner.ask("/tokens/none", "POST").status == 404
    assert site.command("token", str(planner.file), "mesh").stdout.count(".") == 2


def test_what_a_worker_cannot_do_ends_the_start(site: Site, backend: Backend) -> None:
    tools = site.tools(backend, workers=WORKERS, access_log="nowhere/tools.log").launch()
    assert tools.exit_code() == 1
    assert "the access log" in tools.stderr
    assert "Traceback" not in tools.stderr
    taken = site.tools(backend.port, workers=WORKERS)
    taken.config["inbound"][0]["listen"] = f"{LOOPBACK}:{backend.port}"
    assert taken.launch().exit_code() in {1, 2}
    assert children(taken.running.pid) == {}


def test_a_worker_that_hangs_keeps_no_token_from_whoever_asks(site: Site, backend: Backend) -> None:
    source = {"name": "mesh", "kind": "self-signed", "audience": "https://tools.internal", "helper": True}
    planner = site.planner(1, tokens=[source], workers=WORKERS).start()
    running = children(planner.running.pid)
    (first,) = (pid for pid, command in running.items() if " --number 1 " in command)
    os.kill(first, signal.SIGSTOP)
    try:
        assert site.command("token", str(planner.file), "mesh").stdout.count(".") == 2
        assert first in worker_pids(planner), "it was answered before the worker was given up"
    finally:
        os.kill(first, signal.SIGCONT)

"""Ensures that the log can go to standard output or to a file that is rotated, and that a sink that fails stops nobody.

A reader of standard output that goes away (EPIPE) and a full disk (ENOSPC) cost lines, which are counted, and no request;
with ``log_full: deny`` they cost requests instead, as the operator asked.
"""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests.support.eventually import eventually
from tests.support.processes import ask
from tests.support.workers import callers_of_all

if TYPE_CHECKING:
    from tests.support.backend import Backend
    from tests.support.processes import Site


def test_standard_output_has_the_log_and_nothing_else(site: Site, backend: Backend) -> None:
    tools = site.tools(backend, access_log="stdout").start()
    assert ask(site.caller(tools.port()), "GET", "/x").status == 200
    assert tools.stop() == 0
    lines = [json.loads(line) for line in tools.stdout.splitlines()]
    assert [line["event"] for line in lines] == ["start", "request", "drain", "stop"]
    assert " info ready identity=" in tools.stderr


def test_a_rotated_file_is_left_behind_whole(site: Site, backend: Backend) -> None:
    """As logrotate does it: move the file, send SIGHUP. No line is lost, doubled or cut."""
    tools = site.tools(backend).start()
    caller = site.caller(tools.port())
    moved = site.path("tools.log.1")
    for n in range(20):
        assert ask(caller, "GET", f"/{n}").status == 200
        if n == 9:
            tools.await_log(10, event="request")
            tools.log_file.rename(moved)
            tools.reload()
    tools.await_log(10, event="request")
    old = [json.loads(line) for line in moved.read_text().splitlines()]
    new = tools.log()
    paths = [line["http.path"] for line in old + new if line["event"] == "request"]
    assert paths == [f"/{n}" for n in range(20)]
    assert new[0]["event"] == "reload" or old[-1]["event"] == "reload"
    assert (tools.log_file.stat().st_mode & 0o777) in {0o640, 0o600}


@pytest.mark.parametrize("workers", [1, 2])
def test_a_rotated_file_is_left_behind_whatever_becomes_of_the_reload(
    site: Site, backend: Backend, workers: int
) -> None:
    """A configuration with a fault waits in the file for the next rotation, and must not cost a line then."""
    tools = site.tools(backend, workers=workers).start()
    callers = callers_of_all(site, tools) if workers > 1 else [site.caller(tools.port())]
    assert {ask(caller, "GET", "/before").status for caller in callers} == {200}
    tools.await_log(len(callers), http_path="/before")
    moved = site.path("tools.log.1")
    tools.log_file.rename(moved)
    del tools.config["inbound"][0]["allow"]
    tools.reload(result="failed")
    assert {ask(caller, "GET", "/after").status for caller in callers} == {200}
    tools.await_log(len(callers), http_path="/after")
    assert b"/after" not in moved.read_bytes()


@pytest.mark.threat(51)
def test_threat_51_a_reader_that_goes_away_costs_lines_and_no_request(site: Site, backend: Backend) -> None:
    reading, writing = os.pipe()
    tools = site.tools(backend, access_log="stdout").start(stdout=writing)
    os.close(writing)
    caller = site.caller(tools.port())
    assert ask(caller, "GET", "/before").status == 200
    os.close(reading)
    for n in range(5):
        assert ask(caller, "GET", f"/{n}").status == 200
    eventually(lambda: tools.metric("log_dropped_total") >= 5, "the lost lines to be counted")
    assert tools.ready
    tools.await_stderr("the access log takes no lines error=EPIPE")
    assert tools.stop() == 0
    assert "Traceback" not in tools.stderr
    assert "BrokenPipe" not in tools.stderr


@pytest.mark.threat(51)
@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full, a disk that is always full (Linux)")
def test_threat_51_a_full_disk_denies_only_where_that_was_asked_for(site: Site, backend: Backend) -> None:
    tools = site.tools(backend, access_log="/dev/full").start()
    caller = site.caller(tools.port())
    assert {ask(caller, "GET", f"/{n}").status for n in range(5)} == {200}
    tools.await_stderr("the access log takes no lines error=ENOSPC")
    assert tools.ready
    strict = site.planner(tools, access_log="/dev/full", log_full="deny").start()
    strict.await_stderr("the access log takes no lines error=ENOSPC")
    agent = site.agent(strict)
    eventually(lambda: ask(agent, "GET", "/until").status == 503, "requests to be denied")
    answer = ask(agent, "GET", "/strict")
    assert (answer.status, answer.json["error"]) == (503, "log_full")
    assert not backend.of("/strict")
    for sidecar in (strict, tools):
        sidecar.kill()  # an orderly end would wait for the disk, for the seconds it is given

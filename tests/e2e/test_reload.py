"""Ensures that a changed configuration is taken: at once on SIGHUP, by itself when two looks a second apart agree.

The connection stays open over it, and its next request is decided by the new rules: a caller that was removed gets 403
on the very connection on which it was served before, and one that was added is served.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from sidecar.app.watch import LOOK_SECONDS
from tests.support.eventually import eventually
from tests.support.processes import PLANNER, ask, replace_file

if TYPE_CHECKING:
    import http.client

    from tests.support.backend import Backend
    from tests.support.processes import Sidecar, Site

OTHER = "spiffe://example.org/agent/other/1"


def allow(tools: Sidecar, *callers: str) -> None:
    tools.config["inbound"][0]["allow"] = [{"caller": caller} for caller in callers]


def socket_of(connection: http.client.HTTPConnection) -> object:
    assert connection.sock is not None, "the connection was closed"
    return connection.sock


def test_sighup_decides_the_next_request_of_an_open_connection_anew(site: Site, backend: Backend) -> None:
    tools = site.tools(backend).start()
    planner, other = site.caller(tools.port()), site.caller(tools.port(), "other")
    assert ask(planner, "GET", "/1").status == 200
    assert ask(other, "GET", "/1").status == 403
    before = socket_of(planner)
    version = tools.await_log(http_path="/1", decision="allow")[0]["policy.version"]
    allow(tools, OTHER)
    tools.reload()
    assert socket_of(planner) is before, "the reload leaves the connection open"
    denied = ask(planner, "GET", "/2")
    assert denied.status == 403
    assert planner.sock is None, "denied and closed: nothing on this connection could be allowed any more"
    assert ask(other, "GET", "/2").status == 200
    assert [request.path for request in backend.requests] == ["/1", "/2"]
    assert set(denied.json) == {"error", "decision_id"}
    (line,) = tools.await_log(decision_id=denied.json["decision_id"])
    assert line["decision.reason"] == "caller_not_named"
    assert line["src.identity"] == PLANNER
    assert line["policy.version"] != version
    (reload,) = tools.log(event="reload")
    assert reload["policy.version"] == line["policy.version"]
    assert tools.ask("/config").json["policy_version"] == line["policy.version"]


def test_a_changed_file_is_taken_without_a_signal(site: Site, backend: Backend) -> None:
    """The rules first, then the identity's own files: both are looked at."""
    tools = site.tools(backend).start()
    other = site.caller(tools.port(), "other")
    assert ask(other, "GET", "/1").status == 403
    allow(tools, PLANNER, OTHER)
    tools.write()
    eventually(lambda: tools.reloads("ok") == 1, "the changed file to be taken")
    assert ask(other, "GET", "/2").status == 200
    serial = tools.ask("/certs").json["certs"][0]["serial"]
    site.identity("tools")
    eventually(lambda: tools.reloads("ok") == 2, "the changed certificate to be taken")
    assert tools.ask("/certs").json["certs"][0]["serial"] != serial
    assert 'cause="a changed file"' in tools.stderr


def test_a_file_that_keeps_changing_is_not_taken_before_it_settles(site: Site, backend: Backend) -> None:
    """A half-written rule list can be wider than the whole: what two looks do not agree on is never in force.

    The file alternates between two policies for as long as two looks take, and settles on the wider one.
    """
    tools = site.tools(backend).start()
    narrow = tools.file.read_bytes()
    allow(tools, PLANNER, OTHER)
    tools.write()
    wide = tools.file.read_bytes()
    replace_file(tools.file, narrow)
    other = site.caller(tools.port(), "other")
    answers = set()
    end = time.monotonic() + 2.2 * LOOK_SECONDS
    while time.monotonic() < end:
        replace_file(tools.file, wide)
        answers.add(ask(other, "GET", "/wide").status)
        replace_file(tools.file, narrow)
        answers.add(ask(other, "GET", "/narrow").status)
    assert answers == {403}
    assert tools.log(event="reload") == []
    replace_file(tools.file, wide)
    eventually(lambda: ask(other, "GET", "/settled").status == 200, "the settled file to be taken")

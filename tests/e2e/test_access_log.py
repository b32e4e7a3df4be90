"""Ensures that each request is one line of JSON on either side, with the fields that DESIGN promises and no secret.

Both lines of one call can be brought together by its trace, each names both proven identities, and a denied call's line is
found by the id that the caller was told.
"""

from __future__ import annotations

import hashlib
import re
import ssl
from datetime import datetime
from typing import TYPE_CHECKING

import pytest

from tests.support.ca import Ca
from tests.support.eventually import eventually
from tests.support.processes import PLANNER, TOOLS, ask, now

if TYPE_CHECKING:
    from tests.support.backend import Backend
    from tests.support.processes import Pair, Site

TRACE = "0af7651916cd43dd8448eb211c80319c"
COMMON = {
    "time",
    "event",
    "direction",
    "listener",
    "src.identity",
    "src.addr",
    "src.pin",
    "dst.identity",
    "dst.addr",
    "http.method",
    "http.path",
    "http.status",
    "bytes_sent",
    "bytes_received",
    "duration_ms",
    "decision",
    "decision.rule",
    "decision.id",
    "policy.version",
    "cert.serial",
    "key.protection",
    "session.id",
    "trace.id",
}


def test_one_call_is_one_line_on_either_side(shared: Pair) -> None:
    session = "9f6d2a50-secret-enough"
    answer = ask(
        shared.site.agent(shared.planner),
        "POST",
        "/log-both?token=hush",
        body=b"12345",
        headers={
            "Host": "tools.internal",
            "Authorization": "Bearer hush",
            "traceparent": f"00-{TRACE}-b7ad6b7169203331-01",
            "mcp-session-id": session,
        },
    )
    assert answer.status == 200
    (outer,) = shared.planner.await_log(http_path="/log-both")
    (inner,) = shared.tools.await_log(http_path="/log-both")
    assert set(outer) == COMMON | {"dst.name", "src.uid"}
    assert set(inner) == COMMON
    identities = {
        "src.identity": PLANNER,
        "dst.identity": TOOLS,
        "http.method": "POST",
        "http.status": 200,
        "bytes_received": 5,
        "bytes_sent": 6,
        "decision": "allow",
        "trace.id": TRACE,
        "session.id": hashlib.sha256(session.encode()).hexdigest()[:16],
        "key.protection": "software",
        "event": "request",
    }
    for line in (outer, inner):
        assert {name: line[name] for name in identities} == identities
        assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z", line["time"])
        assert abs(datetime.fromisoformat(line["time"]).timestamp() - now()) < 60
        assert 0 < line["duration_ms"] < 20_000
    assert (outer["direction"], outer["decision.rule"]) == ("outbound", "outbound.tools")
    assert (inner["direction"], inner["decision.rule"]) == ("inbound", "inbound.tools.allow[0]")
    assert outer["dst.name"] == "tools.internal"
    assert outer["dst.addr"] == f"127.0.0.1:{shared.tools.port()}"
    assert inner["dst.addr"] == f"127.0.0.1:{shared.backend.port}"
    assert outer["src.pin"] == inner["src.pin"] == shared.planner.ask("/certs").json["certs"][0]["pin"]
    assert outer["decision.id"] != inner["decision.id"]
    assert outer["cert.serial"] == shared.tools.ask("/certs").json["certs"][0]["serial"]
    assert inner["cert.serial"] == shared.planner.ask("/certs").json["certs"][0]["serial"]
    text = shared.planner.log_file.read_text() + shared.tools.log_file.read_text()
    assert "hush" not in text
    assert session not in text


def test_a_denial_is_found_by_what_the_caller_was_told(site: Site, backend: Backend) -> None:
    tools = site.tools(
        backend, allow=[{"caller": PLANNER, "name": "readers", "methods": ["GET"], "paths": ["/open/**"]}]
    )
    tools.start()
    caller = site.caller(tools.port())
    reasons = {}
    for method, path in (("POST", "/open/x"), ("GET", "/closed"), ("GET", "/open/../closed"), ("GET", "/open/x")):
        answer = ask(caller, method, path)
        if answer.status == 200:
            continue
        assert answer.fields["content-type"] == "application/json"
        assert set(answer.json) == {"error", "decision_id"}
        assert answer.json["error"] == "denied"
        (line,) = tools.await_log(decision_id=answer.json["decision_id"])
        assert (line["decision"], line["http.status"], line["http.path"]) == ("deny", answer.status, path)
        assert "decision.rule" not in line
        reasons[method, path] = (answer.status, line["decision.reason"])
    assert reasons[("POST", "/open/x")] == (403, "method_not_allowed")
    assert reasons[("GET", "/closed")] == (403, "path_not_allowed")
    assert reasons[("GET", "/open/../closed")][0] == 400
    (line,) = tools.await_log(decision="allow")
    assert (line["http.path"], line["decision.rule"]) == ("/open/x", "readers")
    assert [request.path for request in backend.requests] == ["/open/x"]


def test_a_refused_connection_is_one_line_too(site: Site, backend: Backend) -> None:
    planner, tools = site.pair(backend)
    site.identity("forged", "/agent/planner/1", ca=Ca(key="stranger", now=now()))
    with pytest.raises((ssl.SSLError, ConnectionError)):
        ask(site.caller(tools.port(), "forged"), "GET", "/")
    (line,) = tools.await_log(event="refused")
    assert (line["decision"], line["decision.reason"], line["direction"]) == ("deny", "authority_unknown", "inbound")
    assert line["src.addr"].startswith("127.0.0.1:")
    assert "src.identity" not in line, "nothing was proven"
    tools.stop()
    assert ask(site.agent(planner), "GET", "/down").json["error"] == "upstream_refused"
    (line,) = planner.await_log(http_path="/down")
    assert (line["http.status"], line["error"], line["decision"]) == (502, "upstream_refused", "allow")
    assert "dst.identity" not in line


@pytest.mark.threat(44)
def test_threat_44_no_request_can_forge_or_break_a_line(shared: Pair) -> None:
    agent = shared.site.agent(shared.planner)
    agent.connect()
    path = b"/log-forged/" + bytes([0x22, 0x5C]) + b"%0a%1b[2J\xff\xfe{}" + b"a" * 9000
    agent.sock.sendall(b"GET " + path + b' HTTP/1.1\r\nHost: localhost\r\nX-Session-Id: \xff"\r\n\r\n')
    assert agent.sock.recv(65536).startswith(b"HTTP/1.1 ")
    eventually(lambda: "/log-forged" in shared.planner.log_file.read_text() or refused(shared), "its line")
    for line in shared.planner.log_file.read_bytes().splitlines():
        assert line.startswith(b'{"time":"')
        assert len(line) < 8192
        assert line.isascii()
    assert shared.planner.log()


def refused(shared: Pair) -> bool:
    return any(line.get("http.status") == 400 for line in shared.planner.log())


def test_a_stream_that_the_caller_leaves_is_one_line_at_its_end(site: Site, backend: Backend) -> None:
    tools = site.tools(backend).start()
    caller = site.caller(tools.port())
    caller.request("GET", "/events")
    response = caller.getresponse()
    backend.emit("one")
    assert response.readline() == b"data: one\n"
    assert not tools.log(event="request")
    caller.close()
    response.close()
    (line,) = tools.await_log(event="request")
    assert line["error"] == "client_closed"
    assert line["bytes_sent"] == len(b"data: one\n\n")
    eventually(lambda: backend.abandoned == 1, "the backend to be told")

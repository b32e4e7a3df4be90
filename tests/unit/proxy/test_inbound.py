"""The inbound side: named callers only, their identity proven and passed on, and again for each request."""

from __future__ import annotations

import asyncio
import json
from typing import TYPE_CHECKING

import pytest

from sidecar.policy.paths import PathPattern
from sidecar.policy.table import Table
from sidecar.proxy.inbound import InboundService
from sidecar.proxy.outbound import TlsDestination
from sidecar.tls.contexts import server_context
from tests.support.ca import HOUR, Ca
from tests.support.clock import Shifted
from tests.support.pair import CLOCK, Plan, Upstream, World, credentials, own, read_head, rule, world

if TYPE_CHECKING:
    from pathlib import Path

    from sidecar.policy.rules import Rule

GET = b"GET /mcp HTTP/1.1\r\nHost: tools.internal\r\n\r\n"
NOBODY = Plan(allow=(rule("spiffe://example.org/agent/somebody/*"),))


def replaced(w: World, *rules: Rule, fresh_tls: bool = True) -> InboundService:
    """The service that a reload would make: other rules, its own TLS context, the same pool."""
    old = w.inbound.service
    assert isinstance(old, InboundService)
    tls = server_context(credentials(w.tools), w.ca.bundles) if fresh_tls else old.tls
    return InboundService(w.hub, "tools", own(w.tools), tls, Table.compile(rules, "fedcba9876543210"), old.pool)


# -- denials ----------------------------------------------------------------------------------------------------------


async def test_a_caller_that_nobody_named_gets_403_and_nothing_else(tmp_path: Path) -> None:
    async with world(tmp_path, NOBODY) as w:
        caller = await w.caller()
        response = await caller.ask(GET)
        assert response.status == 403
        assert response.field(b"content-type") == b"application/json"
        (line,) = await w.logged(1, direction="inbound")
        assert json.loads(response.body) == {"error": "denied", "decision_id": line["decision.id"]}
        assert line["decision"] == "deny"
        assert line["decision.reason"] == "caller_not_named"
        assert line["src.identity"] == "spiffe://example.org/agent/planner/1"
        assert line["src.pin"] == str(w.planner.pin)
        assert line["policy.version"] == "0123456789abcdef"
        assert line["bytes_sent"] == len(response.body)
        assert line["duration_ms"] >= 0
        assert "decision.rule" not in line
        assert w.upstream.connections == 0
        assert w.counted("denied_total", "caller_not_named") == 1
        assert w.counted("requests_total", "inbound", "tools", "deny", "4xx") == 1


async def test_a_denial_goes_back_to_the_agent_as_it_is(tmp_path: Path) -> None:
    async with world(tmp_path, NOBODY) as w:
        agent = await w.plain()
        response = await agent.ask(GET)
        assert response.status == 403
        (inner,) = await w.logged(1, direction="inbound")
        (outer,) = await w.logged(1, direction="outbound")
        assert json.loads(response.body)["decision_id"] == inner["decision.id"]
        assert outer["decision"] == "allow"
        assert outer["http.status"] == 403
        assert outer["trace.id"] == inner["trace.id"]


async def test_a_denial_without_a_body_keeps_the_connection(tmp_path: Path) -> None:
    async with world(tmp_path, Plan(allow=(rule(paths=(PathPattern.parse("/mcp"),)),))) as w:
        caller = await w.caller()
        for _ in range(3):
            assert (await caller.ask(b"GET /admin HTTP/1.1\r\nHost: a\r\n\r\n")).status == 403
            assert (await caller.ask(GET)).body == b"hello"
        assert (await caller.ask(b"HEAD /admin HTTP/1.1\r\nHost: a\r\n\r\n")).status == 403
        assert (await caller.ask(GET)).body == b"hello"
        await w.logged(4, decision_reason="path_not_allowed")
        assert w.counted("handshakes_total", "server", "ok", "false") == 1


@pytest.mark.parametrize("framing", [b"Content-Length: 5", b"Transfer-Encoding: chunked"])
async def test_a_denial_before_the_body_has_come_ends_the_connection(tmp_path: Path, framing: bytes) -> None:
    async with world(tmp_path, Plan(allow=(rule(paths=(PathPattern.parse("/mcp"),)),))) as w:
        caller = await w.caller()
        response = await caller.ask(b"POST /admin HTTP/1.1\r\nHost: a\r\n" + framing + b"\r\n\r\n")
        assert (response.status, response.field(b"connection")) == (403, b"close")
        caller.send(GET)
        assert await caller.rest() == b""
        assert w.upstream.heads == []


@pytest.mark.parametrize("framing", [b"Content-Length: 300000", b"Transfer-Encoding: chunked"])
async def test_a_denial_can_be_read_by_who_is_still_sending(tmp_path: Path, framing: bytes) -> None:
    async with world(tmp_path, NOBODY) as w:
        caller = await w.caller()
        piece = b"x" * 1000 if b"Length" in framing else b"3e8\r\n" + b"x" * 1000 + b"\r\n"
        caller.send(b"POST /mcp HTTP/1.1\r\nHost: a\r\n%b\r\n\r\n" % framing)
        for _ in range(300):
            caller.send(piece)
        response = await caller.response(b"POST")
        assert response.status == 403
        assert response.field(b"connection") == b"close"
        assert await caller.rest() == b""
        assert caller.end.eof
        assert not caller.reset
        assert w.upstream.connections == 0
        await w.logged(1, decision_reason="caller_not_named")
        caller.close()
        await w.eventually(lambda: not w.hub.connections)


async def test_a_lingering_close_has_an_end_in_bytes(tmp_path: Path) -> None:
    async with world(tmp_path, NOBODY) as w:
        caller = await w.caller()
        caller.send(b"POST /mcp HTTP/1.1\r\nHost: a\r\nContent-Length: 1000000000\r\n\r\n")
        sent = 0
        while not caller.writer.transport.is_closing() and sent < 50_000_000:
            try:
                caller.send(b"x" * 100_000)
                await asyncio.wait_for(caller.writer.drain(), 5)
            except ConnectionError:
                break
            sent += 100_000
        assert sent < 50_000_000
        await w.eventually(lambda: not w.hub.connections)


async def test_a_lingering_close_has_an_end_in_time(tmp_path: Path) -> None:
    shifted = Shifted()
    async with world(tmp_path, Plan(allow=NOBODY.allow, clock=shifted.clock)) as w:
        caller = await w.caller()
        caller.send(b"POST /mcp HTTP/1.1\r\nHost: a\r\nContent-Length: 10\r\n\r\n")
        assert (await caller.response()).status == 403
        assert len(w.hub.connections) == 1
        shifted.monotonic += 1.1
        await w.eventually(lambda: not w.hub.connections)


async def test_a_caller_may_be_denied_by_method(tmp_path: Path) -> None:
    async with world(tmp_path, Plan(allow=(rule(methods=frozenset({b"GET"})),))) as w:
        caller = await w.caller()
        assert (await caller.ask(b"DELETE /mcp HTTP/1.1\r\nHost: a\r\n\r\n")).status == 403
        assert (await caller.ask(GET)).status == 200
        await w.logged(1, decision_reason="method_not_allowed", http_method="DELETE")


@pytest.mark.parametrize("line", [b"CONNECT tools.internal:443", b"TRACE /mcp"])
async def test_connect_and_trace_are_405(tmp_path: Path, line: bytes) -> None:
    async with world(tmp_path) as w:
        caller = await w.caller()
        response = await caller.ask(line + b" HTTP/1.1\r\nHost: tools.internal:443\r\n\r\n")
        assert response.status == 405
        assert response.field(b"allow") is not None
        assert w.upstream.connections == 0
        await w.logged(1, decision_reason="method_refused")


@pytest.mark.threat(13)
async def test_threat_13_a_caller_with_another_key_than_the_pinned_one_is_denied(tmp_path: Path) -> None:
    other = Ca(now=CLOCK.wall()).leaf("/agent/other/1", now=CLOCK.wall())
    async with world(tmp_path, Plan(allow=(rule(pins=frozenset({other.pin})),))) as w:
        caller = await w.caller()
        assert (await caller.ask(GET)).status == 403
        await w.logged(1, decision_reason="pin_mismatch")
        assert w.upstream.connections == 0


@pytest.mark.threat(16)
@pytest.mark.parametrize(
    "path", [b"//mcp", b"/x/../mcp", b"/mcp%2f", b"/mcp\\", b"/x/%2e%2e/mcp", b"/mcp%00", b"/x/..;/mcp", b"/mcp%zz"]
)
async def test_threat_16_an_ambiguous_path_is_400_and_not_forwarded(tmp_path: Path, path: bytes) -> None:
    async with world(tmp_path) as w:
        caller = await w.caller()
        caller.send(b"GET " + path + b" HTTP/1.1\r\nHost: a\r\n\r\n")
        assert (await caller.response()).status == 400
        assert w.upstream.connections == 0
        await w.logged(1, decision="deny", http_status=400)


@pytest.mark.threat(16)
async def test_threat_16_what_was_decided_is_what_is_sent(tmp_path: Path) -> None:
    allowed = PathPattern.parse("/%6dcp")
    async with world(tmp_path, Plan(allow=(rule(paths=(allowed,)),))) as w:
        caller = await w.caller()
        assert (await caller.ask(b"GET /%6dcp?q=%2e%2e/ HTTP/1.1\r\nHost: a\r\n\r\n")).status == 200
        assert (await caller.ask(GET)).status == 403
        assert w.upstream.heads[0].startswith(b"GET /%6dcp?q=%2e%2e/ HTTP/1.1\r\n")
        assert len(w.upstream.heads) == 1


# -- absolute form ----------------------------------------------------------------------------------------------------


@pytest.mark.threat(17, 26)
async def test_threats_17_26_an_absolute_target_goes_to_the_agent_and_nowhere_else(tmp_path: Path) -> None:
    async with world(tmp_path) as w, Upstream() as elsewhere:
        caller = await w.caller()
        authority = b"127.0.0.1:%d" % elsewhere.port
        request = b"GET https://%b/latest/meta-data HTTP/1.1\r\nHost: %b\r\n\r\n" % (authority, authority)
        assert (await caller.ask(request)).status == 200
        assert w.upstream.heads[0].startswith(b"GET /latest/meta-data HTTP/1.1\r\nHost: %b\r\n" % authority)
        assert elsewhere.connections == 0


@pytest.mark.threat(17)
async def test_threat_17_an_absolute_target_that_differs_from_host_is_400(tmp_path: Path) -> None:
    async with world(tmp_path) as w:
        caller = await w.caller()
        caller.send(b"GET https://a/x HTTP/1.1\r\nHost: b\r\n\r\n")
        assert (await caller.response()).status == 400
        assert w.upstream.connections == 0
        await w.logged(1, error="host_mismatch")


# -- identity ---------------------------------------------------------------------------------------------------------

SPOOFED = (
    b"x-forwarded-client-cert: By=spiffe://example.org/evil;Hash=00;URI=spiffe://example.org/root\r\n"
    b"X_Forwarded_Client_Cert: twice\r\nX-Sidecar-Caller: spiffe://example.org/root\r\nx_sidecar-CALLER: x\r\n"
    b"X-SPIFFE-ID: spiffe://example.org/root\r\nForwarded: for=1.2.3.4\r\nX-Forwarded-For: 1.2.3.4\r\n"
    b"X-Real-IP: 1.2.3.4\r\nVia: 1.1 x\r\n"
)


@pytest.mark.threat(14, 15, 39)
@pytest.mark.parametrize("through", ["both sidecars", "inbound alone"])
async def test_threats_14_15_39_the_upstream_sees_one_identity_and_it_is_the_proven_one(
    tmp_path: Path, through: str
) -> None:
    async with world(tmp_path) as w:
        client = await (w.plain() if through == "both sidecars" else w.caller())
        hop = (
            b"Connection: close, X-Sidecar-Caller, x-forwarded-client-cert, Host, Content-Length, Authorization, X-Mine\r\n"
            b"Keep-Alive: timeout=5\r\nProxy-Authorization: Basic eDp5\r\nTE: trailers\r\nUpgrade: h2c\r\nX-Mine: 1\r\n"
            b"Authorization: Bearer secret\r\nContent-Length: 2\r\n"
        )
        client.send(b"POST /mcp HTTP/1.1\r\nHost: tools.internal\r\n" + SPOOFED + hop + b"\r\nhi")
        assert (await client.response()).status == 200
        (head,) = w.upstream.heads
        lines = head.split(b"\r\n")[1:-2]
        names = [line.split(b":")[0].lower() for line in lines]
        xfcc = b"By=spiffe://example.org/agent/tools/1;Hash="
        assert sorted(names) == sorted(
            [b"host", b"content-length", b"traceparent", b"x-forwarded-client-cert", b"x-sidecar-caller"]
        )
        assert b"x-sidecar-caller: spiffe://example.org/agent/planner/1" in lines
        (value,) = [line for line in lines if line.startswith(b"x-forwarded-client-cert: ")]
        assert value.startswith(b"x-forwarded-client-cert: " + xfcc)
        assert value.endswith(b";URI=spiffe://example.org/agent/planner/1")
        assert b"Host: tools.internal" in lines
        assert w.upstream.bodies == [b"hi"]


@pytest.mark.threat(14, 39)
async def test_threats_14_39_a_response_says_nothing_of_identity_and_nothing_hop_by_hop(tmp_path: Path) -> None:
    answer = (
        b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nConnection: X-Mine\r\nX-Mine: 1\r\nKeep-Alive: timeout=5\r\n"
        b"X-Sidecar-Caller: me\r\nx_forwarded_client_cert: me\r\nProxy-Authenticate: x\r\nUpgrade: h2c\r\nX-A: 1\r\n\r\nok"
    )
    async with world(tmp_path, Plan(upstream=Upstream(answer=answer))) as w:
        agent = await w.plain()
        response = await agent.ask(GET)
        assert response.head == b"HTTP/1.1 200 OK\r\nX-A: 1\r\nContent-Length: 2\r\n\r\n"


async def test_each_caller_is_passed_on_as_itself_over_the_same_pooled_connection(tmp_path: Path) -> None:
    async with world(tmp_path, Plan(allow=(rule("spiffe://example.org/agent/**"),))) as w:
        first = await w.caller()
        second = await w.caller(w.ca.leaf("/agent/helper/7", now=CLOCK.wall()))
        for number in range(3):
            assert (await first.ask(GET)).status == 200
            assert (await second.ask(GET)).status == 200
            assert b"x-sidecar-caller: spiffe://example.org/agent/planner/1\r\n" in w.upstream.heads[2 * number]
            assert b"x-sidecar-caller: spiffe://example.org/agent/helper/7\r\n" in w.upstream.heads[2 * number + 1]
        assert w.upstream.connections == 1


# -- a decision for each request --------------------------------------------------------------------------------------


@pytest.mark.threat(11)
async def test_threat_11_a_removed_caller_is_denied_on_its_open_connection(tmp_path: Path) -> None:
    async with world(tmp_path) as w:
        caller = await w.caller()
        assert (await caller.ask(GET)).status == 200
        w.inbound.service = replaced(w)
        assert (await caller.ask(GET)).status == 403
        assert await caller.rest() == b"", "nothing on this connection could be allowed"
        await w.logged(1, decision_reason="caller_not_named", policy_version="fedcba9876543210")
        assert len(w.upstream.heads) == 1


async def test_a_request_in_flight_is_finished_by_the_policy_that_allowed_it(tmp_path: Path) -> None:
    go_on = asyncio.Event()

    async def slow(upstream: Upstream, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        upstream.heads.append(await read_head(reader))
        await go_on.wait()
        writer.write(upstream.answer)
        await reader.read()

    async with world(tmp_path, Plan(upstream=Upstream(slow))) as w:
        caller = await w.caller()
        caller.send(GET + GET)
        await w.eventually(lambda: len(w.upstream.heads) == 1)
        w.inbound.service = replaced(w)
        go_on.set()
        assert (await caller.response()).status == 200
        assert (await caller.response()).status == 403
        await w.logged(1, decision="allow", policy_version="0123456789abcdef")
        await w.logged(1, decision="deny", policy_version="fedcba9876543210")


@pytest.mark.threat(11)
async def test_threat_11_a_resumed_connection_keeps_its_caller_and_is_decided_anew(tmp_path: Path) -> None:
    async with world(tmp_path) as w:
        first = await w.caller()
        assert (await first.ask(GET)).status == 200
        w.inbound.service = replaced(w, rule("spiffe://example.org/agent/planner/1"), fresh_tls=False)
        second = await w.caller(resuming=first)
        assert (await second.ask(GET)).status == 200
        assert w.counted("handshakes_total", "server", "ok", "true") == 1
        assert b"x-sidecar-caller: spiffe://example.org/agent/planner/1\r\n" in w.upstream.heads[1]
        assert w.upstream.heads[0].split(b"x-forwarded")[1] == w.upstream.heads[1].split(b"x-forwarded")[1]
        w.inbound.service = replaced(w, fresh_tls=False)
        assert (await second.ask(GET)).status == 403


@pytest.mark.threat(11)
async def test_threat_11_no_session_resumes_after_a_reload(tmp_path: Path) -> None:
    async with world(tmp_path) as w:
        first = await w.caller()
        assert (await first.ask(GET)).status == 200
        w.inbound.service = replaced(w)
        second = await w.caller(resuming=first)
        assert (await second.ask(GET)).status == 403
        assert w.counted("handshakes_total", "server", "ok", "true") == 0
        assert w.counted("handshakes_total", "server", "ok", "false") == 2


@pytest.mark.threat(12, 51)
@pytest.mark.parametrize(
    ("shift", "reason"), [(-2 * HOUR, "certificate_not_yet_valid"), (2 * HOUR, "certificate_expired")]
)
async def test_threats_12_51_outside_a_certificates_validity_every_request_is_denied(
    tmp_path: Path, shift: float, reason: str
) -> None:
    shifted = Shifted()
    async with world(tmp_path, Plan(clock=shifted.clock)) as w:
        caller = await w.caller()
        assert (await caller.ask(GET)).status == 200
        shifted.wall = shift
        assert (await caller.ask(GET)).status == 403
        await w.logged(1, decision_reason=reason)
        assert await caller.rest() == b""
        assert len(w.upstream.heads) == 1


async def test_a_full_memory_of_peers_gives_way_to_a_new_context(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sidecar.tls.memory.PeerMemory.full", property(lambda memory: len(memory) >= 1))
    async with world(tmp_path) as w:
        service = w.inbound.service
        assert isinstance(service, InboundService)
        before = service.tls
        first = await w.caller()
        assert (await first.ask(GET)).status == 200
        second = await w.caller(resuming=first)
        assert (await second.ask(GET)).status == 200
        assert service.tls is not before
        assert w.counted("handshakes_total", "server", "ok", "true") == 0


async def test_the_name_in_the_callers_hello_is_logged_and_decides_nothing(tmp_path: Path) -> None:
    async with world(tmp_path) as w:
        destination = w.outbound.service.pool.destination
        assert isinstance(destination, TlsDestination)
        destination._server_name = "somebody.else.example"
        agent = await w.plain()
        assert (await agent.ask(GET)).status == 200
        await w.logged(1, direction="inbound", dst_name="somebody.else.example")

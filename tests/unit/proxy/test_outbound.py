"""The outbound side: what the agent may ask for, and that nobody but the named peer hears of it."""

from __future__ import annotations

import asyncio
import json
from typing import TYPE_CHECKING

import pytest

from sidecar.identity.pins import Pin
from sidecar.proxy.outbound import OutboundService
from tests.support.ca import Ca
from tests.support.pair import CLOCK, LOOPBACK, Plan, Upstream, outbound_service, own, world
from tests.support.tls import Foreign, foreign_context

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from tests.support.ca import Identity

GET = b"GET /mcp HTTP/1.1\r\nHost: tools.internal\r\n\r\n"


@pytest.mark.parametrize(
    "host",
    [b"tools.internal", b"TOOLS.Internal", b"tools.internal:80", b"localhost", b"localhost:PORT", b"127.0.0.1:PORT"],
)
async def test_the_listeners_own_names_and_its_hosts_are_served(tmp_path: Path, host: bytes) -> None:
    async with world(tmp_path) as w:
        host = host.replace(b"PORT", b"%d" % w.outbound_port)
        agent = await w.plain()
        assert (await agent.ask(b"GET / HTTP/1.1\r\nHost: %b\r\n\r\n" % host)).status == 200
        assert b"\r\nHost: %b\r\n" % host in w.upstream.heads[0]
        await w.logged(1, direction="outbound", dst_name=host.decode().lower())


@pytest.mark.threat(26)
@pytest.mark.parametrize(
    ("request_", "status", "reason"),
    [
        (b"GET / HTTP/1.1\r\nHost: 169.254.169.254\r\n\r\n", 403, "host_not_served"),
        (b"GET / HTTP/1.1\r\nHost: 127.0.0.1:22\r\n\r\n", 403, "host_not_served"),
        (b"GET / HTTP/1.1\r\nHost: tools.internal:8443\r\n\r\n", 403, "host_not_served"),
        (b"GET / HTTP/1.1\r\nHost: tools.internal.evil\r\n\r\n", 403, "host_not_served"),
        (
            b"GET http://169.254.169.254/latest HTTP/1.1\r\nHost: 169.254.169.254\r\n\r\n",
            403,
            "host_not_served",
        ),
        (b"GET http://localhost/latest HTTP/1.1\r\nHost: localhost\r\n\r\n", 403, "host_not_served"),
        (b"GET / HTTP/1.0\r\n\r\n", 403, "host_not_served"),
        (b"CONNECT tools.internal:8443 HTTP/1.1\r\nHost: tools.internal:8443\r\n\r\n", 403, "host_not_served"),
        (b"CONNECT 169.254.169.254:80 HTTP/1.1\r\nHost: 169.254.169.254:80\r\n\r\n", 403, "host_not_served"),
        (b"CONNECT localhost:80 HTTP/1.1\r\nHost: localhost:80\r\n\r\n", 403, "host_not_served"),
        (b"TRACE / HTTP/1.1\r\nHost: tools.internal\r\n\r\n", 405, "method_refused"),
    ],
)
async def test_threat_26_nothing_else_is_served_and_nothing_is_dialled(
    tmp_path: Path, request_: bytes, status: int, reason: str
) -> None:
    async with world(tmp_path) as w:
        agent = await w.plain()
        response = await agent.ask(request_)
        assert response.status == status
        (line,) = await w.logged(1, direction="outbound", decision="deny", decision_reason=reason)
        assert json.loads(response.body) == {"error": "denied", "decision_id": line["decision.id"]}
        assert w.upstream_connections == 0
        assert w.upstream.connections == 0
        assert w.counted("handshakes_total", "server", "ok", "false") == 0


async def test_an_absolute_target_among_the_hosts_is_sent_in_origin_form(tmp_path: Path) -> None:
    async with world(tmp_path) as w:
        agent = await w.plain()
        request = b"GET http://tools.internal/mcp?x=1 HTTP/1.1\r\nHost: tools.internal\r\n\r\n"
        assert (await agent.ask(request)).status == 200
        assert w.upstream.heads[0].startswith(b"GET /mcp?x=1 HTTP/1.1\r\nHost: tools.internal\r\n")


async def test_an_absolute_target_that_differs_from_host_is_400(tmp_path: Path) -> None:
    async with world(tmp_path) as w:
        agent = await w.plain()
        agent.send(b"GET http://tools.internal/ HTTP/1.1\r\nHost: localhost\r\n\r\n")
        assert (await agent.response()).status == 400
        assert w.upstream.connections == 0


@pytest.mark.threat(61)
@pytest.mark.parametrize(
    "fields",
    [
        b"Origin: https://evil.example\r\n",
        b"Origin: null\r\n",
        b"Sec-Fetch-Site: cross-site\r\n",
        b"Sec-Fetch-Site: same-site\r\n",
        b"Origin: http://good.example\r\nOrigin: http://evil.example\r\n",
    ],
)
async def test_threat_61_what_a_web_page_sends_is_403_and_not_forwarded(tmp_path: Path, fields: bytes) -> None:
    async with world(tmp_path, Plan(origins=frozenset({b"http://good.example"}))) as w:
        agent = await w.plain()
        response = await agent.ask(b"POST /mcp HTTP/1.1\r\nHost: localhost\r\n" + fields + b"\r\n")
        assert response.status == 403
        assert w.upstream.connections == 0
        await w.logged(1, decision_reason="web_page")


@pytest.mark.threat(61)
@pytest.mark.parametrize(
    "fields", [b"Origin: http://good.example\r\n", b"Sec-Fetch-Site: none\r\n", b"Sec-Fetch-Site: same-origin\r\n", b""]
)
async def test_threat_61_what_no_foreign_web_page_sends_passes(tmp_path: Path, fields: bytes) -> None:
    async with world(tmp_path, Plan(origins=frozenset({b"http://good.example"}))) as w:
        agent = await w.plain()
        response = await agent.ask(b"POST /mcp HTTP/1.1\r\nHost: localhost\r\n" + fields + b"\r\n")
        assert response.status == 200


async def test_an_entry_may_set_the_host_that_its_peer_sees(tmp_path: Path) -> None:
    async with world(tmp_path) as w:
        service = w.outbound.service
        assert isinstance(service, OutboundService)
        w.outbound.service = OutboundService(
            w.hub, "tools", own(w.planner), service.routes, service.lanes, b"mcp.example"
        )
        agent = await w.plain()
        assert (await agent.ask(GET)).status == 200
        assert b"\r\nHost: mcp.example\r\n" in w.upstream.heads[0]
        assert w.upstream.heads[0].lower().count(b"\r\nhost: ") == 1


async def test_the_log_names_the_peer_that_was_proven(tmp_path: Path) -> None:
    async with world(tmp_path) as w:
        agent = await w.plain()
        assert (await agent.ask(GET)).status == 200
        (line,) = await w.logged(1, direction="outbound")
        assert line["src.identity"] == "spiffe://example.org/agent/planner/1"
        assert line["src.pin"] == str(w.planner.pin)
        assert line["dst.identity"] == "spiffe://example.org/agent/tools/1"
        assert line["dst.addr"] == w.inbound.address
        assert line["dst.name"] == "tools.internal"
        assert line["cert.serial"] == f"{w.tools.leaf.serial_number:x}"
        assert line["decision.rule"] == "outbound.tools"
        assert line["key.protection"] == "software"


async def test_a_trace_is_made_once_and_passed_on(tmp_path: Path) -> None:
    async with world(tmp_path) as w:
        agent = await w.plain()
        trace = b"00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
        assert (await agent.ask(GET.replace(b"\r\n\r\n", b"\r\ntraceparent: %b\r\n\r\n" % trace))).status == 200
        assert w.upstream.heads[0].count(b"traceparent: " + trace) == 1
        await w.logged(2, trace_id="0af7651916cd43dd8448eb211c80319c")
        assert (await agent.ask(GET.replace(b"\r\n\r\n", b"\r\ntraceparent: nonsense\r\n\r\n"))).status == 200
        assert w.upstream.heads[1].count(b"traceparent: 00-") == 1
        assert b"nonsense" not in w.upstream.heads[1]


async def test_a_session_is_attributed_without_being_told(tmp_path: Path) -> None:
    async with world(tmp_path) as w:
        agent = await w.plain()
        assert (await agent.ask(GET.replace(b"\r\n\r\n", b"\r\nMcp-Session-Id: secret\r\n\r\n"))).status == 200
        await w.logged(2, session_id="2bb80d537b1da3e3")
        assert b"secret" not in w.log_path.read_bytes()


# -- impostors --------------------------------------------------------------------------------------------------------


class Impostor:
    """A TLS server that records whatever it gets to see."""

    def __init__(self, identity: Identity, ca: Ca) -> None:
        self.ends: list[Foreign] = []
        self.wire = 0
        self._make: Callable[[], Foreign] = lambda: Foreign(foreign_context(identity, ca.certificate), server=True)

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        end = self._make()
        self.ends.append(end)
        try:
            while data := await reader.read(65536):
                self.wire += len(data)
                end.receive(data)
                end.turn()
                writer.write(end.to_send())
        except ConnectionError:
            pass
        finally:
            writer.close()

    async def __aenter__(self) -> int:
        self._server = await asyncio.start_server(self.serve, LOOPBACK, 0)
        return int(self._server.sockets[0].getsockname()[1])

    async def __aexit__(self, *_: object) -> None:
        self._server.close()


@pytest.fixture
def ca() -> Ca:
    return Ca(now=CLOCK.wall())


CASES = {
    "peer_name_mismatch": lambda ca: (ca, ca.leaf("/agent/evil/1", now=CLOCK.wall()), frozenset()),
    "peer_pin_mismatch": lambda ca: (ca, ca.leaf("/agent/tools/1", now=CLOCK.wall()), frozenset({Pin(b"\0" * 32)})),
    "authority_unknown": lambda _: (
        stranger := Ca(key="stranger", now=CLOCK.wall()),
        stranger.leaf("/agent/tools/1", now=CLOCK.wall()),
        frozenset(),
    ),
}


@pytest.mark.threat(13, 27)
@pytest.mark.parametrize("code", CASES)
async def test_threats_13_27_an_impostor_sees_neither_request_nor_certificate(
    tmp_path: Path, ca: Ca, code: str
) -> None:
    theirs, identity, pins = CASES[code](ca)
    impostor = Impostor(identity, theirs)
    async with impostor as port:
        plan = Plan(ca=ca, pins=pins, connect_port=port)
        async with world(tmp_path, plan) as w:
            agent = await w.plain()
            for number in (1, 2):
                response = await agent.ask(GET)
                assert response.status == 502
                assert b'"error":"upstream_tls"' in response.body
                await w.logged(number, direction="outbound", error=code, http_status=502, decision="allow")
            await w.eventually(lambda: w.upstream_connections == 0)
            for end in impostor.ends:
                assert not end.done
                assert end.connection.get_peer_certificate() is None
                assert end.plain == b""
            assert w.counted("handshakes_total", "client", code, "false") == 2


async def test_an_authority_that_we_do_not_know_is_told_so_by_an_alert(tmp_path: Path, ca: Ca) -> None:
    stranger = Ca(key="stranger", now=CLOCK.wall())
    impostor = Impostor(stranger.leaf("/agent/tools/1", now=CLOCK.wall()), stranger)
    async with impostor as port, world(tmp_path, Plan(ca=ca, connect_port=port)) as w:
        agent = await w.plain()
        assert (await agent.ask(GET)).status == 502
        await w.eventually(lambda: impostor.ends[0].alerts == [48])  # unknown_ca


async def test_a_resumed_session_with_the_peer_names_it_in_the_log_too(tmp_path: Path) -> None:
    async with world(tmp_path) as w:
        agent = await w.plain()
        for number in (1, 2):
            assert (await agent.ask(GET)).status == 200
            for stream in [s for s in w.hub.streams if s.peer is not None]:
                stream.close()
            await w.eventually(lambda: w.outbound.service.pool.size == 0)
            await w.logged(number, direction="outbound", dst_identity="spiffe://example.org/agent/tools/1")
        assert w.counted("handshakes_total", "client", "ok", "true") == 1


async def test_a_retired_pool_takes_no_new_request_and_finishes_what_it_has(tmp_path: Path) -> None:
    async with world(tmp_path) as w:
        agent = await w.plain()
        assert (await agent.ask(GET)).status == 200
        pool = w.inbound.service.pool
        pool.retire()
        await w.eventually(lambda: w.upstream.open == 0)
        assert pool.size == 0
        answer = await agent.ask(GET)
        assert (answer.status, b"upstream_gone" in answer.body) == (503, True), "its entry has no successor"
        assert len(w.upstream.heads) == 1
        await w.eventually(lambda: pool.size == 0)


@pytest.mark.threat(27)
async def test_threat_27_a_pin_that_a_reload_removes_while_its_peer_is_dialled_gets_no_request(tmp_path: Path) -> None:
    go_on = asyncio.Event()

    async def reluctant(upstream: Upstream, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        inner, out = await asyncio.open_connection(LOOPBACK, int(upstream.answer))
        hello = await reader.read(65536)
        await go_on.wait()
        out.write(hello)

        async def pump(source: asyncio.StreamReader, sink: asyncio.StreamWriter) -> None:
            while data := await source.read(65536):
                sink.write(data)
            sink.close()

        await asyncio.gather(pump(inner, writer), pump(reader, out))

    async with Upstream(reluctant) as relay, world(tmp_path, Plan(connect_port=relay.port)) as w:
        relay.answer = str(w.inbound_port).encode()
        agent = await w.plain()
        agent.send(GET)
        await w.eventually(lambda: relay.connections == 1)
        old = w.outbound.service
        plan = Plan(pins=frozenset({Pin(bytes(32))}))
        w.outbound.service = outbound_service(w.hub, w.planner, w.ca, plan, w.outbound_port, w.inbound_port)
        old.pool.retire()
        go_on.set()
        answer = await agent.response()
        assert (answer.status, b"upstream_tls" in answer.body) == (502, True)
        assert w.upstream.heads == []
        await w.logged(1, direction="outbound", error="peer_pin_mismatch")


async def test_a_plain_upstream_where_tls_is_expected_is_502(tmp_path: Path) -> None:
    async def blunt(upstream: Upstream, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        upstream.heads.append(await reader.read(65536))
        writer.write(b"HTTP/1.1 400 Bad Request\r\n\r\n")
        await reader.read()

    async with Upstream(blunt) as plain, world(tmp_path, Plan(connect_port=plain.port)) as w:
        agent = await w.plain()
        response = await agent.ask(GET)
        assert response.status == 502
        assert b"upstream_tls" in response.body
        await w.logged(1, direction="outbound", error="not_tls")
        assert b"/mcp" not in plain.heads[0]

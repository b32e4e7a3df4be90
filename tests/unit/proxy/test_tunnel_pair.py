"""Two sidecars in one loop whose entries are tunnels: agent --plain--> outbound --mTLS--> inbound --plain--> upstream."""

from __future__ import annotations

import asyncio
import os
import tracemalloc
from typing import TYPE_CHECKING, Any

import pytest

from sidecar.clock import Clock
from sidecar.identity.pins import Pin
from sidecar.proxy.dialler import Dialler
from sidecar.proxy.pool import PlainDestination
from sidecar.proxy.target import TcpTarget
from sidecar.proxy.tunnel import Tunnel
from sidecar.proxy.tunnel_service import _engine
from sidecar.telemetry.access_log import AccessLog
from tests.support.ca import Ca
from tests.support.echo import echo, echoing
from tests.support.pair import LOOPBACK, Plan, Upstream, World, rule, settled, world
from tests.support.processes import free_port
from tests.support.wire import Plain

if TYPE_CHECKING:
    from pathlib import Path

MEGABYTE = 1024 * 1024
#: Bytes through a slow reader: 32 MiB, or what SIDECAR_SOAK asks for.
BULK = (1024 if os.environ.get("SIDECAR_SOAK") else 32) * MEGABYTE
PLANNER = "spiffe://example.org/agent/planner/1"
TOOLS = "spiffe://example.org/agent/tools/1"


def plan(script: Any = echo, **more: Any) -> Plan:
    return Plan(tcp=True, upstream=Upstream(script), **more)


async def talks(agent: Plain, word: bytes = b"hello") -> None:
    agent.buffer.clear()
    agent.send(word)
    await agent.until(lambda: agent.buffer == word)


async def test_bytes_go_through_both_ways_and_each_side_writes_one_line(tmp_path: Path) -> None:
    async with world(tmp_path, plan()) as w:
        agent = await w.plain()
        await talks(agent, b"\x00\xffnot HTTP\r\n\r\n")
        agent.writer.write_eof()
        assert await agent.rest() == b"\x00\xffnot HTTP\r\n\r\n"
        assert not agent.reset
        for direction in ("outbound", "inbound"):
            (line,) = await w.logged(1, event="tunnel", direction=direction)
            assert (line["src.identity"], line["dst.identity"]) == (PLANNER, TOOLS)
            assert line["src.pin"] == str(w.planner.pin)
            assert line["cert.serial"]
            assert (line["bytes_sent"], line["bytes_received"]) == (14, 14)
            assert (line["decision"], line["policy.version"]) == ("allow", "0123456789abcdef")
            assert line["duration_ms"] > 0
            assert "error" not in line
            assert w.counted("tunnels_total", direction, "tools", "allow") == 1
            assert w.counted("tunnel_bytes_total", direction, "tools", "sent") == 14
            assert w.counted("tunnel_bytes_total", direction, "tools", "received") == 14
        assert (await w.logged(1, direction="inbound"))[0]["decision.rule"] == "inbound.tools.allow[0]"
        assert (await w.logged(1, direction="outbound"))[0]["decision.rule"] == "outbound.tools"


async def test_much_goes_through_both_ways(tmp_path: Path) -> None:
    async with world(tmp_path, plan()) as w:
        agent = await w.plain()
        sent = bytes(range(256)) * 4096 * 8
        agent.send(sent)
        agent.writer.write_eof()
        assert await agent.rest() == sent
        lines = await w.logged(2, event="tunnel")
        assert all((line["bytes_sent"], line["bytes_received"]) == (8 * MEGABYTE, 8 * MEGABYTE) for line in lines)


@pytest.mark.soak
@pytest.mark.threat(47, 48)
@pytest.mark.parametrize("way", ["down", "up"])
async def test_threats_47_48_much_for_a_slow_reader_holds_memory_constant(tmp_path: Path, way: str) -> None:
    piece = b"x" * 65536
    read = asyncio.Event()

    async def pour(_: Upstream, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        for _ in range(BULK // len(piece)):
            writer.write(piece)
            await writer.drain()
        writer.write_eof()
        await reader.read()

    async def sip(upstream: Upstream, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await read.wait()
        while data := await reader.read(len(piece)):
            upstream.heads.append(b"")
            upstream.connections += len(data)
        writer.write_eof()

    async with world(tmp_path, plan(pour if way == "down" else sip)) as w:
        reader, writer = await w.agent()
        tracemalloc.start()
        if way == "down":
            await settled(lambda: sum(stream.written for stream in w.hub.streams))
            received = 0
            while data := await reader.read(4096 * 16):
                received += len(data)
            assert received == BULK
            writer.write_eof()
        else:
            for _ in range(BULK // len(piece)):
                writer.write(piece)
                if writer.transport.get_write_buffer_size() > MEGABYTE:
                    read.set()
                    await writer.drain()
            read.set()
            writer.write_eof()
            await reader.read()
            assert w.upstream.connections == BULK + 1
        _, peak = tracemalloc.get_traced_memory()
        tracemalloc.stop()
        assert peak < 8 * MEGABYTE
        writer.close()


# -- who gets none ------------------------------------------------------------------------------------------------------


async def test_a_caller_that_is_not_named_is_closed_and_nothing_is_dialled(tmp_path: Path) -> None:
    async with world(tmp_path, plan(allow=(rule("spiffe://example.org/agent/other/*"),))) as w:
        caller = await w.caller()
        caller.send(b"anybody there?")
        await caller.rest()
        assert (bytes(caller.buffer), caller.end.eof) == (b"", False), "no end that could be taken for an answer"
        (line,) = await w.logged(1, event="refused", direction="inbound")
        assert (line["src.identity"], line["src.pin"]) == (PLANNER, str(w.planner.pin))
        assert (line["decision"], line["decision.reason"], line["error"]) == ("deny", *["caller_not_named"] * 2)
        assert w.counted("denied_total", "caller_not_named") == 1
        assert w.counted("refused_total", "caller_not_named") == 1
        assert w.counted("tunnels_total", "inbound", "tools", "deny") == 1
        assert w.upstream.connections == 0
        await w.eventually(lambda: not w.hub.connections)


async def test_what_a_peer_denies_reaches_the_agent_as_a_reset(tmp_path: Path) -> None:
    async with world(tmp_path, plan(allow=(rule("spiffe://example.org/agent/other/*"),))) as w:
        agent = await w.plain()
        agent.send(b"hello")
        await agent.rest()
        assert agent.reset
        (line,) = await w.logged(1, event="tunnel", direction="outbound")
        assert line["error"] in {"upstream_truncated", "upstream_reset"}
        assert line["dst.identity"] == TOOLS


@pytest.mark.threat(13)
async def test_threat_13_the_pins_of_a_rule_decide_about_a_tunnel(tmp_path: Path) -> None:
    other = frozenset({Pin(b"\1" * 32)})
    async with world(tmp_path, plan(allow=(rule(pins=other),))) as w:
        caller = await w.caller()
        await caller.rest()
        await w.logged(1, event="refused", error="pin_mismatch", src_identity=PLANNER)
        assert w.upstream.connections == 0


async def test_a_rule_for_requests_lets_no_tunnel_through(tmp_path: Path) -> None:
    async with world(tmp_path, plan(allow=(rule(methods=frozenset({b"GET"})),))) as w:
        caller = await w.caller()
        await caller.rest()
        await w.logged(1, event="refused", error="rule_needs_request")
        assert w.upstream.connections == 0


@pytest.mark.threat(3)
async def test_threat_3_without_a_certificate_there_is_an_alert_and_no_tunnel(tmp_path: Path) -> None:
    async with world(tmp_path, plan()) as w:
        stranger = await w.dial(None)
        await stranger.rest()
        assert stranger.end.alerts == [116]
        await w.logged(1, event="refused", error="no_certificate")
        assert w.upstream.connections == 0


@pytest.mark.threat(4)
async def test_threat_4_the_same_name_by_another_authority_gets_no_tunnel(tmp_path: Path) -> None:
    async with world(tmp_path, plan()) as w:
        stranger = await w.dial(Ca(key="stranger", now=Clock().wall()).leaf("/agent/planner/1", now=Clock().wall()))
        await stranger.rest()
        assert stranger.end.alerts
        assert w.upstream.connections == 0


@pytest.mark.threat(13, 27)
@pytest.mark.parametrize(
    ("changes", "code"),
    [
        ({"peer": "spiffe://example.org/agent/other/*"}, "peer_name_mismatch"),
        ({"pins": frozenset({Pin(b"\1" * 32)})}, "peer_pin_mismatch"),
    ],
)
async def test_threats_13_27_the_peer_that_was_not_meant_gets_nothing(
    tmp_path: Path, changes: dict[str, Any], code: str
) -> None:
    async with world(tmp_path, plan(**changes)) as w:
        agent = await w.plain()
        agent.send(b"secret")
        await agent.rest()
        assert agent.reset
        (line,) = await w.logged(1, event="tunnel", direction="outbound")
        assert (line["error"], line["bytes_sent"]) == (code, 0)
        assert "dst.identity" not in line
        assert w.upstream.connections == 0
        assert w.counted("handshakes_total", "client", "ok", "false") == 0


@pytest.mark.threat(52)
async def test_threat_52_an_upstream_that_is_not_there_is_named(tmp_path: Path) -> None:
    async with world(tmp_path, plan()) as w:
        destination = w.inbound.service.way.destination
        there, destination._target = destination._target, TcpTarget(LOOPBACK, free_port())
        agent = await w.plain()
        agent.send(b"hello")
        await agent.rest()
        assert agent.reset
        (line,) = await w.logged(1, event="tunnel", direction="inbound")
        assert (line["error"], line["decision"]) == ("upstream_refused", "allow")
        destination._target = there
        await talks(await w.plain())


async def test_an_upstream_that_never_answers_is_given_up_in_time(tmp_path: Path) -> None:
    async def silent(_: Upstream, reader: asyncio.StreamReader, __: asyncio.StreamWriter) -> None:
        await reader.read()
        await asyncio.Event().wait()

    async with (
        Upstream(silent) as other,
        world(tmp_path, plan(connect_port=other.port).with_limits(connect_timeout=0.2)) as w,
    ):
        agent = await w.plain()
        agent.send(b"hello")
        await agent.rest()
        assert agent.reset
        await w.logged(1, event="tunnel", error="upstream_connect_timeout")
        assert not w.upstream_connections


async def test_the_limit_of_upstream_connections_holds(tmp_path: Path) -> None:
    async with world(tmp_path, plan().with_limits(upstream_connections=2)) as w:
        kept = [await w.plain(), await w.plain()]
        for agent in kept:
            await talks(agent)
        more = await w.plain()
        more.send(b"hello")
        await more.rest()
        assert more.reset
        await w.logged(1, event="tunnel", error="limit_upstream_connections", direction="outbound")
        assert w.counted("limit_hits_total", "upstream_connections") == 1
        kept[0].writer.write_eof()
        await kept[0].rest()
        await w.eventually(lambda: w.outbound.service.way.dialler.size == 1)
        await talks(await w.plain())


@pytest.mark.parametrize("side", ["outbound", "inbound"])
async def test_one_connection_too_many_is_closed(tmp_path: Path, side: str) -> None:
    async with world(tmp_path, plan().with_limits(connections=1)) as w:
        connect = w.plain if side == "outbound" else w.inbound_plain
        await connect()
        await w.eventually(lambda: len(w.hub.connections) >= 1)
        more = await connect()
        assert await more.rest() == b""
        await w.logged(1, event="refused", direction=side, error="limit_connections")


@pytest.mark.parametrize("side", ["outbound", "inbound"])
async def test_with_a_full_log_nothing_passes_where_the_log_is_a_condition(
    tmp_path: Path, side: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with world(tmp_path, plan()) as w:
        monkeypatch.setattr(AccessLog, "full", True)
        client = await (w.plain() if side == "outbound" else w.caller())
        client.send(b"hello")
        assert await client.rest() == b""
        await w.logged(1, event="refused", direction=side, error="log_full")
        assert w.upstream.connections == 0


async def test_a_drain_turns_new_callers_away_and_serves_the_agent(tmp_path: Path) -> None:
    async with world(tmp_path, plan()) as w:
        agent = await w.plain()
        await talks(agent)
        w.hub.draining = True
        caller = await w.caller()
        await caller.rest()
        await w.logged(1, event="refused", direction="inbound", error="draining")
        await talks(agent, b"goes on")
        for connection in list(w.hub.connections):
            connection.retire()
        await talks(agent, b"still")


async def test_a_defect_while_deciding_ends_that_connection_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with world(tmp_path, plan()) as w:
        agent = await w.plain()
        await talks(agent)

        def fails(*_: object) -> None:
            raise ZeroDivisionError

        monkeypatch.setattr(w.outbound.service, "decide", fails)
        other = await w.plain()
        await other.rest()
        await talks(agent, b"still here")
        await w.eventually(lambda: bool(w.internal_errors))
        w.internal_errors.clear()


async def test_a_defect_while_dialling_ends_that_connection_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with world(tmp_path, plan()) as w:

        def fails(*_: object) -> None:
            raise ZeroDivisionError

        monkeypatch.setattr(w.outbound.service.way.destination, "stream", fails)
        agent = await w.plain()
        await agent.rest()
        assert agent.reset
        await w.logged(1, event="tunnel", error="internal")
        await w.eventually(lambda: len(w.internal_errors) == 1)
        w.internal_errors.clear()


# -- TLS sessions -------------------------------------------------------------------------------------------------------


@pytest.mark.threat(11)
async def test_threat_11_a_resumed_session_is_decided_like_any_other(tmp_path: Path) -> None:
    async with world(tmp_path, plan()) as w:
        for count in range(3):
            agent = await w.plain()
            await talks(agent)
            agent.writer.write_eof()
            await agent.rest()
            await w.logged(2 * (count + 1), event="tunnel")
        assert w.counted("handshakes_total", "client", "ok", "true") == 2
        lines = await w.logged(3, event="tunnel", direction="inbound", src_identity=PLANNER, decision="allow")
        assert len({line["decision.id"] for line in lines}) == 3


async def test_a_full_memory_of_peers_gives_way_to_a_new_context(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sidecar.tls.memory.PeerMemory.full", property(lambda memory: len(memory) >= 1))
    async with world(tmp_path, plan()) as w:
        before = w.inbound.service.tls
        await talks(await w.plain())
        await talks(await w.plain())
        assert w.inbound.service.tls is not before
        assert w.counted("handshakes_total", "server", "ok", "true") == 0


async def test_no_protocol_is_agreed_on(tmp_path: Path) -> None:
    """A tunnel speaks for nobody: whatever the ends speak is between them."""
    async with world(tmp_path, plan()) as w:
        caller = await w.caller()
        assert caller.end.connection.get_alpn_proto_negotiated() == b""


# -- permits ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("permit", [None, True, "permit"])
async def test_without_a_permit_nothing_is_dialled(tmp_path: Path, permit: Any) -> None:
    async with world(tmp_path, plan()) as w:
        dialler = Dialler(w.hub)
        with pytest.raises(TypeError, match="permit"):
            await dialler.dial(permit, PlainDestination(TcpTarget(LOOPBACK, w.upstream.port), w.hub), object())  # type: ignore[arg-type]
        assert (dialler.size, w.upstream.connections) == (0, 0)


async def test_without_a_proven_caller_nothing_is_decided(tmp_path: Path) -> None:
    """Nothing leads there; if something did, it would be an error and no permit."""
    async with world(tmp_path, plan()) as w:
        with pytest.raises(RuntimeError, match="without a proven peer"):
            w.inbound.service.decide(Tunnel(w.inbound), "id")
        with pytest.raises(TypeError, match="another kind"):
            _engine(w.outbound.service)


async def test_what_is_shown_of_a_tunnel(tmp_path: Path) -> None:
    async with world(tmp_path, Plan(tcp=True, upstream=echoing())) as w:
        await talks(await w.plain())
        shown = {connection.listener.service.direction: connection.details() for connection in w.hub.connections}
        for direction, details in shown.items():
            assert (details["bytes_sent"], details["bytes_received"]) == (5, 5)
            assert details["policy.version"] == "0123456789abcdef"
            assert len(details["decision.id"]) == 32
            assert details.get("dst.identity") == (TOOLS if direction == "outbound" else None)
        assert shown["outbound"]["decision.rule"] == "outbound.tools"


def open_tunnels(w: World) -> int:
    return len(w.hub.connections)


async def test_clients_that_come_and_go_leave_nothing(tmp_path: Path) -> None:
    async with world(tmp_path, plan()) as w:
        for number in range(1, 31):
            agent = await Plain.connect(w.outbound_port)
            agent.send(b"x" * number * 1000)
            if number % 3 == 0:
                await agent.more()
            agent.abort() if number % 2 else agent.close()
        await w.eventually(lambda: open_tunnels(w) == 0 and not w.hub.streams)
        assert not w.upstream_connections

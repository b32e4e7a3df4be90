"""What happens to a tunnel behind its last byte, beside it, and before its first: every loss shows, and nothing else does."""

from __future__ import annotations

import asyncio
import socket
import struct
from typing import TYPE_CHECKING, Any

import pytest

from sidecar.proxy.stream import State
from tests.support.echo import echoing
from tests.support.pair import CLOCK, LOOPBACK, Plan, Upstream, World, outbound_tunnels, world

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from sidecar.proxy.tunnel import Tunnel

RESET = struct.pack("ii", 1, 0)


class Unreading:
    """A server that ends its own side at once, reads nothing, and does what it is told when the time has come."""

    def __init__(self, then: Callable[[asyncio.StreamWriter], None]) -> None:
        self.now = asyncio.Event()
        self.seen: str | None = None
        self._then = then

    async def __call__(self, _: Upstream, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        sock = writer.get_extra_info("socket")
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 65536)
        writer.transport.pause_reading()  # type: ignore[attr-defined]
        writer.write_eof()
        await self.now.wait()
        self._then(writer)
        try:
            while await reader.read(65536):
                pass
            self.seen = "clean"
        except ConnectionError:
            self.seen = "reset"


def read_on(writer: asyncio.StreamWriter) -> None:
    writer.transport.resume_reading()  # type: ignore[attr-defined]


def reset(writer: asyncio.StreamWriter) -> None:
    writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET)
    writer.transport.abort()


async def ended_with_bytes_unsent(w: World) -> Tunnel:
    """Both directions of a tunnel have ended in order, and its server has not taken everything."""
    caller = await w.caller()
    tunnel: Any = None
    while tunnel is None or tunnel.up is None or not tunnel.up.stream.unsent:
        caller.send(b"x" * 16384)
        await asyncio.sleep(0)
        tunnel = next(iter(w.hub.connections), None)
    caller.send(b"y" * 100_000)
    caller.end.connection.shutdown()
    caller._turn()
    await w.eventually(lambda: tunnel.up.stream.state is State.LINGERING)
    assert tunnel.up.stream.unsent
    found: Tunnel = tunnel
    return found


async def test_a_server_that_stops_reading_the_last_bytes_sees_no_clean_end(tmp_path: Path) -> None:
    server = Unreading(read_on)
    plan = Plan(tcp=True, upstream=Upstream(server)).with_limits(stall_timeout=0.2)
    async with world(tmp_path, plan) as w:
        await ended_with_bytes_unsent(w)
        await w.logged(1, event="tunnel", error="upstream_stalled")
        assert w.counted("limit_hits_total", "stall_timeout") == 1
        server.now.set()
        await w.eventually(lambda: server.seen is not None)
        assert server.seen == "reset"


async def test_a_server_that_resets_before_it_had_the_last_bytes_is_named(tmp_path: Path) -> None:
    server = Unreading(reset)
    async with world(tmp_path, Plan(tcp=True, upstream=Upstream(server))) as w:
        await ended_with_bytes_unsent(w)
        server.now.set()
        await w.logged(1, event="tunnel", error="upstream_reset")


async def test_a_tunnel_ends_when_we_become_somebody_else(tmp_path: Path) -> None:
    plan = Plan(tcp=True, upstream=echoing())
    async with world(tmp_path, plan) as w:
        agent = await w.plain()
        agent.send(b"hello")
        await agent.until(lambda: agent.buffer == b"hello")
        other = w.ca.leaf("/agent/renamed/9", now=CLOCK.wall())
        w.outbound.service = outbound_tunnels(w.hub, other, w.ca, plan, w.inbound_port, "v2")
        for connection in list(w.hub.connections):
            connection.review(frozenset())
        await agent.rest()
        assert agent.reset
        (line,) = await w.logged(1, event="tunnel", direction="outbound", error="entry_changed")
        assert line["src.identity"] == "spiffe://example.org/agent/planner/1", "the one that the handshake showed"


@pytest.mark.parametrize("tcp", [False, True])
async def test_a_handshake_that_a_reload_overtakes_writes_its_line(tmp_path: Path, *, tcp: bool) -> None:
    async with world(tmp_path, Plan(tcp=tcp)) as w:
        client = await w.inbound_plain()
        await w.eventually(lambda: w.hub.handshakes)
        for connection in list(w.hub.connections):
            connection.review({w.planner.svid(CLOCK.wall()).id.trust_domain})
        await client.rest()
        await w.logged(1, event="refused", error="trust_changed")
        assert w.counted("refused_total", "trust_changed") == 1


@pytest.mark.needs("openssl")
async def test_padded_records_with_little_in_them_are_no_flood(tmp_path: Path) -> None:
    """RFC 8446 5.4: a peer may pad its records, to hide how much somebody types."""
    async with world(tmp_path, Plan(tcp=True, upstream=echoing())) as w:
        chain, key = tmp_path / "chain.pem", tmp_path / "key.pem"
        chain.write_bytes(w.planner.chain_pem)
        key.write_bytes(w.planner.key_pem)
        process = await asyncio.create_subprocess_exec(
            *("openssl", "s_client", "-quiet", "-tls1_3", "-record_padding", "16384"),
            *("-connect", f"{LOOPBACK}:{w.inbound_port}", "-cert", str(chain), "-key", str(key)),
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.DEVNULL,
        )
        assert process.stdin is not None
        assert process.stdout is not None
        for _ in range(20):
            process.stdin.write(b"k")
            assert await asyncio.wait_for(process.stdout.readexactly(1), 5) == b"k"
        process.kill()
        await process.wait()
        await w.logged(1, event="tunnel")
        assert w.counted("limit_hits_total", "tls_records") == 0

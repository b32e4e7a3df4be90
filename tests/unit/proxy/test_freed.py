"""What a connection used is freed with it, by reference counts alone: OpenSSL's memory is no burden the collector sees."""

from __future__ import annotations

import contextlib
import gc
from collections import Counter
from typing import TYPE_CHECKING

import pytest

from sidecar.proxy.downstream import Downstream
from sidecar.proxy.exchange import Exchange
from sidecar.proxy.splice import Leg
from sidecar.proxy.stream import Stream
from sidecar.proxy.tunnel import Tunnel
from sidecar.proxy.upgrade import WebSocket
from sidecar.proxy.upstream import Upstream as UpstreamConnection
from sidecar.tls.engine import TlsEngine
from tests.support import devices, pair
from tests.support.pair import Plan, Upstream, World, turns, world
from tests.support.processes import free_port
from tests.support.websocket import asking, echo

if TYPE_CHECKING:
    import asyncio
    from collections.abc import Iterator
    from pathlib import Path

PARTS = (TlsEngine, Stream, Downstream, UpstreamConnection, Exchange, Tunnel, Leg, WebSocket)


@pytest.fixture
def uncollected() -> Iterator[None]:
    gc.collect()
    gc.disable()
    yield
    gc.enable()


def alive() -> Counter[str]:
    return Counter(part.__name__ for found in gc.get_objects() for part in PARTS if isinstance(found, part))


async def reply(_: Upstream, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    writer.write(await reader.read(5))
    writer.write_eof()
    await reader.read()


async def one_request(w: World) -> None:
    await w.ask(b"GET / HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")


async def one_tunnel(w: World) -> None:
    reader, writer = await w.agent()
    writer.write(b"hello")
    writer.write_eof()
    assert await reader.read() == b"hello"
    writer.close()


@pytest.mark.usefixtures("uncollected")
@pytest.mark.parametrize("tcp", [False, True])
@pytest.mark.parametrize("apart", [False, True])
async def test_connections_leave_nothing_behind_that_only_the_collector_would_find(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, *, tcp: bool, apart: bool
) -> None:
    if apart:  # their handshakes are made in threads
        monkeypatch.setattr(pair, "credentials", devices.apart)
    plan = Plan(tcp=True, upstream=Upstream(reply)) if tcp else Plan()
    use = one_tunnel if tcp else one_request
    async with world(tmp_path, plan) as w:
        await use(w)
        await w.eventually(
            lambda: not any(connection.stream.remote for connection in w.outbound.hub.connections if tcp)
        )
        await turns()
        before = alive()
        for _ in range(5):
            await use(w)
        await w.eventually(lambda: alive() <= before)


@pytest.mark.usefixtures("uncollected")
async def test_a_websocket_leaves_nothing_behind(tmp_path: Path) -> None:
    async def one_websocket(w: World) -> None:
        reader, writer = await w.agent()
        writer.write(asking() + b"hello")
        await reader.readuntil(b"\r\n\r\n")
        assert await reader.readexactly(5) == b"hello"
        writer.write_eof()
        assert await reader.read() == b""
        writer.close()

    async with world(tmp_path, Plan(upstream=Upstream(echo))) as w:
        await one_websocket(w)
        await w.eventually(lambda: not w.hub.connections)
        await turns()
        before = alive()
        for _ in range(5):
            await one_websocket(w)
        await w.eventually(lambda: alive() <= before)


@pytest.mark.usefixtures("uncollected")
async def test_a_tunnel_whose_upstream_refuses_leaves_nothing_behind(tmp_path: Path) -> None:
    async with world(tmp_path, Plan(tcp=True, connect_port=free_port())) as w:

        async def refused() -> None:
            reader, writer = await w.agent()
            with contextlib.suppress(ConnectionError):
                await reader.read()
            writer.close()

        await refused()
        await turns()
        before = alive()
        for _ in range(5):
            await refused()
        await w.eventually(lambda: alive() <= before)

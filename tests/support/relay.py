"""A relay on loopback that can keep what it was given to itself for a while."""

from __future__ import annotations

import asyncio
from contextlib import asynccontextmanager, suppress
from typing import TYPE_CHECKING

from tests.support.pair import LOOPBACK

if TYPE_CHECKING:
    from collections.abc import AsyncIterator


class Held:
    """Accepts at ``port`` and connects to another; ``waiting`` counts connections that are held."""

    def __init__(self) -> None:
        self.port = 0
        self.waiting = 0
        self._open = asyncio.Event()
        self._open.set()

    def hold(self) -> None:
        self._open.clear()

    def let_go(self) -> None:
        self._open.set()

    async def serve(self, to: int, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.waiting += 1
        await self._open.wait()
        self.waiting -= 1
        far_reader, far_writer = await asyncio.open_connection(LOOPBACK, to)
        with suppress(ConnectionError):
            await asyncio.gather(_copy(reader, far_writer), _copy(far_reader, writer))


async def _copy(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    try:
        while data := await reader.read(65536):
            writer.write(data)
            await writer.drain()
    finally:
        writer.close()


@asynccontextmanager
async def held(to: int) -> AsyncIterator[Held]:
    """Starts a relay to a port of this machine."""
    relay = Held()
    server = await asyncio.start_server(lambda reader, writer: relay.serve(to, reader, writer), LOOPBACK, 0)
    relay.port = server.sockets[0].getsockname()[1]
    try:
        yield relay
    finally:
        relay.let_go()
        server.close()

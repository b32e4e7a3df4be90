"""What stands behind a tunnel in tests: sends back what comes, and ends when the other side does."""

from __future__ import annotations

from typing import TYPE_CHECKING

from tests.support.pair import Upstream

if TYPE_CHECKING:
    import asyncio


async def echo(upstream: Upstream, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    while data := await reader.read(65536):
        upstream.bodies.append(data)
        writer.write(data)
        await writer.drain()
    writer.write_eof()


def echoing() -> Upstream:
    """An upstream that does so; ``bodies`` is what it got."""
    return Upstream(echo)

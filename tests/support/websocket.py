"""WebSocket by hand: what a client asks and a server answers, in bytes, so that tests can also do it wrong."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from sidecar.http.websocket import accept_of
from tests.support.pair import Upstream, read_head

if TYPE_CHECKING:
    import asyncio

KEY = b"dGhlIHNhbXBsZSBub25jZQ=="


def asking(
    *fields: bytes,
    line: bytes = b"GET /chat HTTP/1.1",
    upgrade: bytes = b"websocket",
    connection: bytes = b"Upgrade",
    key: bytes = KEY,
) -> bytes:
    """A request for a WebSocket; an empty ``upgrade``, ``connection`` or ``key`` leaves that field out."""
    lines = [line, b"Host: tools.internal", *fields, b"Sec-WebSocket-Version: 13"]
    lines += [b"Upgrade: " + upgrade] if upgrade else []
    lines += [b"Connection: " + connection] if connection else []
    lines += [b"Sec-WebSocket-Key: " + key] if key else []
    return b"\r\n".join(lines) + b"\r\n\r\n"


def agreeing(key: bytes = KEY, *fields: bytes) -> bytes:
    """The answer that agrees to it."""
    lines = [b"HTTP/1.1 101 Switching Protocols", b"Upgrade: websocket", b"Connection: Upgrade", *fields]
    return b"\r\n".join([*lines, b"Sec-WebSocket-Accept: " + accept_of(key)]) + b"\r\n\r\n"


def key_in(head: bytes) -> bytes:
    found = re.search(rb"\r\nsec-websocket-key: ([^\r]*)\r\n", head, re.IGNORECASE)
    assert found is not None, head
    return found[1]


async def echo(upstream: Upstream, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Agrees, and sends every byte back; ends when its client does."""
    head = await read_head(reader)
    upstream.heads.append(head)
    writer.write(agreeing(key_in(head)))
    while data := await reader.read(65536):
        upstream.bodies.append(data)
        writer.write(data)
        await writer.drain()

"""Clients that speak to a listener byte by byte: in plaintext as an agent does, and over TLS as a caller.

Both keep everything that came in ``buffer`` and take responses off its front. The TLS one is pyOpenSSL, another OpenSSL
than the proxy's, and sees alerts and close_notify.
"""

from __future__ import annotations

import asyncio
import re
from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import TYPE_CHECKING, Self

from OpenSSL import SSL

from tests.support.tls import Foreign, foreign_context

if TYPE_CHECKING:
    from collections.abc import Callable

    from cryptography import x509

    from tests.support.ca import Identity

LOOPBACK = "127.0.0.1"
SECONDS = 10.0
_LENGTH = re.compile(rb"\r\ncontent-length: (\d+)\r\n", re.IGNORECASE)
_CHUNKED = re.compile(rb"\r\ntransfer-encoding: chunked\r\n", re.IGNORECASE)


@dataclass(frozen=True)
class Response:
    """A response as it stood on the wire; ``chunks`` are those of a chunked body, ``trailers`` the raw lines."""

    status: int
    head: bytes
    body: bytes
    chunks: tuple[bytes, ...] = ()
    trailers: bytes = b""

    def field(self, name: bytes) -> bytes | None:
        found = re.search(rb"\r\n" + re.escape(name) + rb": ([^\r]*)\r\n", self.head, re.IGNORECASE)
        return None if found is None else found[1]


def _take_chunks(buffer: bytearray, start: int) -> tuple[tuple[bytes, ...], bytes, int] | None:
    chunks, pos = [], start
    while (line := buffer.find(b"\r\n", pos)) >= 0:
        size = int(buffer[pos:line], 16)
        if not size:
            end = buffer.find(b"\r\n\r\n", line)
            return None if end < 0 else (tuple(chunks), bytes(buffer[line + 2 : end + 2]), end + 4)
        pos = line + 2 + size + 2
        if pos > len(buffer):
            return None
        chunks.append(bytes(buffer[line + 2 : pos - 2]))
    return None


def take_response(buffer: bytearray, method: bytes = b"GET") -> Response | None:
    """Takes one whole response off the front, or nothing; one that ends with its connection counts as never whole."""
    end = buffer.find(b"\r\n\r\n")
    if end < 0:
        return None
    head = bytes(buffer[: end + 4])
    status, start = int(head[9:12]), end + 4
    length = _LENGTH.search(head)
    if status < 200 or status in {204, 304} or method == b"HEAD":
        stop, response = start, Response(status, head, b"")
    elif _CHUNKED.search(head):
        taken = _take_chunks(buffer, start)
        if taken is None:
            return None
        chunks, trailers, stop = taken
        response = Response(status, head, b"".join(chunks), chunks, trailers)
    elif length is not None and len(buffer) >= start + int(length[1]):
        stop = start + int(length[1])
        response = Response(status, head, bytes(buffer[start:stop]))
    else:
        return None
    del buffer[:stop]
    return response


class Client(ABC):
    """What both kinds share. ``ended`` says that the other side has ended, ``reset`` that it did so by a reset."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader = reader
        self.writer = writer
        self.buffer = bytearray()
        self.ended = False
        self.reset = False

    @abstractmethod
    def send(self, data: bytes) -> None: ...

    @abstractmethod
    def _received(self, data: bytes) -> None: ...

    async def more(self) -> None:
        """Waits for the next bytes, or the end."""
        try:
            data = await asyncio.wait_for(self.reader.read(65536), SECONDS)
        except ConnectionError:
            self.reset, data = True, b""
        if data:
            self._received(data)
        else:
            self.ended = True

    async def until(self, condition: Callable[[], bool]) -> None:
        """Reads until a condition holds; the end before that is a failure."""
        while not condition():
            assert not self.ended, f"the connection ended after {bytes(self.buffer[-200:])!r}"
            await self.more()

    async def head(self) -> bytes:
        await self.until(lambda: b"\r\n\r\n" in self.buffer)
        end = self.buffer.find(b"\r\n\r\n") + 4
        head = bytes(self.buffer[:end])
        del self.buffer[:end]
        return head

    async def response(self, method: bytes = b"GET") -> Response:
        while (response := take_response(self.buffer, method)) is None:
            assert not self.ended, f"the connection ended after {bytes(self.buffer[-200:])!r}"
            await self.more()
        return response

    async def ask(self, request: bytes) -> Response:
        self.send(request)
        return await self.response(request.split(b" ", 1)[0])

    async def rest(self) -> bytes:
        """Reads to the end and returns what has not been taken."""
        while not self.ended:
            await self.more()
        return bytes(self.buffer)

    def close(self) -> None:
        self.writer.close()

    def abort(self) -> None:
        self.writer.transport.abort()


class Plain(Client):
    """An agent."""

    @classmethod
    async def connect(cls, port: int) -> Self:
        return cls(*await asyncio.open_connection(LOOPBACK, port, limit=2**16))

    def send(self, data: bytes) -> None:
        self.writer.write(data)

    def _received(self, data: bytes) -> None:
        self.buffer += data


class Caller(Client):
    """A TLS client; ``end`` is its pyOpenSSL side with ``alerts``, ``error`` and ``eof`` (close_notify came)."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, end: Foreign) -> None:
        super().__init__(reader, writer)
        self.end = end

    @classmethod
    async def dial(
        cls,
        port: int,
        identity: Identity | None,
        authority: x509.Certificate | None = None,
        *,
        version: int = SSL.TLS1_3_VERSION,
        resuming: Caller | None = None,
    ) -> Self:
        """Connects and sends the ClientHello; ``resuming`` another's session, or asking for a new one."""
        if resuming is None:
            end = Foreign(foreign_context(identity, authority, version=version), server=False)
        else:
            before = resuming.end.connection
            end = Foreign(before.get_context(), server=False, session=before.get_session())
        caller = cls(*await asyncio.open_connection(LOOPBACK, port, limit=2**16), end)
        caller._turn()
        return caller

    def send(self, data: bytes) -> None:
        self.end.write(data)
        self._turn()

    def _turn(self) -> None:
        self.end.turn()
        if data := self.end.to_send():
            self.writer.write(data)

    def _received(self, data: bytes) -> None:
        self.end.receive(data)
        self._turn()
        self.buffer += self.end.plain
        self.end.plain = b""

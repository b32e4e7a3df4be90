"""Where a connection to an upstream is made to: a host and a port, or the file of a UNIX socket."""

from __future__ import annotations

import asyncio
import socket
from typing import TYPE_CHECKING, Final, Protocol

from sidecar.proxy.resolve import Name, connect_in_order, numeric

if TYPE_CHECKING:
    from sidecar.proxy.stream import Stream


#: How long to wait before a listener whose queue is full is tried again, in seconds.
_FULL_PAUSE: Final = 0.01


class Target(Protocol):
    """``text`` names it in the log."""

    text: str

    async def open(self, loop: asyncio.AbstractEventLoop, stream: Stream) -> None:
        """Makes the connection whose protocol is ``stream``; raises what the system does, OSError."""


class TcpTarget:
    """A host, without brackets, and a port."""

    def __init__(self, host: str, port: int) -> None:
        self.text = f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
        self._host = host
        self._port = port
        self._name = Name(host, port)

    async def open(self, loop: asyncio.AbstractEventLoop, stream: Stream) -> None:
        """Resolves a name, and tries its addresses one after the other."""
        if self._name.is_address:
            await loop.create_connection(lambda: stream, self._host, self._port)
            return
        found = await self._name.look_up()
        addresses = [(int(family), numeric(address)) for family, _, _, _, address in found]
        await connect_in_order(loop, stream, addresses, self._port)


class UnixTarget:
    """The path of a UNIX socket."""

    def __init__(self, path: str) -> None:
        self.text = f"unix:{path}"
        self._path = path
        #: Held by the one who asks again and again, where the queue is full.
        self._asking = asyncio.Lock()

    async def open(self, loop: asyncio.AbstractEventLoop, stream: Stream) -> None:
        """Connects: a missing file is FileNotFoundError, one that nobody listens on any more ConnectionRefusedError."""
        sock = await self._connect()
        try:
            await loop.create_unix_connection(lambda: stream, sock=sock)
        except BaseException:
            sock.close()
            raise

    async def _connect(self) -> socket.socket:
        sock = socket.socket(socket.AF_UNIX)
        try:
            sock.setblocking(False)
            # Unlike TCP this is done at once, or never: a queue that is full has to be asked again (connect(2), EAGAIN).
            # One at a time does, in their order: a thousand who wait for an upstream that hangs would cost all our time.
            if self._asking.locked() or not self._reaches(sock):
                async with self._asking:
                    while not self._reaches(sock):  # noqa: ASYNC110 - the kernel tells nobody that there is room
                        await asyncio.sleep(_FULL_PAUSE)
        except BaseException:
            sock.close()
            raise
        return sock

    def _reaches(self, sock: socket.socket) -> bool:
        """Connects, or says that there is no room."""
        try:
            sock.connect(self._path)
        except BlockingIOError:
            return False
        return True

"""Accepting connections on a listening socket, also when the process or the machine has nothing left to accept them with.

Event loops have servers of their own, but out of descriptors neither does what a proxy needs: asyncio tells its exception
handler about each try, and libuv takes whoever waits and closes them. Here they wait in the kernel's queue: accepting
pauses, longer each time, and goes on by itself. Idle connections of others are not closed for newcomers: who comes may be
a flood, and who is there has been let in before.
"""

from __future__ import annotations

import errno
from typing import TYPE_CHECKING, Final

from sidecar.tasks import spawn

if TYPE_CHECKING:
    import asyncio
    import socket
    from collections.abc import Callable

    from sidecar.telemetry.messages import Messages

    #: Makes what serves a new connection, given its peer's address; None closes it.
    Take = Callable[[socket.socket, object], "asyncio.Protocol | None"]

#: Connections that are accepted in one turn of the loop, before others get theirs.
BATCH: Final = 16
#: The pause after a failure in seconds: the first, each further one twice as long, and the longest.
FIRST_PAUSE: Final = 0.005
LONGEST_PAUSE: Final = 1.0
#: accept(2), "Error handling": what befell the connection that would have been next. The one behind it may be sound.
_OF_THE_CONNECTION: Final = frozenset(
    getattr(errno, name)
    for name in (
        "ECONNABORTED",
        "EPERM",
        "ENETDOWN",
        "EPROTO",
        "ENOPROTOOPT",
        "EHOSTDOWN",
        "ENONET",
        "EHOSTUNREACH",
        "EOPNOTSUPP",
        "ENETUNREACH",
    )
    if hasattr(errno, name)
)


class Acceptor:
    """Accepts from one listening, non-blocking socket, which is its own from `start` on."""

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        sock: socket.socket,
        take: Take,
        *,
        messages: Messages,
        failed: Callable[[str], None],
        address: str,
    ) -> None:
        """``failed`` counts a failure by the name of its errno; ``address`` is the socket's, for messages."""
        self._loop = loop
        self._sock = sock
        self._take = take
        self._messages = messages
        self._failed = failed
        self._address = address
        self._pause = 0.0
        self._short = False  # something is lacking, and that was told
        self._timer: asyncio.TimerHandle | None = None

    @property
    def paused(self) -> bool:
        """Whether it waits for descriptors or memory, and newcomers wait in the kernel."""
        return self._timer is not None

    def start(self) -> None:
        """Begins to accept; the socket listens already."""
        self._loop.add_reader(self._sock.fileno(), self._ready)

    def close(self) -> None:
        """Stops accepting and closes the socket; what was accepted goes on."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        elif self._sock.fileno() >= 0:
            self._loop.remove_reader(self._sock.fileno())
        self._sock.close()

    def _ready(self) -> None:
        for _ in range(BATCH):
            try:
                sock, address = self._sock.accept()
            except BlockingIOError:
                self._caught_up()
                return
            except OSError as error:
                code = error.errno or 0
                self._failed(_name(error))
                if code not in _OF_THE_CONNECTION:
                    self._back_off(error)
                    return
                continue
            self._pause = 0.0
            self._connect(sock, address)
            if self._sock.fileno() < 0:  # whoever was told of it has closed this
                return
        self._caught_up()

    def _connect(self, sock: socket.socket, address: object) -> None:
        try:
            protocol = self._take(sock, address)
            if protocol is not None:
                sock.setblocking(False)
                spawn(self._hand_over(sock, protocol), name="accept")
                return
        except BaseException:
            sock.close()
            raise
        sock.close()

    async def _hand_over(self, sock: socket.socket, protocol: asyncio.Protocol) -> None:
        try:
            await self._loop.connect_accepted_socket(lambda: protocol, sock)
        except OSError as error:
            # It was reset before the loop had it: its options cannot be set then, on some systems.
            self._failed(_name(error))
            sock.close()

    def _back_off(self, error: OSError) -> None:
        if not self._short:
            self._short = True
            self._messages.error(
                "cannot accept: newcomers wait, what is open goes on",
                address=self._address,
                error=_name(error),
                reason=error.strerror,
            )
        self._pause = min(self._pause * 2 or FIRST_PAUSE, LONGEST_PAUSE)
        self._loop.remove_reader(self._sock.fileno())
        self._timer = self._loop.call_later(self._pause, self._resume)

    def _resume(self) -> None:
        self._timer = None
        self.start()
        self._ready()  # nobody may be left who waits, and then nothing else would end the episode

    def _caught_up(self) -> None:
        """Nobody waits, or a whole batch went through: only now the episode is over, and not with each one that could be."""
        self._pause = 0.0
        if self._short:
            self._short = False
            self._messages.info("accepts again", address=self._address)


def _name(error: OSError) -> str:
    return errno.errorcode.get(error.errno or 0, "unknown")

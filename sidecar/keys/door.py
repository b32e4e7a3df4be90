"""A way to a signer service of our own that has no place in the file system: a socket that connections are handed through.

Both processes have inherited, or were handed, their end of a pair of datagram sockets. Whoever wants a connection makes a
pair of stream sockets and sends one of them through (unix(7), SCM_RIGHTS). Nobody else can: there is no address. And a
service that was started again, with the same end of the door, finds those that have knocked meanwhile.
"""

from __future__ import annotations

import socket
import time
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Callable

#: Between two tries while as many wait at the door as the kernel lets, in seconds.
_PAUSE: Final = 0.01


class Door:
    """The side of those that ask: a `sidecar.keys.remote.Service`."""

    name = "our signer process"
    hint = "it is started again by itself; its messages say why it ended"

    def __init__(self, sock: socket.socket) -> None:
        """``sock``: our end; it is ours to close."""
        self._sock = sock
        sock.setblocking(False)

    def connect(self, left: Callable[[], float]) -> socket.socket:
        """Makes a connection. Raises OSError, and what ``left`` raises."""
        ours, its = socket.socketpair()
        try:
            with its:
                self._hand_over(its, left)
                ours.settimeout(left())
        except BaseException:
            ours.close()
            raise
        return ours

    def _hand_over(self, its: socket.socket, left: Callable[[], float]) -> None:
        while True:
            try:
                socket.send_fds(self._sock, [b"\0"], [its.fileno()])
            except BlockingIOError:
                left()
                time.sleep(_PAUSE)
            else:
                return

    def close(self) -> None:
        """Closes our end."""
        self._sock.close()

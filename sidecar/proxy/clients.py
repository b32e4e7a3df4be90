"""Which process is at the other end of a plaintext connection, as far as this machine can know.

A UNIX socket says so by itself. A TCP connection over loopback is looked up by its two ends, while it stands: once for
each connection that is accepted, before a byte of it is read. On another system than Linux nobody can tell.
"""

from __future__ import annotations

import os
import socket
import sys
from typing import TYPE_CHECKING, Final

from sidecar.proxy.failure import ProxyCode, StrangerError
from sidecar.sock_diag import CONNECTED, LISTEN, SockDiag
from sidecar.sockets import Peer, peer

if TYPE_CHECKING:
    from collections.abc import Collection

_LINUX: Final = sys.platform == "linux"


class Clients:
    """Asks the kernel; one for each hub."""

    def __init__(self, diag: SockDiag | None = None) -> None:
        self._diag = SockDiag() if diag is None else diag

    def close(self) -> None:
        """Lets go of what it asks with."""
        self._diag.close()

    def admit(self, sock: socket.socket, uids: Collection[int]) -> Peer | None:
        """Says who is at the other end of a connection; None where that cannot be known, as for another machine.

        Raises:
            StrangerError: the client's uid is none of ``uids``, or the kernel does not say whose it is.

        """
        try:
            client = self._look(sock)
        except OSError as error:
            raise StrangerError(ProxyCode.UID_UNKNOWN, None) from error
        if client is not None and client.uid not in uids:
            raise StrangerError(ProxyCode.UID_NOT_ALLOWED, client)
        return client

    def try_out(self, sock: socket.socket) -> None:
        """Raises OSError where the clients of a listening socket could not be told from each other on this machine."""
        if not _LINUX or sock.family == socket.AF_UNIX:
            return
        own = sock.getsockname()[:2]
        if _loopback(own[0]) and self._diag.find(own, ("::" if ":" in own[0] else "0.0.0.0", 0)).state != LISTEN:  # noqa: S104 - the other end that a listening socket has
            raise OSError("sock_diag: our own socket is not found")

    def _look(self, sock: socket.socket) -> Peer | None:
        if sock.family == socket.AF_UNIX:
            found = peer(sock)
            if found.uid is None:
                raise OSError("the system does not say who is at the other end")
            return found
        if not _LINUX:
            return None
        own, other = sock.getsockname()[:2], sock.getpeername()[:2]
        # Whoever reaches a loopback address is on this machine, whatever address it comes from.
        if not (_loopback(own[0]) or _loopback(other[0])):
            return None
        there = self._diag.find(other, own)
        if there.state not in CONNECTED or there.inode == 0:
            raise OSError("the client has closed its socket")
        return Peer(None, there.uid)


def _loopback(address: str) -> bool:
    return address.startswith("127.") or address == "::1"  # as the kernel spells them


def own_and(uids: Collection[int]) -> frozenset[int]:
    """Whom a listener serves: our own user and ``uids``. Root only where it is one of these."""
    return frozenset((os.geteuid(), *uids))

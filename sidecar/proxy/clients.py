"""Which process is at the other end of a plaintext connection, as far as this machine can know.

A UNIX socket says so by itself. A TCP connection over loopback is looked up by its two ends, while it stands: once for
each connection that is accepted, before a byte of it is read. On another system than Linux nobody can tell.
"""

from __future__ import annotations

import os
import socket
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Final

from sidecar.proxy.failure import BindCode, BindError, ProxyCode, StrangerError
from sidecar.sock_diag import CONNECTED, LISTEN, SockDiag
from sidecar.sockets import Peer, peer

if TYPE_CHECKING:
    from collections.abc import Collection

_LINUX: Final = sys.platform == "linux"
#: Linux, user_namespaces(7): how many uids there are, and, unless the system says otherwise, the one that stands for many.
_ALL_UIDS: Final = 2**32 - 1
_OVERFLOW_UID: Final = 65534
_UID_MAP: Final = Path("/proc/self/uid_map")
_OVERFLOW: Final = Path("/proc/sys/kernel/overflowuid")


class Clients:
    """Asks the kernel; one for each hub.

    ``shared`` is a uid that many users of the machine have in our eyes (`shared_uid`): who has it is nobody that is known.
    """

    def __init__(self, diag: SockDiag | None = None, *, shared: int | None = None) -> None:
        self._diag = SockDiag() if diag is None else diag
        self._shared = shared

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
        if client is not None and client.uid == self._shared:
            raise StrangerError(ProxyCode.UID_UNKNOWN, client)
        return client

    def try_out(self, sock: socket.socket, uids: Collection[int]) -> None:
        """Says whether ``uids`` can be told from others at a listening socket on this machine.

        Raises:
            BindError: one of them is shared by users who have no number of their own here.
            OSError: the kernel does not say whose its clients are.

        """
        if self._shared in uids:
            raise BindError(
                BindCode.UIDS_UNKNOWN,
                f"uid {self._shared} is that of every user who has no number in this user namespace",
                hint="run as another user, and name other users in uids",
            )
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
        # Raises where the connection has been reset: somebody else may have had the client's port when we asked.
        sock.getpeername()
        if there.state not in CONNECTED or there.inode == 0:
            raise OSError("the client has closed its socket")
        return Peer(None, there.uid)


def _loopback(address: str) -> bool:
    return address.startswith("127.") or address == "::1"  # as the kernel spells them


def shared_uid() -> int | None:
    """Returns the uid by which the kernel calls all users that have no number in our user namespace; None where all have one.

    Linux, user_namespaces(7), "Unmapped user and group IDs". Where that cannot be read it is taken to be the usual one.
    """
    if not _LINUX:
        return None
    try:
        numbered = sum(int(line.split()[2]) for line in _UID_MAP.read_text().splitlines())
        return None if numbered >= _ALL_UIDS else int(_OVERFLOW.read_text())
    except FileNotFoundError:
        return None  # a kernel without user namespaces
    except (OSError, ValueError, IndexError):
        return _OVERFLOW_UID


def own_and(uids: Collection[int]) -> frozenset[int]:
    """Whom a listener serves: our own user and ``uids``. Root only where it is one of these."""
    return frozenset((os.geteuid(), *uids))

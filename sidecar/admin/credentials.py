"""Who is at the other end of a UNIX socket: the kernel's word, taken when the connection was made."""

from __future__ import annotations

import os
import socket
import struct
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from collections.abc import Iterable

ROOT = 0
#: Linux, unix(7): struct ucred, three 32-bit numbers (pid, uid, gid).
_UCRED = struct.Struct("=iII")
#: macOS, <sys/ucred.h>: struct xucred, a version, the effective uid, a count and 16 groups.
_XUCRED = struct.Struct("=IIhxx16I")
_XUCRED_VERSION = 0
#: macOS, <sys/un.h>. Python names neither on every version.
_SOL_LOCAL = 0
_LOCAL_PEERCRED = 1


class PeerSocket(Protocol):
    """As much of a socket as an event loop's transport lends."""

    def getsockopt(self, level: int, option: int, length: int, /) -> bytes:
        """Reads a socket option."""


def allowed_uids(more: Iterable[int] = ()) -> frozenset[int]:
    """The uids that the administration socket serves: our own, root, and those that the configuration names."""
    return frozenset((os.geteuid(), ROOT, *more))


def peer_uid(sock: PeerSocket) -> int | None:
    """The effective uid of the process that connected; None where the system does not say."""
    if hasattr(socket, "SO_PEERCRED"):
        return _linux_uid(sock)
    return _macos_uid(sock)


def _linux_uid(sock: PeerSocket) -> int:
    uid: int = _UCRED.unpack(sock.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _UCRED.size))[1]
    return uid


def _macos_uid(sock: PeerSocket) -> int | None:
    raw = sock.getsockopt(_SOL_LOCAL, _LOCAL_PEERCRED, _XUCRED.size)
    if len(raw) != _XUCRED.size:
        return None
    version, uid, *_ = _XUCRED.unpack(raw)
    return int(uid) if version == _XUCRED_VERSION else None

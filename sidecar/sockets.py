"""UNIX sockets that others connect to: their file, and who is at the other end.

A socket file outlives its process, so one that is found is tried: if nobody answers it is replaced, if somebody does
that is an error. Two processes that start at once take turns by a lock on the folder, or each would take the other's
fresh socket for a stale one. The file gets its mode before anything listens: until then nobody can connect (ECONNREFUSED),
so no umask has to be changed, which would reach every thread of the process.
"""

from __future__ import annotations

import errno
import fcntl
import os
import socket
import stat
import struct
import time
from array import array
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from enum import Enum, auto
from typing import TYPE_CHECKING, Final, NamedTuple, Protocol

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path
    from typing import Self

    from sidecar.errors import LocalError

ROOT: Final = 0
#: How long another process may hold the folder's lock, in seconds; it needs it for a moment.
LOCK_SECONDS: Final = 2.0
_LOCK_PAUSE: Final = 0.01
#: Connections that the kernel may complete before we accept them.
_BACKLOG: Final = 16

#: Linux, unix(7): struct ucred, three 32-bit numbers (pid, uid, gid).
_UCRED: Final = struct.Struct("=iII")
#: macOS, <sys/ucred.h>: struct xucred, a version, the effective uid, a count and 16 groups.
_XUCRED: Final = struct.Struct("=IIhxx16I")
_XUCRED_VERSION: Final = 0
#: macOS, <sys/un.h>. Python names none of them on every version.
_SOL_LOCAL: Final = 0
_LOCAL_PEERCRED: Final = 1
_LOCAL_PEERPID: Final = 2
_PID: Final = struct.Struct("=i")


class SocketFault(Enum):
    """Why a socket file cannot be made; each part that has a socket has its own stable code for it."""

    IN_USE = auto()
    LOCKED = auto()
    NOT_A_SOCKET = auto()
    UNUSABLE = auto()


@dataclass(frozen=True, slots=True)
class SocketRules:
    """How a socket file is made, and what is said where it cannot be.

    ``name`` is what people call it, ``setting`` where its path stands; ``error`` makes the exception of a fault, a
    message and a hint. The modes are those of the socket and of its folder, where that is made.
    """

    name: str
    setting: str
    error: Callable[[SocketFault, str, str], LocalError]
    mode: int = 0o600
    folder_mode: int = 0o700
    lock_seconds: float = LOCK_SECONDS


class SocketFile:
    """A listening UNIX socket and its file."""

    def __init__(self, path: Path, sock: socket.socket) -> None:
        self.path = path
        self.sock = sock
        self._identity = _identity(path)

    @classmethod
    def make(cls, path: Path, rules: SocketRules) -> Self:
        """Makes the folder if it is missing (its parent must exist), and the socket. Raises what ``rules.error`` makes."""
        try:
            _make_folder(path.parent, rules.folder_mode)
            with _folder_lock(path, rules):
                _remove_stale(path, rules)
                return cls(path, _listen(path, rules.mode))
        except OSError as error:
            raise rules.error(
                SocketFault.UNUSABLE,
                f"the {rules.name} {path} cannot be made: {error.strerror or error}",
                f"name a short path in a folder that this user may write to, in {rules.setting}",
            ) from error

    def remove(self) -> None:
        """Removes the file if it is still ours and can be. Before the socket is closed: while we answer, nobody replaces it.

        One that stays is of no harm: nobody answers at it, and whoever makes another one there removes it. To stop in the
        middle of a reload or a drain would be.
        """
        with suppress(OSError):
            if _identity(self.path) == self._identity:
                self.path.unlink()

    def chmod(self, mode: int) -> None:
        """Gives the file another mode, if it is still ours and there. Raises OSError."""
        with suppress(FileNotFoundError):
            if _identity(self.path) == self._identity:
                self.path.chmod(mode)

    def close(self) -> None:
        """Removes the file, if it is still ours, and stops listening."""
        try:
            self.remove()
        finally:
            self.sock.close()


def _make_folder(folder: Path, mode: int) -> None:
    """Makes it where it is missing, with that very mode: a umask would keep those out whom the mode lets in."""
    try:
        folder.mkdir(mode=mode & 0o700)
    except FileExistsError:
        return
    folder.chmod(mode)


def _identity(path: Path) -> tuple[int, int]:
    found = path.lstat()
    return found.st_dev, found.st_ino


@contextmanager
def _folder_lock(path: Path, rules: SocketRules) -> Iterator[None]:
    folder = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY)
    try:
        deadline = time.monotonic() + rules.lock_seconds
        while True:
            try:
                fcntl.flock(folder, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError as error:
                if time.monotonic() >= deadline:
                    raise rules.error(
                        SocketFault.LOCKED,
                        f"another process has locked {path.parent}",
                        f"end it, or name another folder in {rules.setting}",
                    ) from error
            time.sleep(_LOCK_PAUSE)
        yield
    finally:
        os.close(folder)


def _remove_stale(path: Path, rules: SocketRules) -> None:
    try:
        found = path.lstat()
    except FileNotFoundError:
        return
    if not stat.S_ISSOCK(found.st_mode):
        raise rules.error(
            SocketFault.NOT_A_SOCKET,
            f"{path} is there already and is no socket",
            f"move it away, or name another path in {rules.setting}",
        )
    with socket.socket(socket.AF_UNIX) as probe:
        probe.setblocking(False)
        code = probe.connect_ex(str(path))
    if code != errno.ECONNREFUSED:
        # Connected, or its queue is full, or it is not ours to try: in any case it is not known to be dead.
        raise rules.error(
            SocketFault.IN_USE,
            f"another process answers at {path} ({errno.errorcode.get(code, 'connected')})",
            f"end it, or give this one its own path in {rules.setting}",
        )
    path.unlink()


def _listen(path: Path, mode: int) -> socket.socket:
    sock = socket.socket(socket.AF_UNIX)
    try:
        sock.setblocking(False)
        sock.bind(str(path))
    except OSError:
        sock.close()
        raise
    try:
        path.chmod(mode)
        sock.listen(_BACKLOG)
    except OSError:
        sock.close()
        path.unlink(missing_ok=True)
        raise
    return sock


#: Linux: descriptors that arrive are inherited by nothing that this process starts.
_CLOSED_ON_EXEC: Final = getattr(socket, "MSG_CMSG_CLOEXEC", 0)


def receive_descriptors(sock: socket.socket, size: int, most: int) -> tuple[bytes, list[int], int]:
    """As `socket.recv_fds`, which lets what it receives be inherited: data, descriptors, flags. Raises OSError."""
    found = array("i")
    room = socket.CMSG_LEN(most * found.itemsize)
    data, messages, flags, _ = sock.recvmsg(size, room, _CLOSED_ON_EXEC)
    for level, kind, content in messages:
        if (level, kind) == (socket.SOL_SOCKET, socket.SCM_RIGHTS):
            found.frombytes(content[: len(content) - len(content) % found.itemsize])
    if not _CLOSED_ON_EXEC:
        for descriptor in found:
            os.set_inheritable(descriptor, False)
    return data, list(found), flags


class PeerSocket(Protocol):
    """As much of a socket as an event loop's transport lends."""

    def getsockopt(self, level: int, option: int, length: int, /) -> bytes:
        """Reads a socket option."""


class Peer(NamedTuple):
    """The process at the other end, each None where the system does not say.

    The kernel's word, taken when the connection was made (for the side that connected: when the other began to listen).
    ``uid`` is the effective one. A pid is for logs: by now it may be another process's.
    """

    pid: int | None
    uid: int | None


def peer(sock: PeerSocket) -> Peer:
    """Says who is at the other end of a UNIX socket. Raises OSError where it is none."""
    if hasattr(socket, "SO_PEERCRED"):
        pid, uid, _ = _UCRED.unpack(sock.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _UCRED.size))
        return Peer(pid, uid)
    return Peer(_macos_pid(sock), _macos_uid(sock))


def peer_uid(sock: PeerSocket) -> int | None:
    """The effective uid of the process at the other end; None where the system does not say."""
    if hasattr(socket, "SO_PEERCRED"):
        return peer(sock).uid
    return _macos_uid(sock)


def _macos_uid(sock: PeerSocket) -> int | None:
    raw = sock.getsockopt(_SOL_LOCAL, _LOCAL_PEERCRED, _XUCRED.size)
    if len(raw) != _XUCRED.size:
        return None
    version, uid, *_ = _XUCRED.unpack(raw)
    return int(uid) if version == _XUCRED_VERSION else None


def _macos_pid(sock: PeerSocket) -> int | None:
    raw = sock.getsockopt(_SOL_LOCAL, _LOCAL_PEERPID, _PID.size)
    return int(_PID.unpack(raw)[0]) if len(raw) == _PID.size else None

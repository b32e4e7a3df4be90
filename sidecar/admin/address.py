"""The file of the administration socket: made so that nobody else can ever connect, removed when it is ours.

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
import time
from contextlib import contextmanager, suppress
from enum import StrEnum
from typing import TYPE_CHECKING

from sidecar.errors import LocalError

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path
    from typing import Self

SOCKET_MODE = 0o600
FOLDER_MODE = 0o700
#: Connections that the kernel may complete before we accept them.
BACKLOG = 16
#: How long another process may hold the folder's lock, in seconds; it needs it for a moment.
LOCK_SECONDS = 2.0
_LOCK_PAUSE = 0.01


class AddressCode(StrEnum):
    """Why the administration socket cannot be opened."""

    ADMIN_ADDRESS_IN_USE = "admin_address_in_use"
    ADMIN_ADDRESS_LOCKED = "admin_address_locked"
    ADMIN_NOT_A_SOCKET = "admin_not_a_socket"
    ADMIN_UNUSABLE = "admin_unusable"


class AddressError(LocalError):
    """The administration socket cannot be opened."""

    def __init__(self, code: AddressCode, message: str, *, hint: str = "") -> None:
        super().__init__(code, message, hint=hint)
        self.code: AddressCode = code


class AdminAddress:
    """A listening UNIX socket and its file."""

    def __init__(self, path: Path, sock: socket.socket) -> None:
        self.path = path
        self.sock = sock
        found = path.lstat()
        self._identity = (found.st_dev, found.st_ino)

    @classmethod
    def open(cls, path: Path) -> Self:
        """Makes the folder if it is missing (its parent must exist), and the socket. Raises `AddressError`."""
        try:
            path.parent.mkdir(mode=FOLDER_MODE, exist_ok=True)
            with _folder_lock(path):
                _remove_stale(path)
                return cls(path, _listen(path))
        except OSError as error:
            raise AddressError(
                AddressCode.ADMIN_UNUSABLE,
                f"the admin socket {path} cannot be made: {error.strerror or error}",
                hint="name a short path in a folder that this user may write to, in admin.listen",
            ) from error

    def remove(self) -> None:
        """Removes the file if it is still ours. Before the socket is closed: while we answer, nobody replaces it."""
        with suppress(FileNotFoundError):
            found = self.path.lstat()
            if (found.st_dev, found.st_ino) == self._identity:
                self.path.unlink()

    def close(self) -> None:
        """Removes the file, if it is still ours, and stops listening."""
        try:
            self.remove()
        finally:
            self.sock.close()


@contextmanager
def _folder_lock(path: Path) -> Iterator[None]:
    folder = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY)
    try:
        deadline = time.monotonic() + LOCK_SECONDS
        while True:
            try:
                fcntl.flock(folder, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError as error:
                if time.monotonic() >= deadline:
                    raise AddressError(
                        AddressCode.ADMIN_ADDRESS_LOCKED,
                        f"another process has locked {path.parent}",
                        hint="end it, or name another folder in admin.listen",
                    ) from error
            time.sleep(_LOCK_PAUSE)
        yield
    finally:
        os.close(folder)


def _remove_stale(path: Path) -> None:
    try:
        found = path.lstat()
    except FileNotFoundError:
        return
    if not stat.S_ISSOCK(found.st_mode):
        raise AddressError(
            AddressCode.ADMIN_NOT_A_SOCKET,
            f"{path} is there already and is no socket",
            hint="move it away, or name another path in admin.listen",
        )
    with socket.socket(socket.AF_UNIX) as probe:
        probe.setblocking(False)
        code = probe.connect_ex(str(path))
    if code != errno.ECONNREFUSED:
        # Connected, or its queue is full, or it is not ours to try: in any case it is not known to be dead.
        raise AddressError(
            AddressCode.ADMIN_ADDRESS_IN_USE,
            f"another process answers at {path} ({errno.errorcode.get(code, 'connected')})",
            hint="end it, or give this one its own path in admin.listen",
        )
    path.unlink()


def _listen(path: Path) -> socket.socket:
    sock = socket.socket(socket.AF_UNIX)
    try:
        sock.setblocking(False)
        sock.bind(str(path))
    except OSError:
        sock.close()
        raise
    try:
        path.chmod(SOCKET_MODE)
        sock.listen(BACKLOG)
    except OSError:
        sock.close()
        path.unlink(missing_ok=True)
        raise
    return sock

"""A bound socket with, where it is a UNIX socket, its file: tried before anything opens, and let go of together."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Final

from sidecar.proxy.failure import BindCode, BindError
from sidecar.sockets import SocketFault, SocketFile, SocketRules

if TYPE_CHECKING:
    import socket
    from collections.abc import Collection

#: How long another process may hold the folder's lock, in seconds: a reload waits in the event loop.
LOCK_SECONDS: Final = 0.25

#: Modes of a socket, and of a folder that is made for one.
_OURS: Final = 0o600
ANYBODY: Final = 0o666
_FOLDER: Final = 0o711

_CODES = {
    SocketFault.IN_USE: BindCode.IN_USE,
    SocketFault.LOCKED: BindCode.LOCKED,
    SocketFault.NOT_A_SOCKET: BindCode.NOT_A_SOCKET,
    SocketFault.UNUSABLE: BindCode.FAILED,
}


class Binding:
    """A socket that is bound. ``file`` is its file where it is a UNIX socket that this process has made."""

    def __init__(self, sock: socket.socket, file: SocketFile | None = None) -> None:
        self.sock = sock
        self._file = file

    @classmethod
    def unix(cls, path: str) -> Binding:
        """Makes a UNIX socket for our own user; its folder too, if that is missing.

        Clients may connect from now on, and wait until they are accepted. Raises BindError.
        """
        file = bind_unix(Path(path), "listen", _OURS)
        return cls(file.sock, file)

    def allow(self, uids: Collection[int]) -> None:
        """Lets other users than our own connect, where ``uids`` has some: who they are is looked at when they do.

        Raises OSError where the file is somebody else's by now.
        """
        if self._file is not None:
            self._file.chmod(ANYBODY if set(uids) - {os.geteuid()} else _OURS)

    def remove(self) -> None:
        """Removes the file, if it is still ours. For before the socket is closed: while we answer, nobody replaces it."""
        if self._file is not None:
            self._file.remove()

    def close(self) -> None:
        """Removes the file and closes the socket."""
        try:
            self.remove()
        finally:
            self.sock.close()


def bind_unix(path: Path, setting: str, mode: int) -> SocketFile:
    """Makes a UNIX socket that ``setting`` names. Raises BindError."""
    return SocketFile.make(path, SocketRules("socket", setting, _error, mode, _FOLDER, LOCK_SECONDS))


def _error(fault: SocketFault, message: str, hint: str) -> BindError:
    return BindError(_CODES[fault], message, hint=hint)

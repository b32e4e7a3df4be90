"""What the system does not give for a while."""

from __future__ import annotations

import errno
import os
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    import socket

    from sidecar.accept import Acceptor


class Lacking:
    """A listening socket that has no descriptor for so many tries."""

    def __init__(self, real: socket.socket, tries: int) -> None:
        self.real = real
        self.tries = tries

    def accept(self) -> tuple[socket.socket, object]:
        if self.tries:
            self.tries -= 1
            raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))
        return self.real.accept()

    def fileno(self) -> int:
        return self.real.fileno()

    def close(self) -> None:
        self.real.close()


class Accepting(Protocol):
    """A server of ours that is open."""

    _acceptor: Acceptor | None


def lacking(server: Accepting, tries: int) -> None:
    """Lets a server find no descriptor the next so many times that it accepts."""
    acceptor = server._acceptor
    assert acceptor is not None
    acceptor._sock = Lacking(acceptor._sock, tries)  # type: ignore[assignment] # as much of one as is used

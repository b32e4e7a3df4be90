"""What the system does not give for a while."""

from __future__ import annotations

import errno
import os
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    import socket
    from collections.abc import Iterable

    from sidecar.accept import Acceptor


class Lacking:
    """A listening socket whose next answers are these errors; with none left it is the real one's turn."""

    def __init__(self, real: socket.socket, errors: Iterable[int]) -> None:
        self.real = real
        self.errors = list(errors)
        self.tries = 0

    def accept(self) -> tuple[socket.socket, object]:
        self.tries += 1
        if self.errors:
            number = self.errors.pop(0)
            raise OSError(number, os.strerror(number))
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
    acceptor._sock = Lacking(acceptor._sock, [errno.EMFILE] * tries)  # type: ignore[assignment] # as much of one as is used

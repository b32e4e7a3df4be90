"""Where access log lines go: standard output, or a file that ``logrotate`` may move away."""

from __future__ import annotations

import os
from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING

from sidecar.errors import LocalError

if TYPE_CHECKING:
    from pathlib import Path
    from typing import Self

STDOUT = 1
#: The group may read the log, nobody else.
MODE = 0o640


class SinkCode(StrEnum):
    """Why a log cannot be opened."""

    SINK_UNUSABLE = "access_log_unusable"


class SinkError(LocalError):
    """The access log's file cannot be opened for appending."""


@dataclass(slots=True)
class Sink:
    """A descriptor that takes lines. ``path`` is None for one that was given to us and is not ours to close."""

    fd: int
    path: Path | None = None

    @classmethod
    def stdout(cls) -> Self:
        """Standard output."""
        return cls(STDOUT)

    @classmethod
    def file(cls, path: Path) -> Self:
        """Opens a file for appending, making it when it does not exist. Raises `SinkError`."""
        return cls(_open(path), path)

    def reopen(self) -> bool:
        """Opens the path again; says whether it is another file now. Raises `SinkError` and keeps the old one."""
        if self.path is None:
            return False
        fd = _open(self.path)
        other = not os.path.sameopenfile(fd, self.fd)
        os.close(self.fd)
        self.fd = fd
        return other

    def close(self) -> None:
        """Closes the file; standard output stays open."""
        if self.path is not None:
            os.close(self.fd)
            self.path = None


def _open(path: Path) -> int:
    # O_NONBLOCK: a named pipe that nobody reads is an error now, and not a process that hangs at its start.
    flags = os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_NOCTTY | os.O_NONBLOCK
    try:
        return os.open(path, flags, MODE)
    except OSError as error:
        raise SinkError(
            SinkCode.SINK_UNUSABLE,
            f"the access log {path} cannot be opened: {error.strerror}",
            hint="name a file in a folder that this user may write to",
        ) from error

"""What the tests of the log share: messages that are kept, a sink on a pipe, and waiting for another thread."""

from __future__ import annotations

import os
import threading
import time
from typing import TYPE_CHECKING

from sidecar.telemetry.messages import Messages

if TYPE_CHECKING:
    from collections.abc import Callable


class KeptMessages(Messages):
    """Messages that are kept instead of written."""

    def __init__(self) -> None:
        super().__init__(lambda: 0.0)
        self.lines: list[str] = []

    def _write(self, line: bytes) -> None:
        self.lines.append(line.decode().removesuffix("\n").partition(" ")[2])


def until(condition: Callable[[], bool], seconds: float = 10.0) -> None:
    """Waits until another thread has done its part."""
    deadline = time.monotonic() + seconds
    tick = threading.Event()
    while not condition():
        assert time.monotonic() < deadline, "it did not happen in time"
        tick.wait(0.001)


def fill(fd: int) -> int:
    """Fills a pipe until it takes no more; returns the number of bytes."""
    os.set_blocking(fd, False)
    filled = 0
    try:
        while True:
            filled += os.write(fd, b"#" * 4096)
    except BlockingIOError:
        return filled


def read_all(fd: int) -> bytes:
    """Reads to the end of a pipe."""
    pieces = []
    while piece := os.read(fd, 65536):
        pieces.append(piece)
    return b"".join(pieces)

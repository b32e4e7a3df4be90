"""The proxy's own messages, for people: one line each, on standard error, never more of them than can be read.

``2026-01-31T12:00:00.000Z warning the upstream refused the connection listener=tools code=upstream_refused``

Values are escaped, so that no peer can forge a line. No message may carry a secret: callers pass names, codes and
addresses, never contents.
"""

from __future__ import annotations

import os
import select
import threading
import time
from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING

from sidecar.telemetry.text import quoted

if TYPE_CHECKING:
    from collections.abc import Callable

STDERR = 2
#: The same text at most so often in a window; what was left out is counted on the next line that is written.
BURST = 10
WINDOW_SECONDS = 10.0
#: Texts remembered at once. They are ours, so there are few; what is forgotten is only its count.
TEXTS = 512
#: What a pipe takes whole (POSIX PIPE_BUF); longer lines are cut.
LINE_BYTES = select.PIPE_BUF


class Level(StrEnum):
    """How much a message matters."""

    INFO = "info"
    WARNING = "warning"
    ERROR = "error"


@dataclass(slots=True)
class _Window:
    began: float
    written: int = 0
    left_out: int = 0


class Messages:
    """Writes messages. May be used from any thread; never blocks: a reader that is too slow misses lines."""

    def __init__(self, now: Callable[[], float], *, fd: int = STDERR) -> None:
        """``now`` is the wall clock, in seconds since the epoch."""
        self._now = now
        self._fd = fd
        self._windows: dict[str, _Window] = {}
        self._lock = threading.Lock()
        self._poll = select.poll()
        self._poll.register(fd, select.POLLOUT)
        #: Lines that standard error did not take.
        self.lost = 0

    def info(self, text: str, **values: object) -> None:
        """Says that something happened as it should."""
        self._say(Level.INFO, text, values)

    def warning(self, text: str, **values: object) -> None:
        """Says that something is wrong that concerns one request or peer."""
        self._say(Level.WARNING, text, values)

    def error(self, text: str, **values: object) -> None:
        """Says that somebody has to do something."""
        self._say(Level.ERROR, text, values)

    def _say(self, level: Level, text: str, values: dict[str, object]) -> None:
        with self._lock:
            now = self._now()
            window = self._window(text, now)
            if window.written >= BURST:
                window.left_out += 1
                return
            window.written += 1
            left_out, window.left_out = window.left_out, 0
            if left_out:
                values = {**values, "left_out": left_out}
            self._write(_line(level, text, values, now))

    def _window(self, text: str, now: float) -> _Window:
        window = self._windows.get(text)
        if window is None:
            if len(self._windows) >= TEXTS:
                self._windows.clear()
            window = self._windows[text] = _Window(now)
        elif not 0 <= now - window.began < WINDOW_SECONDS:
            window.began, window.written = now, 0
        return window

    def _write(self, line: bytes) -> None:
        try:
            # A pipe that is ready takes PIPE_BUF bytes whole, without blocking and without other writers between them.
            if any(event & select.POLLOUT for _, event in self._poll.poll(0)):
                os.write(self._fd, line)
                return
        except OSError:
            # Nobody is left to be told; the count below is for whoever looks at the metrics.
            self.lost += 1
            return
        self.lost += 1


def _line(level: Level, text: str, values: dict[str, object], now: float) -> bytes:
    second = max(0.0, now)
    stamp = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(second))
    parts = [f"{stamp}.{int(second % 1 * 1000):03d}Z", str(level), _bare(text)]
    parts += [f"{name}={_value(value)}" for name, value in values.items()]
    line = " ".join(parts).encode("ascii")
    return line[: LINE_BYTES - 1] + b"\n"


def _bare(text: str) -> str:
    """Our own sentence: escaped like a value, but without quotes around it."""
    return quoted(text)[1:-1].replace('\\"', '"')


def _value(value: object) -> str:
    text = value if isinstance(value, bytes) else str(value)
    shown = quoted(text)
    plain = shown[1:-1]
    return plain if plain and not set(plain) & set(' "=\\') else shown

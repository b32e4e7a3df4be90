"""The access log as the event loop sees it: lines are gathered here and written elsewhere.

A line costs its encoding and an append. What was gathered leaves after a tenth of a second, or when it is a block's
worth, or at once with a line that somebody may be waiting for (a denial, a closing).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

from sidecar.telemetry.encode import encode
from sidecar.telemetry.writer import LineWriter

if TYPE_CHECKING:
    from collections.abc import Callable

    from sidecar.telemetry.messages import Messages
    from sidecar.telemetry.record import Record
    from sidecar.telemetry.sink import Sink
    from sidecar.telemetry.turns import Turns


class Later(Protocol):
    """``loop.call_later``."""

    def __call__(self, delay: float, callback: Callable[[], object], /) -> object:
        """Calls back once, after ``delay`` seconds."""


@dataclass(frozen=True, slots=True)
class LogLimits:
    """Bounds of the access log. Times are seconds, sizes bytes."""

    #: Lines gathered before they are handed on without waiting. The writer's thread contends with the loop each time.
    flush_bytes: int = 256 * 1024
    #: How long a line waits for others.
    flush_seconds: float = 0.1
    #: Lines that wait for the sink: one more is dropped and counted, or with ``log_full: deny`` requests are denied.
    backlog_bytes: int = 4 * 1024 * 1024
    #: How long the end of the process waits for the sink.
    close_seconds: float = 2.0


class AccessLog:
    """One per process. Not thread-safe: everything is called from the loop's thread."""

    def __init__(
        self,
        sink: Sink,
        *,
        later: Later,
        messages: Messages,
        deny_when_full: bool = False,
        turns: Turns | None = None,
        limits: LogLimits = LogLimits(),
    ) -> None:
        """``turns``: those of the processes that write to the same sink, where there are several."""
        self._writer = LineWriter(sink, messages, turns=turns)
        self._later = later
        self._limits = limits
        self._deny = deny_when_full
        self._lines: list[bytes] = []
        self._size = 0
        #: What may be gathered: the backlog's bound less what the writer had at the last look. It only ever has less since.
        self._room = limits.backlog_bytes
        self._waiting = False
        self._closed = False
        self._dropped = 0

    def write(self, record: Record, *, urgent: bool = False) -> None:
        """Takes a record; ``urgent`` hands it, and what waits before it, to the writer at once."""
        if self._size >= self._room and not self._make_room():
            self._dropped += 1
            return
        self.add(encode(record))
        if urgent:
            self.flush()

    def add(self, line: bytes) -> None:
        """Takes a whole line, encoded already."""
        size = self._size
        if size >= self._room and not self._make_room():
            self._dropped += 1
            return
        self._lines.append(line)
        self._size = size = size + len(line)
        if size >= self._limits.flush_bytes:
            self.flush()
        elif not self._waiting:
            self._waiting = True
            self._later(self._limits.flush_seconds, self._due)

    @property
    def full(self) -> bool:
        """With ``log_full: deny``: no request may begin, because its line might find no place.

        True from three quarters of the backlog on, so that requests in flight still find room for theirs, and while
        the sink takes nothing at all. Without ``deny`` always False.
        """
        if not self._deny:
            return False
        return self._writer.broken or (self._size + self._writer.backlog) * 4 >= self._limits.backlog_bytes * 3

    @property
    def dropped(self) -> int:
        """Lines that were never written, since the start: for ``log_dropped_total``."""
        return self._dropped + self._writer.lost

    def flush(self) -> None:
        """Hands what was gathered to the writer; returns before it is written."""
        if self._lines:
            chunk = b"".join(self._lines)
            count = len(self._lines)
            self._lines.clear()
            self._size = 0
            self._writer.offer(chunk, count)
            self._room = self._limits.backlog_bytes - self._writer.backlog

    def reopen(self) -> None:
        """Opens the file again under its name: what ``logrotate`` moved away is left behind, no line is cut in two."""
        self.flush()
        self._writer.reopen()

    def close(self) -> int:
        """Writes what is left, for at most ``close_seconds``; returns how many bytes were not written. Blocks."""
        if self._closed:
            return self._writer.backlog
        self.flush()
        self._closed = True
        self._room = 0
        return self._writer.close(self._limits.close_seconds)

    def _make_room(self) -> bool:
        """Looks again at what the writer has; says whether another line finds room."""
        self._room = 0 if self._closed else self._limits.backlog_bytes - self._writer.backlog
        return self._size < self._room

    def _due(self) -> None:
        self._waiting = False
        self.flush()

"""The thread that writes the access log, so that a sink that stalls can never stall the event loop.

Two threads share this object. The loop's thread calls everything public; `_offered` is written by it alone. The
writer's own thread runs `_run`; `_settled`, `_lost`, `_torn` and `broken` are written by it alone. Reading the other
side's integer is a single step, so there is no lock that a stalled write could hold.

Lines leave whole. A write that the kernel cut short is continued where it stopped, also minutes later when a full disk
has room again; only where that cannot be (the descriptor is dead) the torn line is ended before anything follows it.
"""

from __future__ import annotations

import errno
import os
import select
import threading
from queue import SimpleQueue
from typing import TYPE_CHECKING

from sidecar.telemetry.sink import SinkError

if TYPE_CHECKING:
    from sidecar.telemetry.messages import Messages
    from sidecar.telemetry.sink import Sink
    from sidecar.telemetry.turns import Turns

#: Between two tries on a sink that may recover, in seconds.
RETRY_SECONDS = 0.5
#: What passes when somebody deletes files, or raises a quota. Everything else is final for the line at hand.
RECOVERABLE = frozenset((errno.ENOSPC, errno.EDQUOT, errno.ENOBUFS, errno.ENOMEM))


class LineWriter:
    """Takes chunks of whole lines and writes them in order."""

    def __init__(
        self, sink: Sink, messages: Messages, *, turns: Turns | None = None, retry: float = RETRY_SECONDS
    ) -> None:
        """``turns``: those of the processes that write to the same place, where there are several."""
        self._sink = sink
        self._turns = turns
        self._messages = messages
        self._retry = retry
        self._queue: SimpleQueue[tuple[bytes, int] | None] = SimpleQueue()
        self._offered = 0
        self._settled = 0
        self._lost = 0
        self._torn = False
        self._reopen = False
        self._give_up = False
        self._wake = threading.Event()
        #: The sink took nothing the last time it was tried.
        self.broken = False
        self._thread = threading.Thread(target=self._run, name="access-log", daemon=True)
        self._thread.start()

    @property
    def backlog(self) -> int:
        """Bytes that were offered and are neither written nor lost."""
        return self._offered - self._settled

    @property
    def lost(self) -> int:
        """Lines that the sink did not take."""
        return self._lost

    def offer(self, chunk: bytes, lines: int) -> None:
        """Queues whole lines. The caller keeps `backlog` within its bound."""
        self._offered += len(chunk)
        self._queue.put((chunk, lines))

    def reopen(self) -> None:
        """Opens the file again before the next write, also one that is being tried again and again."""
        self._reopen = True
        self._wake.set()

    def close(self, timeout: float) -> int:
        """Writes what is queued for at most ``timeout`` seconds; returns how many bytes were not written.

        The thread is a daemon: one that hangs in a write does not hold up the process's end.
        """
        self._queue.put(None)
        self._thread.join(timeout)
        if self._thread.is_alive():
            self._give_up = True
            self._wake.set()
            self._thread.join(self._retry)
        return self.backlog

    # -- the writer's thread -----------------------------------------------------------------------------------------

    def _run(self) -> None:
        while (item := self._queue.get()) is not None:
            chunk, lines = item
            self._write(chunk, lines)
            self._settled += len(chunk)
        self._sink.close()

    def _write(self, chunk: bytes, lines: int) -> None:
        turns = self._turns
        if turns is None:
            self._put(chunk, lines)
        elif turns.take(lambda: self._give_up):
            self._torn = turns.torn  # by whichever process
            try:
                self._put(chunk, lines)
            finally:
                turns.end(torn=self._torn)
        else:
            self._lose(chunk, 0, lines)

    def _put(self, chunk: bytes, lines: int) -> None:
        written = 0
        while written < len(chunk):
            if self._give_up:
                self._lose(chunk, written, lines)
                return
            if self._reopen:
                written = self._reopened(chunk, written)
            try:
                if self._torn:
                    os.write(self._sink.fd, b"\n")
                    self._torn = False
                written += os.write(self._sink.fd, chunk[written:] if written else chunk)
            except BlockingIOError:
                self._await_room()
            except OSError as error:
                self._report(error)
                if error.errno not in RECOVERABLE:
                    self._lose(chunk, written, lines)
                    return
                self._pause()
            else:
                self._recovered()

    def _reopened(self, chunk: bytes, written: int) -> int:
        """Returns where to go on: in another file from the beginning of the line that was cut."""
        self._reopen = False
        try:
            other = self._sink.reopen()
        except SinkError as error:
            self._messages.error(str(error), code=error.code)
            return written
        if not other:
            return written
        self._torn = False
        return chunk.rfind(b"\n", 0, written) + 1

    def _await_room(self) -> None:
        """Waits for a descriptor that does not block: a pipe whose reader is slow, a terminal that was stopped."""
        poll = select.poll()
        poll.register(self._sink.fd, select.POLLOUT)
        poll.poll(self._retry * 1000)

    def _pause(self) -> None:
        self._wake.wait(self._retry)
        self._wake.clear()

    def _lose(self, chunk: bytes, written: int, lines: int) -> None:
        done = chunk.count(b"\n", 0, written)
        self._lost += lines - done
        self._torn = self._torn or (written > 0 and not chunk.endswith(b"\n", 0, written))

    def _report(self, error: OSError) -> None:
        before, self.broken = self.broken, True  # first: whoever reads the message finds it so
        if not before:
            self._messages.error(
                "the access log takes no lines", error=errno.errorcode.get(error.errno or 0, "unknown")
            )

    def _recovered(self) -> None:
        if self.broken:
            self._messages.info("the access log takes lines again", lost=self._lost)
        self.broken = False

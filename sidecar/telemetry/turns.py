"""Turns of several processes that write lines to one sink.

A pipe takes no more than PIPE_BUF bytes whole (POSIX write(2)), and a disk that is full takes a part of any write: what
another process writes then lands in the middle of a line. So those that share an access log take turns by a record lock
(fcntl(2), F_SETLK) on one file of theirs, which the kernel takes back from a process that dies. Each sink has a byte of it,
so that one that takes nothing does not hold up the one that a reload has put in its place. The byte says whether the last
line may have no end, because whoever wrote it died at it or gave it up: the next one ends it.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import tempfile
import threading
import time
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

#: Between two tries while another process writes, in seconds: at first, and at the most. It writes what it gathered in a
#: tenth of a second at once, unless the place takes nothing.
_PAUSES: Final = (0.001, 0.05)
#: The bytes of the file. Two sinks may have the same one, and then wait for each other.
_BYTES: Final = 4096
#: What the file says of the last line.
_WHOLE, _TORN = b"\0", b"\1"


class Turns:
    """One per process and sink, around a descriptor that all of them have of the same file; first that of standard output."""

    def __init__(self, descriptor: int, byte: int = 0) -> None:
        self.descriptor = descriptor
        self._byte = byte
        self._of_byte = {byte: self}
        #: The kernel's lock is this process's: two threads of it, while a reload replaces a log, take turns by this one.
        self._within = threading.Lock()
        #: While it is our turn: the last line that was written may have no end.
        self.torn = False

    @classmethod
    def make(cls) -> Turns:
        """Makes the file: without a name, so that nobody else locks it. Raises OSError."""
        if hasattr(os, "memfd_create"):
            descriptor = os.memfd_create("sidecar-log")
        else:
            with tempfile.TemporaryFile() as file:
                descriptor = os.dup(file.fileno())
        os.pwrite(descriptor, _WHOLE * _BYTES, 0)  # now, or never: it needs no room later
        return cls(descriptor)

    def of(self, path: Path | None) -> Turns:
        """Those of a file, or of standard output; the same ones every time."""
        byte = 0
        if path is not None:
            byte = 1 + int.from_bytes(hashlib.sha256(os.fsencode(path)).digest()[:4]) % (_BYTES - 1)
        return self._of_byte.setdefault(byte, Turns(self.descriptor, byte))

    def take(self, give_up: Callable[[], bool]) -> bool:
        """Waits for our turn; False when ``give_up`` says so first."""
        pause, most = _PAUSES
        while not self._take():
            if give_up():
                return False
            time.sleep(pause)
            pause = min(2 * pause, most)
        return True

    def _take(self) -> bool:
        if not self._within.acquire(blocking=False):
            return False
        try:
            fcntl.lockf(self.descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB, 1, self._byte)
        except (BlockingIOError, PermissionError):  # POSIX lets it be either (fcntl(2))
            self._within.release()
            return False
        self.torn = os.pread(self.descriptor, 1, self._byte) == _TORN
        os.pwrite(self.descriptor, _TORN, self._byte)  # until we say otherwise, if we ever do
        return True

    def end(self, *, torn: bool = False) -> None:
        """Lets the next one write; ``torn``: the last line has no end."""
        os.pwrite(self.descriptor, _TORN if torn else _WHOLE, self._byte)
        fcntl.lockf(self.descriptor, fcntl.LOCK_UN, 1, self._byte)
        self._within.release()

    def close(self) -> None:
        """Lets go of the file."""
        os.close(self.descriptor)

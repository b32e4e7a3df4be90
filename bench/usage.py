"""What the system says that processes used: CPU time and memory."""

from __future__ import annotations

import os
import time
from pathlib import Path
from typing import TYPE_CHECKING

from bench.errors import CouldNotRunError

if TYPE_CHECKING:
    from collections.abc import Iterable

    from bench.processes import Process


def family(process: Process) -> list[int]:
    """Returns a process and its children, at any depth (a master and its worker, for example).

    Raises:
        CouldNotRunError: the process has ended.

    """
    if process.popen.poll() is not None:
        raise CouldNotRunError(f"{process.name} has ended: {process.last_words()}")
    return _family(process.pid)


def _family(pid: int) -> list[int]:
    children = [int(child) for task in Path(f"/proc/{pid}/task").iterdir() for child in _children(task)]
    return [pid, *(member for child in children for member in _family(child))]


def _children(task: Path) -> list[str]:
    try:
        return (task / "children").read_text().split()
    except (FileNotFoundError, ProcessLookupError):
        return []  # a thread that has ended since, with its connection


def cpu_seconds(processes: Iterable[Process]) -> float:
    """CPU time so far, user and system, of all processes and their children, every thread, ended ones included.

    This is the clock that clock_getcpuclockid(3) names, in nanoseconds. The ticks in /proc/PID/stat are a hundredth of a
    second, and the schedstat of threads forgets those that ended, which is all of a program with a thread a connection.
    """
    return sum(time.clock_gettime(_cpu_clock(pid)) for each in processes for pid in family(each))


def _cpu_clock(pid: int) -> int:
    # The layout of these clock ids is Linux's ABI: the inverted process id, and 2 for the scheduler's own count.
    return (~pid << 3) | 2


def resident_bytes(processes: Iterable[Process]) -> list[int]:
    """Resident set size of each process and each of its children, in bytes; pages that they share count for each."""
    return [_resident(pid) for each in processes for pid in family(each)]


def _resident(pid: int) -> int:
    return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")

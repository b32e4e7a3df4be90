"""What a process uses of the machine, as Linux shows it."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from tests.support.processes import Sidecar

MIB = 1024 * 1024


def resident(sidecar: Sidecar, what: str = "VmRSS") -> int:
    """Resident memory of a process in bytes; ``VmHWM``: the most it ever had."""
    text = Path(f"/proc/{sidecar.running.pid}/status").read_text()
    return int(text.split(f"{what}:")[1].split()[0]) * 1024


def descriptors(sidecar: Sidecar) -> list[int]:
    """What it has open. It is not dumpable, so that this takes root."""
    return [int(entry.name) for entry in Path(f"/proc/{sidecar.running.pid}/fd").iterdir()]


def cpu_seconds(sidecar: Sidecar) -> float:
    """CPU time that a process has used, its own and the kernel's for it."""
    fields = Path(f"/proc/{sidecar.running.pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")

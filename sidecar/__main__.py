"""``sidecar`` and ``python -m sidecar``: first of all process 1 becomes one that can be ended, then the command is loaded."""

from __future__ import annotations

import os
import signal
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from types import FrameType


def main() -> int:
    """Runs one command and returns its exit code."""
    # The kernel drops what process 1 of a container has no handler for (pid_namespaces(7)): a SIGTERM that comes while the
    # command is being loaded would be lost, and its sender wait. Commands that run for long put their own in its place.
    if os.getpid() == 1 and signal.getsignal(signal.SIGTERM) is signal.SIG_DFL:
        signal.signal(signal.SIGTERM, _end)
    from sidecar.cli import main as command  # noqa: PLC0415 - takes its time

    return command()


def _end(number: int, _: FrameType | None) -> None:
    """What the kernel does to every other process, with the exit code that a shell tells of it."""
    os._exit(128 + number)


if __name__ == "__main__":
    raise SystemExit(main())

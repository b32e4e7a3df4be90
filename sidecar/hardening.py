"""Keeps what a process of ours has in memory (keys, PINs, tokens) from the rest of the machine, and from the disk.

* The limit of core files is 0, soft and hard (getrlimit(2)): a crash writes nothing. Only a process with CAP_SYS_RESOURCE
  could raise it again.
* The process is not dumpable (``PR_SET_DUMPABLE``, Linux): where the kernel pipes cores into a program the limit above
  does not count (core(5)), this does; and ``/proc/PID/mem``, ``environ`` and ptrace are for CAP_SYS_PTRACE alone, so that
  no other program of the same user, the agent least of all, can read our memory.
* It gets no new privileges (``PR_SET_NO_NEW_PRIVS``, Linux): no setuid program that we, or what we start, may execute
  has any effect.

The first and the last are inherited by programs that we start, such as the command of a token source; whoever starts the
agent itself must not be hardened, but only concealed by the second.
"""

from __future__ import annotations

import os
import resource
import sys
from contextlib import suppress

#: linux/prctl.h
_PR_SET_DUMPABLE = 4
_PR_SET_NO_NEW_PRIVS = 38


def harden() -> list[str]:
    """Hardens this process, once and for all; returns what the system refused, a line each. Raises nothing."""
    missing = []
    try:
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    except (OSError, ValueError) as error:
        missing.append(f"core files cannot be switched off: {error}")
    if sys.platform == "linux":
        missing += _linux()
    return missing


def conceal() -> list[str]:
    """Does of `harden` what no program inherits that this process starts: its memory and environment are its own."""
    if sys.platform != "linux" or (reason := _prctl(_PR_SET_DUMPABLE, 0)) is None:
        return []
    return [f"other processes of this user can read its memory (PR_SET_DUMPABLE): {reason}"]


def _linux() -> list[str]:
    missing = conceal()
    if (reason := _prctl(_PR_SET_NO_NEW_PRIVS, 1)) is not None:
        missing.append(f"it may gain privileges (PR_SET_NO_NEW_PRIVS): {reason}")
    return missing


def _prctl(option: int, value: int) -> str | None:
    """Calls prctl(2); returns why it did not work."""
    reason: str | None = "no prctl in this C library"
    with suppress(ImportError, OSError, AttributeError):  # as where Python was built without it
        import ctypes  # noqa: PLC0415 - for the processes that it protects

        prctl = ctypes.CDLL(None, use_errno=True).prctl
        # The call is variadic, and unused arguments have to be 0.
        prctl.argtypes = [ctypes.c_int] + [ctypes.c_ulong] * 4
        reason = None if prctl(option, value, 0, 0, 0) == 0 else os.strerror(ctypes.get_errno())
    return reason

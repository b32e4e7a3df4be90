"""How a process of ours starts Python again: the same interpreter, which finds the package where we found it."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import sidecar


def interpreter() -> str:
    """The program that we are; by its name, unless that cannot be executed any more, or by us."""
    itself = "/proc/self/exe"
    by_name = os.access(sys.executable, os.X_OK) or not Path(itself).exists()
    return sys.executable if by_name else itself


def path_flags() -> list[str]:
    """How the child finds the package where we found it, and not in whatever folder we were started in.

    What keeps us from the environment's modules and the user's keeps the child from them as well. ``-P`` keeps the working
    directory off its path, unless that is where we have the package from ourselves.
    """
    if sys.flags.isolated:
        return ["-I"]
    root = str(Path(sidecar.__file__).parent.parent)
    from_cwd = bool(sys.path) and sys.path[0] == root and not sys.flags.safe_path
    given = (("-E", sys.flags.ignore_environment), ("-s", sys.flags.no_user_site), ("-P", not from_cwd))
    return [flag for flag, there in given if there]

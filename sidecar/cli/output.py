"""What commands tell people: complaints on stderr, each with what to do."""

from __future__ import annotations

import os
import sys
from contextlib import suppress
from typing import TYPE_CHECKING

from sidecar.config.faults import printable

if TYPE_CHECKING:
    from sidecar.config.faults import InvalidConfiguration


def complain(message: str, hint: str = "") -> None:
    """Prints one complaint of a command, and what to do about it on an indented line of its own."""
    print(f"sidecar: {printable(message)}", file=sys.stderr)
    if hint:
        print(f"    {printable(hint)}", file=sys.stderr)


def print_faults(error: InvalidConfiguration) -> None:
    """Prints every fault of a configuration, and their number as the last line."""
    print(*error.faults, sep="\n", file=sys.stderr)
    count = len(error.faults) + error.left_out
    left_out = f", {error.left_out} of them not shown" if error.left_out else ""
    name = printable(str(error.faults[0].file))
    print(f"{name}: {count} fault{'s' * (count != 1)}{left_out}", file=sys.stderr)


def columns() -> int:
    """Returns how wide the terminal of standard output is, 80 where there is none; as shutil.get_terminal_size does."""
    with suppress(KeyError, ValueError):
        if (wanted := int(os.environ["COLUMNS"])) > 0:
            return wanted
    with suppress(OSError):  # no standard output, or no terminal
        return os.get_terminal_size().columns or 80
    return 80

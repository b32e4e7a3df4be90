"""What commands tell people: complaints on stderr, each with what to do."""

from __future__ import annotations

import sys
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

"""``sidecar demo``: the whole story on one machine."""

from __future__ import annotations

import argparse
import importlib.util
from enum import StrEnum
from typing import Final

from sidecar.errors import ConfigurationError

#: What the extra ``demo`` brings, loaded by nothing but the demo.
_PACKAGES: Final = ("mcp", "rich")

NARROWEST, WIDEST = 60, 400


class DemoCode(StrEnum):
    """Why the demo does not start."""

    EXTRA_MISSING = "demo_extra_missing"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declares the command line of ``sidecar demo``."""
    parser.description = (
        "Starts an MCP server and a client with a sidecar each, on loopback and in a temporary folder, and shows what\n"
        "passes between them and what is refused. Takes a few seconds and cleans up after itself."
    )
    parser.epilog = "example:\n  sidecar demo --keep\n\nexit codes: 0 every step behaved, 1 one did not, 2 wrong usage"
    parser.add_argument("--keep", action="store_true", help="leave it running until Ctrl-C, and say where to look")
    parser.add_argument("--no-color", action="store_true", help="no colours (also: NO_COLOR=1, or a pipe)")
    parser.add_argument(
        "--width", metavar="COLUMNS", type=_width, help=f"from {NARROWEST} to {WIDEST}; by default the terminal's"
    )


def run(args: argparse.Namespace) -> int:
    """Plays the demo; raises ConfigurationError when its packages are not installed."""
    missing = [name for name in _PACKAGES if importlib.util.find_spec(name) is None]
    if missing:
        raise ConfigurationError(
            DemoCode.EXTRA_MISSING,
            f"the demo needs {' and '.join(missing)}, not installed here: pip install 'agent-sidecar[demo]'",
        )
    # Here, because this is where the packages of the extra are needed first.
    from sidecar.demo.screen import Screen  # noqa: PLC0415
    from sidecar.demo.story import tell  # noqa: PLC0415

    return tell(Screen(colour=not args.no_color, width=args.width), keep=args.keep)


def _width(text: str) -> int:
    if not text.isascii() or not text.isdigit() or not NARROWEST <= int(text) <= WIDEST:
        raise argparse.ArgumentTypeError(f"{text!r} is not a number from {NARROWEST} to {WIDEST}")
    return int(text)

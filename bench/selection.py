"""Which peers and rows: names from the command line, or the defaults."""

from __future__ import annotations

from typing import TYPE_CHECKING

from bench.errors import UsageError
from bench.peers.table import OURSELVES, PEERS
from bench.rows.table import ROWS

if TYPE_CHECKING:
    from collections.abc import Collection


def peers(text: str) -> tuple[str, ...]:
    """Peers by name, separated by commas; empty: all. We ourselves always run, first.

    Raises:
        UsageError: a name that is none; all names are given.

    """
    chosen = _chosen(text, PEERS, "peer") or set(PEERS)
    return tuple(name for name in PEERS if name in chosen or name == OURSELVES)


def rows(text: str) -> tuple[str, ...]:
    """Rows by name, separated by commas; empty: all but those that run by hand; ``all``: all.

    Raises:
        UsageError: a name that is none; all names are given.

    """
    if text.strip() == "all":
        return tuple(ROWS)
    chosen = _chosen(text, ROWS, "row") or {name for name, row in ROWS.items() if not row.by_hand}
    return tuple(name for name in ROWS if name in chosen)


def _chosen(text: str, known: Collection[str], kind: str) -> set[str]:
    chosen = {name for name in (part.strip() for part in text.split(",")) if name}
    unknown = sorted(chosen.difference(known))
    if unknown:
        raise UsageError(f"no {kind} is called {', '.join(unknown)}; there are {', '.join(known)}")
    return chosen

"""Times as people read them."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Final

_UNITS: Final = ((86400, "day"), (3600, "hour"), (60, "minute"), (1, "second"))


def moment(seconds: float) -> str:
    """Returns seconds since the epoch as a date and a time, UTC."""
    return datetime.fromtimestamp(seconds, tz=UTC).strftime("%Y-%m-%d %H:%M:%S UTC")


def span(seconds: float) -> str:
    """Returns a time in its two largest units: ``6 days 23 hours``."""
    rest = int(seconds)
    parts = []
    for length, unit in _UNITS:
        number, rest = divmod(rest, length)
        if number:
            parts.append(count(number, unit, f"{unit}s"))
    return " ".join(parts[:2]) or "0 seconds"


def count(number: int, one: str, many: str) -> str:
    """Returns a number of things: ``1 day``, ``2 days``."""
    return f"{number} {one if number == 1 else many}"

"""What was measured: rounds of one cell, and how a number is written."""

from __future__ import annotations

import statistics
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Self

if TYPE_CHECKING:
    from collections.abc import Mapping


@dataclass(slots=True)
class Cell:
    """One peer in one line. ``trouble`` says why it could not run, ``missing`` what the machine lacks for it.

    ``notes`` are further figures of each round, named with their unit.
    """

    rounds: list[float] = field(default_factory=list)
    notes: list[dict[str, float]] = field(default_factory=list)
    trouble: str | None = None
    missing: str | None = None

    @property
    def measured(self) -> bool:
        """Whether every round went right; a cell with a failed round counts for nothing."""
        return bool(self.rounds) and self.trouble is None and self.missing is None

    @property
    def median(self) -> float:
        """The middle of the rounds."""
        return statistics.median(self.rounds)

    @property
    def low(self) -> float:
        """The least of the rounds."""
        return min(self.rounds)

    @property
    def high(self) -> float:
        """The greatest of the rounds."""
        return max(self.rounds)

    def as_json(self) -> dict[str, Any]:
        """Everything, with the median and spread spelled out."""
        if self.missing is not None:
            return {"missing": self.missing}
        found: dict[str, Any] = {"rounds": self.rounds, "notes": self.notes}
        if self.trouble is not None:
            return found | {"could_not_run": self.trouble}
        return found | ({"median": self.median, "min": self.low, "max": self.high} if self.rounds else {})

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> Self:
        """The reverse of `as_json`."""
        return cls(
            list(value.get("rounds", [])),
            list(value.get("notes", [])),
            value.get("could_not_run"),
            value.get("missing"),
        )


def written(value: float) -> str:
    """Writes a number with three digits that count: 1234, 123, 12.3, 1.23, 0.123."""
    if value == 0:
        return "0"
    for limit, digits in ((100.0, 0), (10.0, 1), (1.0, 2)):
        if abs(value) >= limit - 0.05 * 10.0**-digits:
            return f"{value:.{digits}f}"
    return f"{value:.3f}"

"""The result of a run: what it ran on, and every cell. It is what the table, the chart and the page are made of."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Self

from bench.errors import UsageError
from bench.figures import Cell
from bench.rows.row import Line

if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path

FORMAT = 1


@dataclass(slots=True)
class Result:
    """``about`` holds machine, versions, date, command and settings; ``cells`` is by line, then by peer."""

    about: dict[str, Any]
    peers: list[str]
    lines: dict[str, Line] = field(default_factory=dict)
    cells: dict[str, dict[str, Cell]] = field(default_factory=dict)

    def cell(self, line: str, peer: str) -> Cell:
        """The cell of a peer in a line, made when it is not there."""
        return self.cells.setdefault(line, {}).setdefault(peer, Cell())

    def measured(self, line: str, peer: str) -> Cell | None:
        """The cell, when all its rounds went right."""
        cell = self.cells.get(line, {}).get(peer)
        return cell if cell is not None and cell.measured else None

    def announce(self, lines: Iterable[Line]) -> None:
        """Adds lines in the order in which they will be shown."""
        for line in lines:
            self.lines[line.id] = line
            self.cells.setdefault(line.id, {})

    def troubles(self) -> list[tuple[str, str, str]]:
        """Every cell that could not run or is missing: line, peer, and what was wrong."""
        return [
            (line, peer, f"could not run: {cell.trouble}" if cell.trouble else f"missing: {cell.missing}")
            for line, cells in self.cells.items()
            for peer, cell in cells.items()
            if cell.trouble or cell.missing
        ]

    def as_json(self) -> dict[str, Any]:
        """As plain values."""
        lines = [
            {
                "id": line.id,
                "title": line.title,
                "unit": line.unit,
                **({"more_is_better": True} if line.more else {}),
                "peers": {peer: cell.as_json() for peer, cell in self.cells[line.id].items()},
            }
            for line in self.lines.values()
        ]
        return {"format": FORMAT, **self.about, "peers": self.peers, "lines": lines}

    @classmethod
    def read(cls, path: Path) -> Self:
        """Reads what `as_json` wrote; raises UsageError when it is something else."""
        try:
            value = json.loads(path.read_text())
            if value.pop("format") != FORMAT:
                raise UsageError(f"{path} is a result of another version: run the benchmark again")
            lines = value.pop("lines")
            made = cls(peers=value.pop("peers"), about=value)
            made.announce(
                Line(line["id"], line["title"], line["unit"], line.get("more_is_better", False)) for line in lines
            )
            made.cells = {
                line["id"]: {peer: Cell.from_json(cell) for peer, cell in line["peers"].items()} for line in lines
            }
        except (OSError, ValueError, KeyError, AttributeError, TypeError) as error:
            raise UsageError(f"{path} cannot be read as a result: {error}") from error
        return made

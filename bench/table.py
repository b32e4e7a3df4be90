"""The tables of a result, as text for a terminal and as Markdown for a page: what was measured, and the verdicts."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from bench.budgets import BUDGETS, verdicts
from bench.figures import written
from bench.peers.table import OURSELVES

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from bench.figures import Cell
    from bench.result import Result
    from bench.rows.row import Line

    Rows = list[list[str]]

#: Longer reasons are cut in a cell; below the tables they stand whole.
_REASON: Final = 24
NONE: Final = "-"
LEGEND: Final = "median (spread) of the rounds; xN is the cost of sidecar as a multiple of that peer's"


def figures(result: Result, lines: Sequence[Line]) -> Rows:
    """A row for each line, a column for each peer that has anything to do with one of them."""
    peers = [peer for peer in result.peers if any(peer in result.cells[line.id] for line in lines)]
    body = [[f"{line.title}, {line.unit}", *(_cell(result, line.id, peer) for peer in peers)] for line in lines]
    return [["", *peers], *body]


def judged(result: Result, lines: Iterable[Line]) -> Rows:
    """A row for each line that has a budget: our figure, what must be and what is aimed at, each with its verdict."""
    rows = [["", OURSELVES, "must", "aim"]]
    for line in lines:
        budget = BUDGETS.get(line.id)
        if budget is None:
            continue
        told = [
            "; ".join(verdict.text(line.unit) for verdict in verdicts(bounds, line.id, result, OURSELVES)) or NONE
            for bounds in (budget.must, budget.aim)
        ]
        own = result.measured(line.id, OURSELVES)
        figure = f"{written(own.median)} {line.unit}" if own is not None else _cell(result, line.id, OURSELVES)
        rows.append([line.title, figure, *told])
    return rows


def _cell(result: Result, line: str, peer: str) -> str:
    cell, own = result.cells[line].get(peer), result.measured(line, OURSELVES)
    if cell is None or cell == type(cell)():
        return NONE
    if cell.missing is not None:
        return "missing"
    if cell.trouble is not None:
        reason = cell.trouble if len(cell.trouble) <= _REASON else f"{cell.trouble[: _REASON - 1]}…"
        return f"could not run: {reason}"
    figure = _with_spread(cell)
    return (
        figure if peer == OURSELVES or own is None or not cell.median else f"{figure} x{own.median / cell.median:.2f}"
    )


def _with_spread(cell: Cell) -> str:
    median = written(cell.median)
    return median if len(cell.rounds) == 1 else f"{median} ({written(cell.low)}-{written(cell.high)})"


def split(result: Result) -> tuple[list[Line], list[Line]]:
    """The lines of the budgets, with those that a budget refers to, and the others."""
    bounds = [bound for budget in BUDGETS.values() for bound in budget.must + budget.aim]
    named = set(BUDGETS) | {bound.line for bound in bounds if bound.line}
    lines = list(result.lines.values())
    return [line for line in lines if line.id in named], [line for line in lines if line.id not in named]


def as_text(result: Result) -> str:
    """All tables with aligned columns, and every cell that could not run or is missing, with the whole reason."""
    budgets, beyond = split(result)
    parts = [f"{LEGEND}\n"]
    parts += [_aligned(figures(result, lines)) for lines in (budgets, beyond) if lines]
    if budgets:
        parts.append(_aligned(judged(result, budgets)))
    return "\n".join([*parts, *troubles(result)])


def troubles(result: Result) -> list[str]:
    """A sentence for each reason, with the peers and lines that it stopped."""
    by_reason: dict[tuple[str, str], list[str]] = {}
    for line, peer, what in result.troubles():
        by_reason.setdefault((peer, what), []).append(line)
    return [f"{peer} in {', '.join(lines)}: {what}" for (peer, what), lines in by_reason.items()]


def _aligned(rows: Rows) -> str:
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    lines = ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows]
    return "\n".join(lines) + "\n"


def as_markdown(rows: Rows) -> str:
    """One table in Markdown; a bar in a reason would be a column."""
    divider = ["---"] * len(rows[0])
    lines = [[cell.replace("|", "\\|") for cell in row] for row in [rows[0], divider, *rows[1:]]]
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)

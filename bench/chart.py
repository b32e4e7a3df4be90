"""The chart of a result: one SVG that a person can read. A panel a line, a bar a peer, marks for the budget."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from bench.budgets import BUDGETS, Budget, verdicts
from bench.figures import written
from bench.peers.table import OURSELVES
from bench.svg import INK, Canvas, Font
from bench.table import split

if TYPE_CHECKING:
    from collections.abc import Sequence

    from bench.figures import Cell
    from bench.result import Result
    from bench.rows.row import Line
    from bench.svg import Anchor

WIDTH: Final = 1080
MARGIN: Final = 24
#: Two columns of panels; in each the names stand left of the bars, and figures have room to their right.
COLUMN: Final = (WIDTH - 3 * MARGIN) // 2 + MARGIN
NAMES: Final = 84
LENGTH: Final = 350
BAR: Final = 15
STEP: Final = 21
#: Above the bars: the title, and the words of the marks.
TITLE: Final = 44
HEADING: Final = 34
#: Words of two marks that are nearer than this go apart.
NEAR: Final = 64

FAINT, OURS, THEIRS, MUST, AIM = "#66727f", "#1f6feb", "#a9b7c6", "#c62828", "#2e7d32"

Mark = tuple[float, str, str]
"""A limit, its word and its colour."""


def draw(result: Result) -> str:
    """Draws all lines of a result, those of the budgets first."""
    canvas = Canvas()
    canvas.text(MARGIN, 38, "What a pair of proxies costs: shorter is better", Font(18, bold=True))
    machine = result.about.get("machine", {})
    about = f"{machine.get('cpu', 'unknown processor')}, {result.about.get('date', 'no date')}"
    canvas.text(MARGIN, 58, about, Font(fill=FAINT))
    _legend(canvas, 82)
    y = 92.0
    for heading, lines in zip(("The budgets", "Beyond them"), split(result), strict=True):
        if lines:
            canvas.text(MARGIN, y + HEADING, heading, Font(15, bold=True))
            y = _columns(canvas, result, lines, y + HEADING)
    return canvas.document(WIDTH, y + MARGIN, "Cost of a pair of proxies, sidecar and others")


def _legend(canvas: Canvas, y: float) -> None:
    x = float(MARGIN)
    for colour, words, width in ((OURS, "sidecar", 90), (THEIRS, "others", 80)):
        canvas.rect(x, y - 10, 12, 12, colour)
        canvas.text(x + 18, y, words, Font())
        x += width
    canvas.line(x, y - 4, x + 22, y - 4, INK)
    canvas.text(x + 28, y, "spread of the rounds", Font())
    x += 180
    for colour, words in ((MUST, "must"), (AIM, "aim")):
        canvas.line(x + 5, y - 12, x + 5, y + 4, colour, dashed=colour == AIM)
        canvas.text(x + 14, y, words, Font())
        x += 70


def _columns(canvas: Canvas, result: Result, lines: Sequence[Line], top: float) -> float:
    """Draws each panel in the column that is shorter so far; returns where the longer one ends."""
    ends = [top, top]
    for line in lines:
        column = ends.index(min(ends))
        ends[column] = _panel(canvas, result, line, MARGIN + column * COLUMN, ends[column])
    return max(ends)


def _panel(canvas: Canvas, result: Result, line: Line, x: float, y: float) -> float:
    found = ((peer, result.cells[line.id].get(peer)) for peer in result.peers)
    cells = {peer: cell for peer, cell in found if cell is not None and (cell.rounds or cell.trouble or cell.missing)}
    marks = _marks(result, line)
    longest = max([*(cell.high for cell in cells.values() if cell.measured), *(mark[0] for mark in marks)], default=0.0)
    scale, left, top = (LENGTH / longest if longest else 0.0), x + NAMES, y + TITLE
    longer = " (longer is better)" if line.more else ""
    canvas.text(x, y + 22, f"{line.title}, {line.unit}{longer}", Font(13, bold=True))
    for place, (peer, cell) in enumerate(cells.items()):
        if cell.measured:
            colour = OURS if peer == OURSELVES else THEIRS
            canvas.rect(left, top + place * STEP, cell.median * scale, BAR, colour, f"{peer}: {written(cell.median)}")
    bottom = top + len(cells) * STEP
    _draw_marks(canvas, marks, left, scale, (top - 4, bottom - 2))
    for place, (peer, cell) in enumerate(cells.items()):
        _words(canvas, peer, cell, left, top + place * STEP, scale)
    return bottom


def _marks(result: Result, line: Line) -> list[Mark]:
    """The limits of a line that are known, in rising order; of several aims the last one, which is the hardest."""
    budget = BUDGETS.get(line.id, Budget(()))
    found: list[Mark] = []
    for bounds, word, colour in ((budget.must, "must", MUST), (budget.aim, "aim", AIM)):
        limits = [
            verdict.limit for verdict in verdicts(bounds, line.id, result, OURSELVES) if verdict.limit is not None
        ]
        found += [(limit, f"{word} {written(limit)}", colour) for limit in limits[-1:]]
    return sorted(found)


def _draw_marks(canvas: Canvas, marks: list[Mark], left: float, scale: float, span: tuple[float, float]) -> None:
    apart = len(marks) == 2 and (marks[1][0] - marks[0][0]) * scale < NEAR
    anchors: tuple[Anchor, Anchor] = ("end", "start") if apart else ("middle", "middle")
    for (limit, words, colour), anchor in zip(marks, anchors, strict=False):
        x = left + limit * scale
        canvas.line(x, span[0], x, span[1], colour, dashed=colour == AIM)
        canvas.text(x, span[0] - 3, words, Font(10, fill=colour), anchor)


def _words(canvas: Canvas, peer: str, cell: Cell, left: float, y: float, scale: float) -> None:
    ours = peer == OURSELVES
    canvas.text(left - 8, y + 12, peer, Font(bold=ours), "end")
    if not cell.measured:
        words = "missing" if cell.missing else f"could not run: {cell.trouble}"
        canvas.text(left, y + 12, words[:50], Font(11, fill=FAINT, italic=True, halo=True))
        return
    canvas.line(left + cell.low * scale, y + BAR / 2, left + cell.high * scale, y + BAR / 2, INK)
    canvas.text(left + cell.high * scale + 8, y + 12, written(cell.median), Font(bold=ours, halo=True))

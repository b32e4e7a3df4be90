"""How the story looks: rich text, readable without colour, from 60 columns on."""

from __future__ import annotations

from dataclasses import dataclass
from textwrap import indent
from typing import TYPE_CHECKING, Final

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table
from rich.text import Text

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from rich.console import RenderableType

    from sidecar.demo.outcome import Outcome, Step, UnexpectedError

OK: Final = "ok"
FAILED: Final = "FAILED"

_GOOD, _BAD, _FAINT, _HEAD = "bold green", "bold red", "dim", "bold cyan"
_MARGIN, _DEEPER = 3, 6


@dataclass(frozen=True, slots=True)
class Row:
    """A step in the closing table."""

    step: Step
    happened: str
    ok: bool


class Screen:
    """Prints the story as it goes. Everything is text as it is: nothing in it is taken for markup."""

    def __init__(self, *, colour: bool = True, width: int | None = None) -> None:
        self.console = Console(no_color=not colour or None, width=width, markup=False, highlight=False, emoji=False)

    def opening(self, folder: str) -> None:
        """The title, and the picture of who speaks with whom."""
        self._print(Text("Two agents, two sidecars, mutual TLS, named callers only", _HEAD))
        self._print()
        self._paragraph(Text("planner --http--> sidecar ==mutual TLS==> sidecar --http--> tools"), _MARGIN)
        self._paragraph(Text(f"real processes on this machine, in {folder}"), _MARGIN)

    def begin(self, number: int, step: Step) -> None:
        """A step's heading, what it sends and what should happen."""
        self._print()
        self._print(Text(f"{number}  {step.title}", _HEAD))
        self._pairs((("sends", Text(step.sends)), ("expected", Text(step.expected))), _MARGIN, label=8)

    def succeed(self, outcome: Outcome) -> None:
        """What happened, as it should, with the evidence."""
        self._verdict(outcome.happened, ok=True)
        for section in outcome.evidence:
            self._paragraph(Text(section.heading + ":"), _MARGIN)
            self._pairs(((label, Text(value)) for label, value in section.rows), _DEEPER)

    def fail(self, error: UnexpectedError) -> None:
        """What happened instead, with what was said about it."""
        self._verdict(str(error), ok=False)
        if error.detail:
            self._paragraph(Text(error.detail), _DEEPER)

    def table(self, rows: Sequence[Row]) -> None:
        """What happened, all of it on one look."""
        table = Table(box=SIMPLE_HEAD, pad_edge=False, padding=(0, 1, 0, 0))
        for name in ("", "step", "expected", "happened"):
            table.add_column(name, overflow="fold", no_wrap=not name)
        table.add_column("", no_wrap=True)
        for number, row in enumerate(rows, 1):
            verdict = Text(OK, _GOOD) if row.ok else Text(FAILED, _BAD)
            table.add_row(str(number), row.step.name, row.step.expected, row.happened, verdict)
        with self.console.capture() as capture:
            self.console.print(table)
        # As text, so that no line ends with the blanks that fill its last column.
        lines = [line.rstrip() for line in capture.get().splitlines()]
        self.console.file.write("\n" + "\n".join(filter(None, lines)) + "\n")

    def note(self, text: str, style: str = "") -> None:
        """A paragraph."""
        self._print()
        self._print(Text(text, style))

    def commands(self, commands: Iterable[tuple[str, str]]) -> None:
        """Commands to copy, each on a line of its own that is never broken by us, below what it shows."""
        for command, shows in commands:
            self._paragraph(Text(f"# {shows}", _FAINT), _MARGIN)
            self.console.print(Text(indent(command, " " * _MARGIN)), soft_wrap=True)

    def _verdict(self, happened: str, *, ok: bool) -> None:
        word = (OK, _GOOD) if ok else (FAILED, _BAD)
        self._pairs((("happened", Text.assemble(word, "  ", happened)),), _MARGIN, label=8)

    def _pairs(self, pairs: Iterable[tuple[str, Text]], margin: int, label: int = 0) -> None:
        """Labels and values, side by side; a value that is too long goes on below itself and is never cut."""
        pairs = list(pairs)
        begin = margin + max([label, *(len(name) for name, _ in pairs)]) + 2
        for name, value in pairs:
            for number, line in enumerate(self._wrapped(value, begin)):
                head = " " * margin + ("" if number else name)
                self._print(Text.assemble((head.ljust(begin), _FAINT), line))

    def _paragraph(self, text: Text, margin: int) -> None:
        for line in self._wrapped(text, margin):
            self._print(Text(" " * margin).append_text(line))

    def _wrapped(self, text: Text, margin: int) -> list[Text]:
        lines = list(text.wrap(self.console, max(self.console.width - margin, 20), overflow="fold"))
        for line in lines:
            line.rstrip()
        return lines

    def _print(self, what: RenderableType = "") -> None:
        self.console.print(what)
        self.console.file.flush()

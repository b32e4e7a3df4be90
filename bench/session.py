"""One run of the benchmark: settings, certificates, and the rounds."""

from __future__ import annotations

import itertools
import shutil
import time
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, TypeVar

from bench.errors import CouldNotRunError
from bench.figures import written
from bench.peers.table import OURSELVES, PEERS
from bench.processes import Crew
from bench.rows.row import Contestant
from bench.site import Site

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator
    from pathlib import Path

    from bench.certificates import Certificates
    from bench.result import Result
    from bench.rows.row import Reading, Row

State = TypeVar("State")


@dataclass(frozen=True, slots=True)
class Settings:
    """``rounds`` of ``seconds`` each. ``peers`` and ``rows`` are names, in the order of the table."""

    peers: tuple[str, ...]
    rows: tuple[str, ...]
    rounds: int = 5
    seconds: float = 3.0


@dataclass(slots=True)
class Session:
    """What a row needs to be played."""

    settings: Settings
    certificates: Certificates
    folder: Path
    cores: tuple[int, int]
    result: Result
    say: Callable[[str], None]
    _began: float = field(default_factory=time.monotonic)
    _sites: Iterator[int] = field(default_factory=itertools.count)

    @contextmanager
    def site(self) -> Iterator[Site]:
        """A place in which things run; they are ended with the block."""
        folder = self.folder / str(next(self._sites))  # short: a UNIX socket has a path of 107 bytes
        folder.mkdir()
        try:
            with Crew(folder, *self.cores) as crew:
                yield Site(crew, self.certificates)
        finally:
            shutil.rmtree(folder)  # a row writes some hundred megabytes of access log

    def contestants(self, row: Row) -> list[Contestant]:
        """The chosen peers of a row that this machine has; the others are put down as missing."""
        lines = tuple(line.id for line in row.lines)
        found = []
        for name, work in row.peers.items():
            if name not in self.settings.peers:
                continue
            lack = PEERS[name].missing(work)
            if lack is None:
                found.append(Contestant(PEERS[name], work, lines))
                continue
            self.progress(row.id, f"{name} is missing: {lack}")
            for line in lines:
                self.result.cell(line, name).missing = lack
        return found

    def interleave(
        self,
        row: Row,
        contestants: Iterable[Contestant],
        prepare: Callable[[Contestant], State],
        measure: Callable[[Contestant, State], Reading],
    ) -> None:
        """Prepares everybody, then plays round 1 of everybody, round 2 of everybody, and so on."""
        ready = self.prepare(row, contestants, prepare)
        for number in range(1, self.settings.rounds + 1):
            self.play_round(row, ready, number, measure)

    def prepare(
        self, row: Row, contestants: Iterable[Contestant], prepare: Callable[[Contestant], State]
    ) -> dict[Contestant, State]:
        """Prepares everybody; who cannot be is left out, with the reason in its cells."""
        ready = {}
        for each in contestants:
            try:
                ready[each] = prepare(each)
            except CouldNotRunError as error:
                self._put_down(row, each, error, "before the first round")
        return ready

    def play_round(
        self,
        row: Row,
        ready: dict[Contestant, State],
        number: int,
        measure: Callable[[Contestant, State], Reading],
    ) -> None:
        """Measures everybody once. Who fails is out from there on, and stops nobody else."""
        for each in list(ready):
            try:
                reading = measure(each, ready[each])
            except CouldNotRunError as error:
                self._put_down(row, each, error, f"in round {number}")
                del ready[each]
            else:
                self._record(row, each, number, reading)

    def _put_down(self, row: Row, contestant: Contestant, error: CouldNotRunError, when: str) -> None:
        self.progress(row.id, f"{contestant.peer.name} could not run {when}: {error}")
        for line in contestant.lines:
            self.result.cell(line, contestant.peer.name).trouble = f"{error} ({when})"

    def _record(self, row: Row, contestant: Contestant, number: int, reading: Reading) -> None:
        told = []
        for line, value in zip(contestant.lines, reading.values, strict=True):
            cell = self.result.cell(line, contestant.peer.name)
            cell.rounds.append(value)
            cell.notes.append(reading.notes)
            suffix = line.removeprefix(row.id).lstrip(".")
            told.append(f"{suffix} {written(value)} {self.result.lines[line].unit}".strip())
        notes = "".join(f", {written(value)} {name}" for name, value in reading.notes.items())
        rounds = f"round {number}/{self.settings.rounds}"
        self.progress(row.id, f"{rounds}  {contestant.peer.name:10} {', '.join(told)}{notes}")

    def progress(self, row: str, text: str) -> None:
        """Says what has just happened, and how long it has taken so far."""
        minutes, seconds = divmod(int(time.monotonic() - self._began), 60)
        self.say(f"[{minutes:2}:{seconds:02}] {row:14} {text}")

    @property
    def went_well(self) -> bool:
        """Whether we ourselves were measured in every line that was asked for and that this machine can measure."""
        cells = (self.result.cell(line, OURSELVES) for line in self.result.lines)
        return all(cell.measured or cell.missing is not None for cell in cells)

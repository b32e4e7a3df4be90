"""The demo from its first line to its last, and the end of everything it started."""

from __future__ import annotations

import shutil
import signal
import tempfile
from contextlib import contextmanager
from dataclasses import fields
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn

from sidecar.clock import Clock
from sidecar.demo import software_tpm
from sidecar.demo.further import commands
from sidecar.demo.outcome import UnexpectedError
from sidecar.demo.ports import free_ports
from sidecar.demo.processes import ENDING, Crew
from sidecar.demo.screen import Row, Screen
from sidecar.demo.stage import Ports, Stage
from sidecar.demo.steps import story_of

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from types import FrameType

    from sidecar.demo.outcome import Outcome, Step


def tell(screen: Screen, *, keep: bool = False, story: Sequence[Step] | None = None) -> int:
    """Plays the whole story, or another one; returns 0 if every step behaved, else 1.

    With ``keep`` everything goes on running until Ctrl-C. Processes and folder are gone when this returns or raises.
    """
    started = Clock().monotonic()
    try:
        with _stage() as stage:
            screen.opening(str(stage.folder))
            rows = perform(screen, stage, story_of(stage) if story is None else story)
            ok = all(row.ok for row in rows)
            screen.table(rows)
            seconds = Clock().monotonic() - started
            verdict = "every step behaved as it should" if ok else "not every step behaved as it should"
            screen.note(f"{verdict}; {seconds:.1f} s", "bold green" if ok else "bold red")
            _look_further(screen, stage, keep=keep)
    except KeyboardInterrupt:
        screen.note("interrupted; everything that was started is ended")
        raise
    return 0 if ok else 1


def perform(screen: Screen, stage: Stage, story: Sequence[Step]) -> list[Row]:
    """Runs one step after the other. Without the first one, which makes the stage, there is no other."""
    rows: list[Row] = []
    for number, step in enumerate(story, 1):
        screen.begin(number, step)
        try:
            outcome = _attempt(step, stage)
        except UnexpectedError as error:
            screen.fail(error)
            rows.append(Row(step, str(error), ok=False))
            if number == 1:
                return rows + [Row(other, "not run", ok=False) for other in story[1:]]
        else:
            screen.succeed(outcome)
            rows.append(Row(step, outcome.happened, ok=True))
    return rows


def _attempt(step: Step, stage: Stage) -> Outcome:
    """Runs a step; whatever goes wrong in it is its outcome, and what a dead process said is told with it."""
    try:
        return step.run(stage)
    except UnexpectedError as error:
        error.detail = "\n".join(filter(None, (error.detail, stage.crew.last_words())))
        raise
    except Exception as error:
        # A step reads what other programs wrote: it fails, the story goes on, and no traceback is shown.
        raise UnexpectedError(f"{type(error).__name__}: {error}", stage.crew.last_words()) from error


def _look_further(screen: Screen, stage: Stage, *, keep: bool) -> None:
    if not keep:
        screen.note("To look further, leave it running: sidecar demo --keep")
        return
    screen.note("All of it goes on running. To look further, in another terminal:")
    screen.commands(commands(stage))
    screen.note("Ctrl-C ends it and removes the folder.", "bold")
    try:
        signal.pause()
    except KeyboardInterrupt:
        screen.note("ended")


@contextmanager
def _stage() -> Iterator[Stage]:
    """A folder for us alone and a crew of software TPMs at most; both are gone afterwards, whatever happened."""
    with _signals():
        folder = Path(tempfile.mkdtemp(prefix="sidecar-demo-")).resolve()
        crew = Crew(folder)
        try:
            running, no_tpm = software_tpm.power_on(crew)
            yield Stage(folder, Ports(*free_ports(len(fields(Ports)))), crew, dict(running), no_tpm)
        finally:
            # From here on nothing interrupts: it is bounded, and half of it would leave processes behind.
            for number in ENDING:
                signal.signal(number, signal.SIG_IGN)
            crew.stop()
            shutil.rmtree(folder, ignore_errors=True)


@contextmanager
def _signals() -> Iterator[None]:
    """Lets the signals that end a process unwind it instead; one that is ignored, as under `nohup`, stays so."""
    before = {number: signal.getsignal(number) for number in ENDING}
    for number, handler in before.items():
        if handler is signal.SIG_DFL:
            signal.signal(number, _leave)
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _leave(number: int, _: FrameType | None) -> NoReturn:
    raise SystemExit(128 + number)

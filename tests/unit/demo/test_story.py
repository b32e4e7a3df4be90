from __future__ import annotations

import os
import signal
from typing import TYPE_CHECKING

import pytest

from sidecar.demo import software_tpm
from sidecar.demo import story as story_module
from sidecar.demo.outcome import Outcome, Section, Step, UnexpectedError
from sidecar.demo.screen import Screen
from sidecar.demo.steps import copied_key, story_of
from sidecar.demo.story import tell

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from sidecar.demo.stage import Stage


def step(name: str, run: Callable[[Stage], Outcome]) -> Step:
    return Step(name, name.title(), "something", "something good", run)


class Set:
    """A first step that notes the stage and starts a process that would live for long."""

    def __init__(self, tmp_path: Path) -> None:
        self.stage: Stage | None = None
        self.pid = 0
        (tmp_path / "demo_lasting.py").write_text("import time\ntime.sleep(60)\n")
        self.path = str(tmp_path)

    def __call__(self, stage: Stage) -> Outcome:
        self.stage = stage
        self.pid = stage.crew.start("lasting", "demo_lasting", extra={"PYTHONPATH": self.path}).popen.pid
        return Outcome("set up", (Section("evidence", (("a", "b"),)),))

    def gone(self) -> bool:
        assert self.stage is not None
        assert self.pid
        with pytest.raises(ProcessLookupError):
            os.kill(self.pid, 0)
        return not self.stage.folder.exists()


@pytest.fixture(autouse=True)
def _no_tpm(monkeypatch: pytest.MonkeyPatch) -> None:
    """Software TPMs have tests of their own."""
    monkeypatch.setattr(software_tpm, "lacking", lambda: "apt-get install swtpm")


@pytest.fixture
def first(tmp_path: Path) -> Set:
    return Set(tmp_path)


def fine(_: Stage) -> Outcome:
    return Outcome("as it should")


def wrong(_: Stage) -> Outcome:
    raise UnexpectedError("quite another thing", "because of this")


def broken(_: Stage) -> Outcome:
    raise KeyError("what nobody thought of")


def test_a_good_story(first: Set, capsys: pytest.CaptureFixture[str]) -> None:
    assert tell(Screen(width=80), story=[step("first", first), step("second", fine)]) == 0
    assert first.gone()
    text = capsys.readouterr().out
    assert "every step behaved as it should" in text
    assert "sidecar demo --keep" in text


@pytest.mark.parametrize(
    ("run", "words"),
    [(wrong, ["quite another thing", "because of this"]), (broken, ["KeyError", "what nobody thought of"])],
)
def test_a_step_that_does_not_behave(
    first: Set, run: Callable[[Stage], Outcome], words: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    steps = [step("first", first), step("second", run), step("third", fine)]
    assert tell(Screen(width=80), story=steps) == 1
    assert first.gone()
    text = capsys.readouterr().out
    for word in (*words, "not every step behaved", "FAILED", "as it should"):
        assert word in text
    assert "Traceback" not in text


def test_without_a_stage_nothing_else_is_tried(capsys: pytest.CaptureFixture[str]) -> None:
    tried: list[str] = []

    def never(_: Stage) -> Outcome:
        tried.append("x")
        return Outcome("")

    assert tell(Screen(width=80), story=[step("first", wrong), step("second", never)]) == 1
    assert not tried
    assert "not run" in capsys.readouterr().out


def test_what_a_dead_process_said_is_told(first: Set, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "demo_dying.py").write_text("import sys\nsys.exit('my last words')\n")

    def run(stage: Stage) -> Outcome:
        process = stage.crew.start("dying", "demo_dying", extra={"PYTHONPATH": str(tmp_path)})
        process.popen.wait(10)
        raise UnexpectedError("no answer")

    assert tell(Screen(width=80), story=[step("first", first), step("second", run)]) == 1
    assert "my last words" in capsys.readouterr().out


def test_ctrl_c_ends_everything(first: Set, capsys: pytest.CaptureFixture[str]) -> None:
    def interrupted(_: Stage) -> Outcome:
        signal.raise_signal(signal.SIGINT)
        return Outcome("")

    before = signal.getsignal(signal.SIGINT)
    with pytest.raises(KeyboardInterrupt):
        tell(Screen(width=80), story=[step("first", first), step("second", interrupted)])
    assert first.gone()
    assert signal.getsignal(signal.SIGINT) is before
    assert "interrupted" in capsys.readouterr().out


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP])
def test_other_signals_end_everything_too(first: Set, number: signal.Signals) -> None:
    def ended(_: Stage) -> Outcome:
        signal.raise_signal(number)
        return Outcome("")

    with pytest.raises(SystemExit) as caught:
        tell(Screen(width=80), story=[step("first", first), step("second", ended)])
    assert caught.value.code == 128 + number
    assert first.gone()
    assert signal.getsignal(number) is signal.SIG_DFL


def test_an_ignored_signal_stays_ignored(first: Set) -> None:
    def go_on(_: Stage) -> Outcome:
        signal.raise_signal(signal.SIGHUP)
        return Outcome("still here")

    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        assert tell(Screen(width=80), story=[step("first", first), step("second", go_on)]) == 0
    finally:
        signal.signal(signal.SIGHUP, before)


@pytest.mark.parametrize("run", [fine, wrong])
def test_keeping_waits_for_ctrl_c_and_has_the_story_s_verdict(
    first: Set, run: Callable[[Stage], Outcome], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    there: list[bool] = []

    def pause() -> None:
        assert first.stage is not None
        there.append(first.stage.folder.exists())
        signal.raise_signal(signal.SIGINT)

    monkeypatch.setattr(story_module.signal, "pause", pause)
    code = tell(Screen(width=80), keep=True, story=[step("first", first), step("second", run)])
    assert code == (0 if run is fine else 1)
    assert there == [True]
    assert first.gone()
    assert f"cd {first.stage.folder}" in capsys.readouterr().out  # type: ignore[union-attr] # set by the first step


def test_a_second_ctrl_c_does_not_stop_the_cleaning_up(first: Set, monkeypatch: pytest.MonkeyPatch) -> None:
    stop = story_module.Crew.stop

    def interrupted(crew: story_module.Crew) -> None:
        signal.raise_signal(signal.SIGINT)
        stop(crew)

    monkeypatch.setattr(story_module.Crew, "stop", interrupted)
    assert tell(Screen(width=80), story=[step("first", first)]) == 0
    assert first.gone()


def test_the_step_that_needs_a_tpm_is_told_only_with_one(tmp_path: Path) -> None:
    crew, ports = story_module.Crew(tmp_path), story_module.Ports(*range(1, 8))
    with_tpm = story_of(story_module.Stage(tmp_path, ports, crew, no_tpm=None))
    without = story_of(story_module.Stage(tmp_path, ports, crew, no_tpm="apt-get install swtpm"))
    assert with_tpm == (*without, copied_key.STEP)

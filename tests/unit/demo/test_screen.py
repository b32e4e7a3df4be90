from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from sidecar.demo.outcome import Outcome, Section, Step, UnexpectedError
from sidecar.demo.screen import Row, Screen
from sidecar.demo.stage import PLANNER
from sidecar.demo.steps import STORY

if TYPE_CHECKING:
    from collections.abc import Callable

PIN = "sha256:" + "A" * 43 + "="


def step(run: Callable[..., Outcome] | None = None) -> Step:
    return Step("a name", "A title", "x" * 150, "what is expected", run or (lambda _: Outcome("fine")))


@pytest.mark.parametrize("width", [60, 80, 120])
def test_no_line_is_wider_than_the_screen_and_nothing_is_lost(width: int, capsys: pytest.CaptureFixture[str]) -> None:
    screen = Screen(width=width)
    screen.opening("/tmp/" + "folder" * 20)
    screen.begin(1, step())
    screen.succeed(Outcome("y" * 100, (Section("evidence", (("label", PLANNER), ("another label", PIN * 3))),)))
    screen.fail(UnexpectedError("z" * 100, "w" * 200))
    screen.table([Row(one, "happened " * 8, ok=False) for one in STORY])
    screen.note("done")
    text = capsys.readouterr().out
    assert max(len(line) for line in text.splitlines()) <= width
    assert not [line for line in text.splitlines() if line != line.rstrip()]
    whole = "".join(text.split())
    for part in ("folder" * 20, "x" * 150, "y" * 100, PIN * 3, "z" * 100, "w" * 200, "".join(PLANNER.split())):
        assert part in whole


def test_nothing_is_taken_for_markup(capsys: pytest.CaptureFixture[str]) -> None:
    screen = Screen(width=80)
    screen.succeed(Outcome("[bold]x[/bold] :smile: [/nothing]", (Section("[red]", (("[a]", "[/a] 12"),)),)))
    text = capsys.readouterr().out
    for part in ("[bold]x[/bold] :smile: [/nothing]", "[red]", "[a]", "[/a] 12"):
        assert part in text


def test_a_pipe_gets_no_escape_sequences(capsys: pytest.CaptureFixture[str]) -> None:
    screen = Screen(width=80)
    screen.begin(1, step())
    screen.table([Row(step(), "fine", ok=True), Row(step(), "not fine", ok=False)])
    text = capsys.readouterr().out
    assert "\x1b" not in text
    assert " ok" in text
    assert "FAILED" in text


def test_colour_in_a_terminal_and_none_when_asked(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("FORCE_COLOR", "1")
    monkeypatch.setenv("TERM", "xterm-256color")
    monkeypatch.delenv("NO_COLOR", raising=False)
    Screen(width=80).begin(1, step())
    assert "36m" in capsys.readouterr().out
    Screen(width=80, colour=False).begin(1, step())
    assert "36m" not in capsys.readouterr().out


def test_commands_are_not_broken(capsys: pytest.CaptureFixture[str]) -> None:
    command = "curl " + "a" * 200
    Screen(width=60).commands([(command, "what it shows")])
    assert f"   {command}\n" in capsys.readouterr().out


def test_every_step_fits_the_table() -> None:
    for one in STORY:
        assert len(one.name) <= 16
        assert len(one.expected) <= 42

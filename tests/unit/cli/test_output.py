from __future__ import annotations

import errno
import os
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from sidecar.cli.output import columns, complain, print_faults
from sidecar.config.faults import ConfigCode, Fault, InvalidConfiguration
from sidecar.config.files import Snapshot

if TYPE_CHECKING:
    from collections.abc import Callable

ONE = Fault(ConfigCode.BAD_NAME, Path("a.yaml"), 3, "inbound[0].name", "is no name", "write one")
TWO = Fault(ConfigCode.BAD_PATH, Path("a.yaml"), 9, "access_log", "is no path")


def test_complaints_go_to_stderr(capsys: pytest.CaptureFixture[str]) -> None:
    complain("port in use", "stop the other")
    complain("no more")
    said = capsys.readouterr()
    assert (said.out, said.err) == ("", "sidecar: port in use\n    stop the other\nsidecar: no more\n")


@pytest.mark.parametrize(
    ("faults", "left_out", "last"),
    [
        ((ONE,), 0, "a.yaml: 1 fault"),
        ((ONE, TWO), 0, "a.yaml: 2 faults"),
        ((ONE, TWO), 5, "a.yaml: 7 faults, 5 of them not shown"),
    ],
)
def test_every_fault_and_their_number(
    capsys: pytest.CaptureFixture[str], faults: tuple[Fault, ...], left_out: int, last: str
) -> None:
    print_faults(InvalidConfiguration(faults, Snapshot(), left_out=left_out))
    said = capsys.readouterr()
    assert said.out == ""
    lines = said.err.splitlines()
    assert lines[:2] == ["a.yaml:3: inbound[0].name: is no name", "    write one"]
    assert lines[-1] == last


def test_the_name_of_a_file_cannot_steer_a_terminal(capsys: pytest.CaptureFixture[str]) -> None:
    fault = Fault(ConfigCode.FILE_MISSING, Path("a\x1b[2J\n.yaml"), 0, "", "does not exist")
    print_faults(InvalidConfiguration((fault,), Snapshot()))
    assert "\x1b" not in capsys.readouterr().err


@pytest.mark.parametrize(("said", "width"), [("132", 132), ("0", 97), ("-3", 97), ("wide", 97), (None, 97)])
def test_the_width_is_what_the_environment_says_or_the_terminal_has(
    monkeypatch: pytest.MonkeyPatch, said: str | None, width: int
) -> None:
    monkeypatch.setattr(os, "get_terminal_size", lambda: os.terminal_size((97, 40)))
    monkeypatch.delenv("COLUMNS", raising=False)
    if said is not None:
        monkeypatch.setenv("COLUMNS", said)
    assert columns() == width


def no_terminal() -> os.terminal_size:
    raise OSError(errno.ENOTTY, "not a terminal")


@pytest.mark.parametrize("look", [no_terminal, lambda: os.terminal_size((0, 0))])
def test_the_width_is_80_where_nobody_knows(
    monkeypatch: pytest.MonkeyPatch, look: Callable[[], os.terminal_size]
) -> None:
    monkeypatch.setattr(os, "get_terminal_size", look)
    monkeypatch.delenv("COLUMNS", raising=False)
    assert columns() == 80

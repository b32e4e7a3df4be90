from __future__ import annotations

import shlex
import shutil
import sys
from pathlib import Path

import pytest

from sidecar.demo.further import commands, program
from sidecar.demo.processes import Crew
from sidecar.demo.stage import Ports, Stage


@pytest.fixture
def interpreter(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A Python in a folder whose name needs quotes, with nothing beside it."""
    folder = tmp_path / "a folder"
    folder.mkdir()
    monkeypatch.setattr(sys, "executable", str(folder / "python"))
    monkeypatch.setenv("PATH", str(tmp_path))
    return folder / "python"


def test_the_program_is_named_as_it_can_be_typed(interpreter: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert program() == f"'{interpreter}' -m sidecar"
    script = interpreter.with_name("sidecar")
    script.write_text("")
    script.chmod(0o755)
    assert program() == f"'{script}'"
    monkeypatch.setenv("PATH", str(interpreter.parent))
    assert shutil.which("sidecar")
    assert program() == "sidecar"


def test_another_sidecar_on_the_path_is_not_meant(interpreter: Path) -> None:
    for script in (interpreter.with_name("sidecar"), interpreter.parents[1] / "sidecar"):
        script.write_text("")
        script.chmod(0o755)
    assert program() == f"'{interpreter.with_name('sidecar')}'"


@pytest.mark.parametrize("no_tpm", [None, "apt-get install swtpm"])
def test_every_command_is_one_and_short_enough_for_80_columns(no_tpm: str | None) -> None:
    folder = Path("/tmp/sidecar-demo-abcdefgh")
    stage = Stage(folder, Ports(*range(20001, 20008)), Crew(folder), no_tpm=no_tpm)
    for command, _ in commands(stage):
        assert shlex.split(command.replace("\\\n", " "))
        if program() not in command:  # which may lie deep
            assert max(map(len, command.splitlines())) <= 77

"""The command itself, without the story."""

from __future__ import annotations

import subprocess
import sys

import pytest

from sidecar.cli import main


@pytest.mark.parametrize("absent", [["rich"], ["mcp"], ["mcp", "rich"]])
def test_without_the_extra(
    absent: list[str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in absent:
        monkeypatch.setitem(sys.modules, name, None)
    assert main(["demo"]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert " and ".join(absent) in line
    assert "pip install 'agent-sidecar[demo]'" in line


@pytest.mark.parametrize("width", ["59", "401", "x", "-1", "", "\u0667\u0667\u0667"])
def test_a_width_that_is_none(width: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["demo", "--width", width]) == 2
    assert "--width" in capsys.readouterr().err


def test_nothing_heavy_is_loaded_for_the_other_commands() -> None:
    look = "import sys, sidecar.cli; sidecar.cli.main(['--help']); print(*(m for m in ('mcp', 'rich') if m in sys.modules))"
    result = subprocess.run([sys.executable, "-c", look], capture_output=True, text=True, check=True)
    assert result.stdout.splitlines()[-1] == ""

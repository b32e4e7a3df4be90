from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

import sidecar
from sidecar.interpreter import interpreter

if TYPE_CHECKING:
    from collections.abc import Sequence

ROOT = Path(sidecar.__file__).parent.parent
FLAGS = "from sidecar.interpreter import path_flags; print(*path_flags())"


def flags(*options: str, cwd: Path = ROOT, code: str = FLAGS) -> list[str]:
    """The flags for the children of a Python that was started with these."""
    done = subprocess.run([sys.executable, *options, "-c", code], cwd=cwd, capture_output=True, text=True, check=True)
    return done.stdout.split()


@pytest.mark.parametrize(("options", "expected"), [(["-E", "-P"], ["-E", "-P"]), (["-s", "-P"], ["-s", "-P"])])
def test_what_keeps_us_from_foreign_modules_keeps_our_children(options: Sequence[str], expected: list[str]) -> None:
    code = f"import sys; sys.path.insert(1, {str(ROOT)!r}); {FLAGS}"
    assert flags(*options, code=code) == expected
    assert flags("-I", code=code) == ["-I"]


def test_the_working_directory_is_searched_only_where_we_are_found_there_ourselves(tmp_path: Path) -> None:
    code = f"import sys; sys.path.insert(1, {str(ROOT)!r}); {FLAGS}"
    assert flags(cwd=tmp_path, code=code) == ["-P"]
    code = f"import sys; sys.path[0] = {str(ROOT)!r}; {FLAGS}"
    assert flags(cwd=ROOT, code=code) == []


def test_an_interpreter_that_has_no_name_any_more(monkeypatch: pytest.MonkeyPatch) -> None:
    assert interpreter() == sys.executable
    monkeypatch.setattr(sys, "executable", "/nowhere/python")
    assert interpreter() == ("/proc/self/exe" if sys.platform == "linux" else "/nowhere/python")

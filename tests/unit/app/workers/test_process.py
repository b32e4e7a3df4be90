from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

import sidecar
from sidecar.app.workers.process import Process, _interpreter
from tests.support.eventually import soon

if TYPE_CHECKING:
    from collections.abc import Sequence

ROOT = Path(sidecar.__file__).parent.parent
FLAGS = "from sidecar.app.workers.process import _path_flags; print(*_path_flags())"


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
    assert _interpreter() == sys.executable
    monkeypatch.setattr(sys, "executable", "/nowhere/python")
    assert _interpreter() == ("/proc/self/exe" if sys.platform == "linux" else "/nowhere/python")


async def test_one_that_is_killed_is_reaped() -> None:
    process = Process.start(["worker"])
    process.kill()
    process.kill()
    await soon(process.ended.done, "its end")
    assert process.ended.result() == -9
    process.sock.close()


async def test_one_whose_parent_is_gone_ends() -> None:
    process = Process.start(["signer"])
    process.sock.close()
    process.reap()
    await soon(process.ended.done, "its end")
    assert process.ended.result() == 1

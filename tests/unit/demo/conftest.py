from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from sidecar.demo.processes import Crew, Process
from sidecar.demo.stage import Ports, Stage
from tests.support.machine import missing

if TYPE_CHECKING:
    from pathlib import Path

# The demo's packages come in one extra, and its files import them at their top.
collect_ignore_glob = ["test_*.py"] if missing("mcp") else []


class Ended:
    """What is known of a process that has ended."""

    returncode = 0

    def poll(self) -> int:
        return 0


@pytest.fixture
def stage(tmp_path: Path) -> Stage:
    made = Stage(tmp_path, Ports(*range(1, 8)), Crew(tmp_path))
    for name in ("planner-sidecar", "tools-sidecar", "impostor"):
        out, err = tmp_path / f"{name}.out", tmp_path / f"{name}.err"
        out.touch()
        err.touch()
        made.running[name] = Process(name, Ended(), out, err)  # type: ignore[arg-type] # as much of one as is looked at
    return made

"""The row of workers: what it starts, and where."""

from __future__ import annotations

import json
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

from bench.peers.peer import Work
from bench.peers.sidecar import Sidecar
from bench.rows.table import ROWS
from bench.rows.workers import WORKERS
from bench.site import Site

if TYPE_CHECKING:
    from pathlib import Path


class FakeCrew:
    proxy_core, load_core = 4, 7

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self.started: list[tuple[object, ...]] = []

    def port(self) -> int:
        return 12_345

    def path(self, name: str) -> Path:
        return self._folder / name

    def start(self, name: str, core: int | str, *command: object) -> object:
        self.started.append((name, core, command[-1]))
        return SimpleNamespace(pid=1)


def started(folder: Path, workers: int) -> tuple[object, dict[str, Any]]:
    crew: Any = FakeCrew(folder)
    files: Any = SimpleNamespace(certificate=lambda name: name, key=lambda name: name, authority="ca.crt")
    Sidecar(workers=workers).inbound(Site(crew, files), Work.HTTP, 1)
    ((_, core, file),) = crew.started
    return core, json.loads(file.read_text())


def test_one_worker_has_the_core_of_the_proxies_and_two_have_both(tmp_path: Path) -> None:
    core, config = started(tmp_path, 1)
    assert (core, config["workers"]) == (4, 1)
    core, config = started(tmp_path, 2)
    assert (core, config["workers"]) == ("4,7", 2)


def test_the_row_is_in_the_table_and_more_requests_are_better() -> None:
    assert ROWS["workers"] is WORKERS
    assert {line.id: line.more for line in WORKERS.lines} == {
        "workers.1": True,
        "workers.1.cpu": False,
        "workers.2": True,
        "workers.2.cpu": False,
    }

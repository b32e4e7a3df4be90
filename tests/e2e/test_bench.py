"""`python -m bench` as a user runs it, one short round: it measures, tells, writes, and leaves nothing behind.

Nothing here looks at how fast anything was.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any
from xml.etree import ElementTree as ET

import pytest

from tests.support.eventually import eventually

if TYPE_CHECKING:
    from collections.abc import Iterator

pytestmark = pytest.mark.needs("nginx", "wrk", "setpriv", "cores")

ROOT = Path(__file__).parents[2]


@pytest.fixture
def temporary(tmp_path: Path) -> Path:
    folder = tmp_path / "tmp"
    folder.mkdir()
    return folder


@pytest.fixture
def bench(tmp_path: Path, temporary: Path) -> Iterator[subprocess.Popen[str]]:
    part = ["--peers", "nginx", "--rows", "http", "--rounds", "1", "--seconds", "1", "--no-install"]
    with subprocess.Popen(
        [sys.executable, "-m", "bench", *part, "--output", str(tmp_path / "out")],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        cwd=ROOT,
        env=os.environ | {"TMPDIR": str(temporary)},
    ) as process:
        yield process
        process.kill()


def started_in(folder: Path) -> list[str]:
    """The command lines of processes that were told of that folder, and have not ended."""
    found = []
    for entry in Path("/proc").iterdir():
        if not entry.name.isdigit() or int(entry.name) == os.getpid():
            continue
        try:
            line = (entry / "cmdline").read_text().replace("\0", " ")
        except OSError:
            continue  # ended while we looked
        if str(folder) in line:
            found.append(line)
    return found


def test_a_short_run_measures_and_leaves_nothing_behind(
    bench: subprocess.Popen[str], tmp_path: Path, temporary: Path
) -> None:
    said, _ = bench.communicate(timeout=60)
    assert bench.returncode == 0, said
    assert "round 1/1  sidecar" in said
    assert "round 1/1  nginx" in said
    assert "HTTP request, 32 connections, µs CPU" in said
    assert "≤ 1 x envoy: not known" in said

    result: dict[str, Any] = json.loads((tmp_path / "out/result.json").read_text())
    (line,) = result["lines"]
    assert line["id"] == "http"
    assert set(line["peers"]) == {"sidecar", "nginx"}
    for cell in line["peers"].values():
        assert len(cell["rounds"]) == 1
        assert cell["median"] > 0
        assert cell["notes"][0]["requests/s"] > 0
    assert result["machine"]["cores"] >= 2
    assert result["peer_versions"]["nginx"].startswith("nginx/")
    ET.parse(tmp_path / "out/chart.svg")  # noqa: S314 - our own drawing

    assert list(temporary.iterdir()) == []
    assert started_in(temporary) == []


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupted_run_leaves_nothing_behind(
    number: signal.Signals, bench: subprocess.Popen[str], temporary: Path
) -> None:
    eventually(lambda: any("sidecar run" in line for line in started_in(temporary)), "the first proxy to be there")
    bench.send_signal(number)
    said, _ = bench.communicate(timeout=60)
    assert bench.returncode == 130
    assert "interrupted" in said
    assert list(temporary.iterdir()) == []
    assert started_in(temporary) == []

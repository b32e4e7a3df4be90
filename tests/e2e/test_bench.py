"""`python -m bench` as a user runs it, one short round: it measures, tells, writes, and leaves nothing behind.

Nothing here looks at how fast anything was.
"""

from __future__ import annotations

import json
import os
import shutil
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
    # One whose start was interrupted is not known yet: it is told to end by the death of its parent.
    eventually(lambda: started_in(temporary) == [], "everything that was started to have ended")


@pytest.mark.needs("swtpm", "tpm2-pytss", "softhsm", "python-pkcs11")
def test_the_rows_of_keys_measure_every_kind_and_leave_nothing_behind(tmp_path: Path, temporary: Path) -> None:
    part = [
        "--rows",
        "keys,stall",
        "--rounds",
        "1",
        "--seconds",
        "1",
        "--no-install",
        "--output",
        str(tmp_path / "out"),
    ]
    done = subprocess.run(
        [sys.executable, "-m", "bench", *part],
        capture_output=True,
        text=True,
        cwd=ROOT,
        env=os.environ | {"TMPDIR": str(temporary)},
        timeout=100,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    result: dict[str, Any] = json.loads((tmp_path / "out/result.json").read_text())
    cells = {line["id"]: line["peers"]["sidecar"] for line in result["lines"]}
    for kind in ("file", "tpm", "hsm", "signer"):
        for mode in ("full", "resumed"):
            assert cells[f"keys.{mode}.{kind}"]["median"] > 0
            assert cells[f"keys.{mode}.{kind}.rate"]["median"] > 0
    assert cells["keys.full.signer.service"]["median"] > 0
    # Whoever connects waits for the slow TPM: eight take turns at 100 ms.
    assert cells["stall.tpm"]["notes"][0]["ms the median handshake"] > 300
    assert cells["stall.file"]["median"] > 0
    assert list(temporary.iterdir()) == []
    assert started_in(temporary) == []


def test_what_no_device_stands_in_for_is_missing_and_no_failure(tmp_path: Path, temporary: Path) -> None:
    """Without swtpm and SoftHSM on the path; the rest of the row is measured."""
    programs = tmp_path / "bin"
    programs.mkdir()
    for name in ("nginx", "wrk", "setpriv", "taskset", "env"):
        found = shutil.which(name, path=f"{os.environ['PATH']}:/usr/sbin")
        assert found is not None
        (programs / name).symlink_to(found)
    script = (
        "import sys; from bench import programs; programs._SYSTEM = ();"
        "from bench.__main__ import main; sys.exit(main(sys.argv[1:]))"
    )
    part = ["--rows", "keys", "--rounds", "1", "--seconds", "1", "--no-install", "--output", str(tmp_path / "out")]
    done = subprocess.run(
        [sys.executable, "-c", script, *part],
        capture_output=True,
        text=True,
        cwd=ROOT,
        env=os.environ | {"TMPDIR": str(temporary), "PATH": str(programs)},
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "key in a TPM (swtpm) is missing: swtpm is not installed: apt-get install swtpm" in done.stdout
    result: dict[str, Any] = json.loads((tmp_path / "out/result.json").read_text())
    cells = {line["id"]: line["peers"]["sidecar"] for line in result["lines"]}
    assert cells["keys.full.hsm"] == {"missing": "softhsm2-util is not installed: apt-get install softhsm2"}
    assert cells["keys.full.file"]["median"] > 0

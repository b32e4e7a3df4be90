from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest

from bench import __main__ as command
from bench import machine
from bench.errors import UsageError
from bench.processes import ROOT
from tests.support.bench import HTTP, result

if TYPE_CHECKING:
    from pathlib import Path


def bench(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "bench", *arguments], cwd=ROOT, capture_output=True, text=True, check=False, timeout=60
    )


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (
            ("--peers", "ngnix"),
            "no peer is called ngnix; there are sidecar, nginx, envoy, haproxy, stunnel, ghostunnel",
        ),
        (("--rows", "htpp"), "no row is called htpp; there are http, tcp, bulk,"),
        (("--rounds", "0"), "'0' is not a number from 1 to 100"),
        (("--seconds", "2.5"), "'2.5' is not a number from 1 to 100"),
        (("--write-readme", "/nonexistent.json"), "/nonexistent.json cannot be read as a result"),
    ],
)
def test_a_wrong_command_line_is_refused_with_what_to_do(arguments: tuple[str, ...], told: str) -> None:
    done = bench(*arguments)
    assert done.returncode == 2
    assert told in done.stderr
    assert "Traceback" not in done.stderr


def test_the_page_is_written_from_a_result(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    page = tmp_path / "README.md"
    page.write_text("<!-- results --><!-- /results -->")
    (tmp_path / "last.json").write_text(json.dumps(result(HTTP, http={"sidecar": [90.0]}).as_json()))
    monkeypatch.setattr(command, "PAGE", page)
    assert command.main(["--write-readme", str(tmp_path / "last.json")]) == 0
    assert "90.0" in page.read_text()


def test_make_passes_everything_on() -> None:
    """`make -n` prints what it would run."""
    parts = ["PEERS=nginx,envoy", "ROWS=http", "ROUNDS=3", "SECONDS=2", "GHOSTUNNEL=somewhere"]
    done = subprocess.run(["make", "-n", "bench", *parts], cwd=ROOT, capture_output=True, text=True, check=True)
    assert "-m bench --peers nginx,envoy --rows http --rounds 3 --seconds 2" in done.stdout


def test_make_asks_for_everything_by_default() -> None:
    kept = {name: value for name, value in os.environ.items() if name not in {"PEERS", "ROWS", "ROUNDS", "SECONDS"}}
    done = subprocess.run(["make", "-n", "bench"], cwd=ROOT, capture_output=True, text=True, check=True, env=kept)
    assert re.search(r"-m bench *$", done.stdout, re.MULTILINE)


# -- the machine --------------------------------------------------------------------------------------------------------


def test_one_core_is_not_enough(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(machine.os, "sched_getaffinity", lambda _: {3})
    with pytest.raises(UsageError, match="two cores"):
        machine.cores()
    monkeypatch.setattr(machine.os, "sched_getaffinity", lambda _: {7, 3, 5})
    assert machine.cores() == (3, 5)


def test_what_nothing_works_without_is_named_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(machine, "lacking", lambda program, *, package: f"{program}: {package}")
    with pytest.raises(UsageError, match=r"setpriv: util-linux\nwrk: wrk\nnginx: nginx-light"):
        machine.check()
    monkeypatch.setattr(machine.platform, "system", lambda: "Darwin")
    with pytest.raises(UsageError, match="needs Linux"):
        machine.check()


def test_the_machine_and_its_versions_are_told() -> None:
    facts = machine.facts()
    assert facts["machine"]["cpu"]
    assert facts["machine"]["memory_mb"] > 100
    assert facts["versions"]["python"] == ".".join(map(str, sys.version_info[:3]))
    assert re.fullmatch(r"\d{4}-\d\d-\d\d \d\d:\d\d UTC", facts["date"])

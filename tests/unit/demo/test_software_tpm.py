from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from sidecar.demo import software_tpm
from sidecar.demo.processes import Crew
from sidecar.demo.software_tpm import OWNERS, lacking, name, power_on
from sidecar.keys.errors import KeyCode, PrivateKeyError

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


@pytest.fixture
def crew(tmp_path: Path) -> Iterator[Crew]:
    made = Crew(tmp_path)
    yield made
    made.stop()


def refuse() -> None:
    raise PrivateKeyError(KeyCode.NO_LIBRARY, "it does not load", hint="install it")


@pytest.mark.parametrize("unsuitable", ["library.load", "openssl.install"])
def test_everything_that_is_missing_is_named(monkeypatch: pytest.MonkeyPatch, unsuitable: str) -> None:
    monkeypatch.setattr(software_tpm.library, "load", lambda: None)
    monkeypatch.setattr(software_tpm.openssl, "install", lambda: None)
    monkeypatch.setattr(f"sidecar.demo.software_tpm.{unsuitable}", refuse)
    monkeypatch.setattr(software_tpm.shutil, "which", lambda _: None)
    assert lacking() == "apt-get install swtpm; install it"
    monkeypatch.setattr(software_tpm.shutil, "which", lambda _: "/usr/bin/swtpm")
    assert lacking() == "install it"


def test_nothing_is_started_where_something_is_missing(crew: Crew, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(software_tpm, "lacking", lambda: "apt-get install swtpm")
    assert power_on(crew) == ({}, "apt-get install swtpm")
    assert not crew.processes


@pytest.mark.needs("swtpm", "tpm2-pytss")
def test_one_for_each_sidecar_which_ends_with_the_crew(crew: Crew) -> None:
    running, no_tpm = power_on(crew)
    assert no_tpm is None
    assert list(running) == [name(agent) for agent in OWNERS]
    for agent in OWNERS:
        # Beside the socket of the commands, the one that tpm2-tss looks for.
        assert (crew.folder / f"{agent}.tpm").is_socket()
        assert (crew.folder / f"{agent}.tpm.ctrl").is_socket()
    crew.stop()
    assert not any(process.alive for process in running.values())


@pytest.mark.parametrize(
    "script", ["#!/bin/sh\necho not allowed here >&2\nexit 1\n", "#!/nonexistent\n"], ids=["refuses", "broken"]
)
def test_one_that_does_not_start_is_done_without(
    crew: Crew, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, script: str
) -> None:
    program = tmp_path / "swtpm"
    program.write_text(script)
    program.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr(software_tpm, "lacking", lambda: None)
    running, no_tpm = power_on(crew)
    assert not running
    assert not crew.processes
    assert no_tpm is not None
    assert no_tpm.startswith("let swtpm run here: ")
    assert ("not allowed here" in no_tpm) == ("not allowed" in script)

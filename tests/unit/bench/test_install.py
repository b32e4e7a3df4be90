from __future__ import annotations

import subprocess
from typing import TYPE_CHECKING, Any

import pytest

from bench import install
from bench.peers.table import PEERS
from bench.rows.table import ROWS

if TYPE_CHECKING:
    from pathlib import Path

ALL = (*PEERS, *ROWS)


@pytest.fixture
def there(monkeypatch: pytest.MonkeyPatch) -> set[str]:
    """The programs that a machine has: none, until a test adds one. No file of a package is there."""
    programs: set[str] = set()
    monkeypatch.setattr(install, "find", lambda program: program if program in programs else None)
    monkeypatch.setattr(
        install, "PACKAGES", {**install.PACKAGES, "libnginx-mod-stream": (("nginx",), "/nonexistent.so")}
    )
    return programs


@pytest.fixture
def ran(monkeypatch: pytest.MonkeyPatch) -> list[list[str]]:
    """The commands that would have been run."""
    commands: list[list[str]] = []

    def run(command: list[str], **_: Any) -> subprocess.CompletedProcess[str]:
        commands.append(list(command))
        return subprocess.CompletedProcess(command, 1, "", "E: no network\n")

    monkeypatch.setattr(install.subprocess, "run", run)
    monkeypatch.setattr(install, "as_root", list)
    monkeypatch.setattr(install.shutil, "which", lambda program, **_: f"/usr/bin/{program}")
    return commands


def test_only_what_is_missing_and_asked_for(there: set[str]) -> None:
    assert install.lacking_packages(ALL) == [
        "util-linux",
        "wrk",
        "nginx-light",
        "libnginx-mod-stream",
        "haproxy",
        "stunnel4",
        "swtpm",
        "softhsm2",
    ]
    assert install.lacking_packages(("sidecar", "envoy")) == ["util-linux", "wrk", "nginx-light"]
    assert install.lacking_packages(("sidecar", "http", "stall")) == ["util-linux", "wrk", "nginx-light", "swtpm"]
    there |= {"setpriv", "wrk", "nginx", "haproxy", "stunnel", "/nonexistent.so", "swtpm", "softhsm2-util"}
    assert install.lacking_packages(ALL) == []


def test_nothing_is_run_when_nothing_is_missing(
    there: set[str], ran: list[list[str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    there |= {"setpriv", "wrk", "nginx", "haproxy", "stunnel", "/nonexistent.so"}
    monkeypatch.setenv("ENVOY", "sh")
    said: list[str] = []
    install.install(("sidecar", "nginx", "haproxy", "stunnel"), ("http",), said.append)
    assert (ran, said) == ([], [])


@pytest.mark.usefixtures("there")
def test_what_cannot_be_had_is_said_and_the_run_goes_on(ran: list[list[str]]) -> None:
    said: list[str] = []
    install.install(("sidecar", "haproxy"), ("keys",), said.append)
    assert said == [
        "installing util-linux wrk nginx-light haproxy swtpm softhsm2 ...",
        "not installed: E: no network",
    ]
    assert ran[0][-6:] == ["util-linux", "wrk", "nginx-light", "haproxy", "swtpm", "softhsm2"]


@pytest.mark.usefixtures("there")
def test_without_the_right_to_install_it_says_what_to_install(
    ran: list[list[str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(install, "as_root", lambda: None)
    said: list[str] = []
    install.install(("sidecar",), ("http",), said.append)
    assert said[0].endswith("to install: util-linux wrk nginx-light")
    assert ran == []


@pytest.mark.usefixtures("there")
def test_envoy_comes_by_hash_into_the_clone(
    ran: list[list[str]], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.delenv("ENVOY", raising=False)
    monkeypatch.setattr("bench.peers.envoy.find", lambda _: None)
    monkeypatch.setattr("bench.peers.envoy.INSTALLED", tmp_path / "none")
    said: list[str] = []
    install.install(("sidecar", "envoy"), ("http",), said.append)
    command = ran[-1]
    assert "--require-hashes" in command
    assert command[command.index("--target") + 1].endswith("/.bench/envoy")
    assert install.REQUIREMENTS.read_text().count("--hash=sha256:") == 2


def test_a_download_that_hangs_is_given_up(monkeypatch: pytest.MonkeyPatch, there: set[str]) -> None:
    def hang(command: list[str], **_: Any) -> None:
        raise subprocess.TimeoutExpired(command, 600)

    there |= {"setpriv", "nginx"}
    monkeypatch.setattr(install, "as_root", list)
    monkeypatch.setattr(install.shutil, "which", lambda program: f"/usr/bin/{program}")
    monkeypatch.setattr(install.subprocess, "run", hang)
    said: list[str] = []
    install.install(("sidecar",), ("http",), said.append)
    assert said[-1] == "not installed: nothing came within 600 s"


def test_sudo_is_used_only_without_a_password(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(install.os, "geteuid", lambda: 1000)
    monkeypatch.setattr(install.shutil, "which", lambda _: "/usr/bin/sudo")
    for code, expected in ((0, ["/usr/bin/sudo", "-n"]), (1, None)):
        done = subprocess.CompletedProcess([], code)
        monkeypatch.setattr(install.subprocess, "run", lambda *_, done=done, **__: done)
        assert install.as_root() == expected
    monkeypatch.setattr(install.shutil, "which", lambda _: None)
    assert install.as_root() is None
    monkeypatch.setattr(install.os, "geteuid", lambda: 0)
    assert install.as_root() == []


def test_no_service_is_started_by_an_installation() -> None:
    """The policy is there before the packages come, and goes again; one that was there before stays."""
    script = install._SCRIPT
    assert script.index("exit 101") < script.index("apt-get install")
    assert "trap 'rm -f" in script
    subprocess.run(["sh", "-n", "-c", script], check=True)

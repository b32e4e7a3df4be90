"""`sidecar certs init` as a user runs it: what it makes, `sidecar check` accepts; what it prints holds no key."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from pathlib import Path


def sidecar(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "sidecar", *arguments], cwd=folder, capture_output=True, text=True, check=False
    )


def init(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    return sidecar(folder, "certs", "init", "certs", *arguments)


def test_what_is_printed(tmp_path: Path) -> None:
    result = init(tmp_path, "--agent", "planner", "--agent", "tools")
    assert (result.returncode, result.stderr) == (0, "")
    out = result.stdout
    for name in ("planner", "tools"):
        assert f"spiffe://example.org/agent/{name}/1 (new key)" in out
        assert f"certs/{name}/tls.crt" in out
        assert f"certs/{name}/tls.key" in out
    assert len(re.findall(r"pin +sha256:[A-Za-z0-9+/]{43}=\n", out)) == 2
    assert len(re.findall(r"protection +software\n", out)) == 2
    assert len(re.findall(r"valid until +\d{4}-\d\d-\d\d \d\d:\d\d:\d\d UTC\n", out)) == 3
    assert "These are development identities" in out


@pytest.mark.threat(60)
def test_threat_60_no_key_is_ever_printed(tmp_path: Path) -> None:
    runs = [
        init(tmp_path, "--agent", "planner"),
        init(tmp_path, "--agent", "planner", "--new-keys"),
        init(tmp_path, "--agent", "planner", "--trust-domain", "example.com"),
    ]
    keys = [path.read_text() for path in tmp_path.rglob("*.key")]
    assert len(keys) == 2
    for run in runs:
        for key in keys:
            assert not set(key.splitlines()) & set((run.stdout + run.stderr).splitlines())
            assert key.splitlines()[1] not in run.stdout + run.stderr


def test_check_accepts_what_was_made(tmp_path: Path) -> None:
    init(tmp_path, "--agent", "planner", "--trust-domain", "test.example", "--instance", "blue")
    (tmp_path / "planner.yaml").write_text(
        """\
version: 1
identity:
  certificate: certs/planner/blue/tls.crt
  key: certs/planner/blue/tls.key
  trust: {test.example: certs/ca.crt}
outbound:
  - name: tools
    listen: 127.0.0.1:14001
    connect: 127.0.0.1:8443
    peer: spiffe://test.example/agent/tools/*
admin: {listen: "unix:planner.sock"}
"""
    )
    result = sidecar(tmp_path, "check", "planner.yaml")
    assert result.returncode == 0, result.stderr
    assert "spiffe://test.example/agent/planner/blue" in result.stdout


def test_a_second_run_keeps_the_pin_and_new_keys_do_not(tmp_path: Path) -> None:
    def pin(*more: str) -> str:
        found = re.search(r"sha256:\S+", init(tmp_path, "--agent", "planner", *more).stdout)
        assert found
        return found[0]

    first = pin()
    assert pin() == first
    assert pin("--new-keys") != first


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--agent", "a/b"], "--agent"),
        (["--agent", ""], "--agent"),
        (["--agent", "a", "--instance", ".."], "--instance"),
        (["--agent", "a", "--trust-domain", "Example.org"], "--trust-domain"),
        ([], "--agent"),
        (["--agent"], "--agent"),
        (["--agent", "a", "--nonsense"], "--nonsense"),
    ],
    ids=str,
)
def test_a_wrong_command_line_makes_nothing(tmp_path: Path, arguments: list[str], words: str) -> None:
    result = init(tmp_path, *arguments)
    assert result.returncode == 2
    assert words in result.stderr
    assert "Traceback" not in result.stderr
    assert list(tmp_path.iterdir()) == []


def test_files_that_are_not_ours(tmp_path: Path) -> None:
    (tmp_path / "certs").mkdir()
    (tmp_path / "certs" / "ca.crt").write_text("my notes")
    result = init(tmp_path, "--agent", "planner")
    assert result.returncode == 2
    assert "certs/ca.crt" in result.stderr
    assert [path.name for path in (tmp_path / "certs").rglob("*")] == ["ca.crt"]
    assert (tmp_path / "certs" / "ca.crt").read_text() == "my notes"


def test_rules_for_git_that_were_there_are_pointed_out(tmp_path: Path) -> None:
    (tmp_path / "certs").mkdir()
    (tmp_path / "certs" / ".gitignore").write_text("*.key\n")
    result = init(tmp_path, "--agent", "planner")
    assert result.returncode == 0
    assert "certs/.gitignore has rules of its own" in result.stdout
    assert (tmp_path / "certs" / ".gitignore").read_text() == "*.key\n"


@pytest.mark.skipif(shutil.which("git") is None, reason="no git")
def test_git_sees_no_key(tmp_path: Path) -> None:
    init(tmp_path, "--agent", "planner")
    subprocess.run(["git", "init", "--quiet"], cwd=tmp_path, check=True)
    seen = subprocess.run(
        ["git", "status", "--porcelain", "--untracked-files=all"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=True,
    )
    assert seen.stdout == "?? certs/.gitignore\n"


def test_a_folder_that_cannot_be_made(tmp_path: Path) -> None:
    result = sidecar(tmp_path, "certs", "init", "x" * 300, "--agent", "planner")
    assert result.returncode == 1
    assert "cannot make the folder" in result.stderr


def test_runs_at_the_same_time_leave_one_whole_set(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "sidecar", "certs", "init", "certs", "--agent", "planner", "--new-keys"]
    running = [
        subprocess.Popen(command, cwd=tmp_path, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE) for _ in range(4)
    ]
    errors = [process.communicate()[1].decode() for process in running]
    codes = [process.returncode for process in running]
    assert 0 in codes
    assert all(code == 0 or (code == 1 and "another" in error) for code, error in zip(codes, errors, strict=True))
    assert init(tmp_path, "--agent", "planner").returncode == 0  # which says so if key and certificate did not fit


def test_help() -> None:
    result = subprocess.run(
        [sys.executable, "-m", "sidecar", "certs", "init", "--help"], capture_output=True, text=True, check=True
    )
    for word in (
        "--agent",
        "--trust-domain",
        "--instance",
        "--new-keys",
        "example.org",
        "sidecar certs init certs-dev",
    ):
        assert word in result.stdout

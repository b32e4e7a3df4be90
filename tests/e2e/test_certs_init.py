"""`sidecar certs init` as a user runs it: what it makes, `sidecar check` accepts; what it prints holds no key."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from tests.support.softhsm import SoftHsm
    from tests.support.swtpm import Swtpm


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


# -- keys in a TPM or a token ---------------------------------------------------------------------------------------------


@pytest.fixture
def tpm() -> Iterator[Swtpm]:
    from tests.support.swtpm import Swtpm

    with Swtpm() as made:
        yield made


@pytest.fixture
def hsm() -> Iterator[SoftHsm]:
    from tests.support.softhsm import SoftHsm

    with SoftHsm() as made:
        yield made


@pytest.fixture(
    params=[
        pytest.param("tpm", marks=pytest.mark.needs("swtpm", "tpm2-pytss")),
        pytest.param("token", marks=pytest.mark.needs("softhsm", "python-pkcs11")),
    ]
)
def device(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """What stands behind --key; the PIN of the TPM's keys is in a file."""
    if request.param == "tpm":
        (tmp_path / "pin").touch(mode=0o600)
        (tmp_path / "pin").write_text("1234\n")
        return f"tpm:tcti={request.getfixturevalue('tpm').tcti};pin-source=file:pin"
    uri: str = request.getfixturevalue("hsm").uri("any")
    return uri.replace(";object=any", "")


def told(folder: Path, *arguments: str) -> dict[str, str]:
    """What was printed of the one identity."""
    done = init(folder, *arguments)
    assert (done.returncode, done.stderr) == (0, "")
    part = done.stdout.split("\n\n")[1]
    return dict(line.strip().split(maxsplit=1) for line in part.splitlines()[1:])


def configuration(folder: Path, key: str) -> Path:
    path = folder / "planner.yaml"
    path.write_text(
        f"""\
version: 1
identity:
  certificate: certs/planner/tls.crt
  key: "{key}"
  trust: {{example.org: certs/ca.crt}}
outbound:
  - name: tools
    listen: 127.0.0.1:14001
    connect: 127.0.0.1:8443
    peer: spiffe://example.org/agent/tools/*
admin: {{listen: "unix:planner.sock"}}
"""
    )
    return path


def test_what_is_printed_can_be_configured(tmp_path: Path, device: str) -> None:
    made = told(tmp_path, "--agent", "planner", "--key", device)
    assert made["protection"] == device.partition(":")[0].replace("pkcs11", "hsm")
    shown = sidecar(tmp_path, "key", "show", made["key"])
    assert f"pin         {made['pin']}\n" in shown.stdout
    assert "signs       yes" in shown.stdout
    checked = sidecar(tmp_path, "check", str(configuration(tmp_path, made["key"])))
    assert (checked.returncode, checked.stderr) == (0, "")
    assert f"pin {made['pin']}, key protection {made['protection']}" in checked.stdout
    assert "a software key" not in checked.stdout


def test_what_is_said_of_a_device_is_true(tmp_path: Path, device: str) -> None:
    out = init(tmp_path, "--agent", "planner", "--key", device).stdout
    kind = "TPM" if device.startswith("tpm") else "token"
    assert f"their keys are in a software {kind}" in out
    assert "the keys are files" not in out
    assert "The authority's key is a file" in out
    assert not (tmp_path / "certs" / "planner" / "tls.key").exists()


def test_renewals_keep_the_pin_and_new_keys_do_not(tmp_path: Path, device: str) -> None:
    first = told(tmp_path, "--agent", "planner", "--key", device)
    certificate = (tmp_path / "certs/planner/tls.crt").read_bytes()
    again = told(tmp_path, "--agent", "planner", "--key", device)
    assert (again["pin"], again["key"]) == (first["pin"], first["key"])
    assert (tmp_path / "certs/planner/tls.crt").read_bytes() != certificate
    new = told(tmp_path, "--agent", "planner", "--key", device, "--new-keys")
    assert new["pin"] != first["pin"]
    if device.startswith("pkcs11:"):
        assert new["not"] == f"used     {first['key']} any more: the certificate is for the new key"
        assert f"pin         {first['pin']}\n" in sidecar(tmp_path, "key", "show", first["key"]).stdout, "not destroyed"
    assert told(tmp_path, "--agent", "planner", "--key", device)["pin"] == new["pin"]


def test_a_folder_has_keys_of_one_kind(tmp_path: Path, device: str) -> None:
    told(tmp_path, "--agent", "planner")
    for before, after in (((), ("--key", device)), (("--key", device), ())):
        mixed = init(tmp_path, "--agent", "planner", *after)
        assert (mixed.returncode, mixed.stdout) == (2, "")
        assert "has a key of another kind" in mixed.stderr
        assert "--new-keys" in mixed.stderr
        pin = told(tmp_path, "--agent", "planner", *after, "--new-keys")["pin"]
        assert told(tmp_path, "--agent", "planner", *after)["pin"] == pin
        assert init(tmp_path, "--agent", "planner", *before).returncode == 2


def test_a_wrong_pin(tmp_path: Path, device: str) -> None:
    told(tmp_path, "--agent", "planner", "--key", device)
    before = (tmp_path / "certs/planner/tls.crt").read_bytes()
    (tmp_path / "wrong").touch(mode=0o600)
    (tmp_path / "wrong").write_text("a wrong PIN\n")
    wrong = re.sub("pin-source=.*", "pin-source=file:wrong", device)
    done = init(tmp_path, "--agent", "planner", "--key", wrong)
    assert (done.returncode, done.stdout) == (2, "")
    assert "PIN" in done.stderr
    assert "a wrong PIN" not in done.stderr
    assert (tmp_path / "certs/planner/tls.crt").read_bytes() == before


@pytest.mark.needs("swtpm", "tpm2-pytss")
@pytest.mark.parametrize("key", ["file", "handle"])
def test_check_opens_no_tpm(tmp_path: Path, tpm: Swtpm, key: str) -> None:
    made = told(tmp_path, "--agent", "planner", "--key", f"tpm:tcti={tpm.tcti}")
    place = made["key"] if key == "file" else f"tpm:handle=0x81000002;tcti={tpm.tcti}"
    tpm.stop()
    checked = sidecar(tmp_path, "check", str(configuration(tmp_path, place)))
    assert (checked.returncode, checked.stderr) == (0, "")
    assert "key protection tpm" in checked.stdout
    assert ("no TPM was opened" in checked.stdout) is (key == "handle"), "the file shows whose the key is"
    done = init(tmp_path, "--agent", "planner", "--key", f"tpm:tcti={tpm.tcti}")
    assert (done.returncode, done.stdout) == (1, "")
    assert "the TPM cannot be reached" in done.stderr


def test_help() -> None:
    result = subprocess.run(
        [sys.executable, "-m", "sidecar", "certs", "init", "--help"], capture_output=True, text=True, check=True
    )
    for word in (
        "--agent",
        "--trust-domain",
        "--instance",
        "--key",
        "--new-keys",
        "example.org",
        "sidecar certs init certs-dev",
    ):
        assert word in result.stdout

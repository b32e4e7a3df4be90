from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

import pytest

from sidecar.admin.client import AskCode, AskError, Reply
from sidecar.cli import main
from sidecar.cli import token as module
from tests.support.configuration import VALID, edit
from tests.support.status import CANARY

if TYPE_CHECKING:
    from pathlib import Path

TOKENS = """\
tokens:
  - {name: mesh, kind: self-signed, audience: "https://tools.example.org", helper: true}
  - {name: quiet, kind: self-signed, audience: "https://tools.example.org"}
"""


class Proxy:
    """What the administration socket answers, and what it was asked."""

    def __init__(self) -> None:
        self.reply: Reply | AskError = Reply(200, {"token": CANARY})
        self.asked: list[tuple[Path, str, str, float]] = []

    def ask(self, path: Path, method: str, target: str, *, seconds: float) -> Reply:
        self.asked.append((path, method, target, seconds))
        if isinstance(self.reply, AskError):
            raise self.reply
        return self.reply


@pytest.fixture
def proxy(monkeypatch: pytest.MonkeyPatch) -> Proxy:
    made = Proxy()
    monkeypatch.setattr(module, "ask", made.ask)
    return made


@pytest.fixture
def file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A configuration alone: none of the files that it names is there."""
    path = tmp_path / "planner.yaml"
    path.write_text(VALID + TOKENS)
    monkeypatch.chdir(tmp_path)
    return path


@pytest.fixture
def said(capsys: pytest.CaptureFixture[str]) -> Any:
    """Runs a command that must end with that code; gives what it complained of, where it printed nothing else."""

    def run(code: int, *command: str) -> str:
        assert main(["token", *command]) == code
        out, err = capsys.readouterr()
        assert out == ""
        assert "internal error" not in err
        assert CANARY not in err
        assert re.search(r"^    \S", err, re.MULTILINE), "a hint"
        return str(err)

    return run


def test_a_token_is_printed_and_nothing_else(file: Path, proxy: Proxy, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["token", "planner.yaml", "mesh"]) == 0
    assert capsys.readouterr() == (f"{CANARY}\n", "")
    assert proxy.asked == [(file.parent / "admin.sock", "POST", "/tokens/mesh", 35.0)]


def test_the_socket_that_the_file_does_not_name(
    file: Path, proxy: Proxy, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path / "run"))
    file.write_text(edit("admin:\n  listen: unix:admin.sock\n", "", VALID) + TOKENS)
    assert main(["token", "planner.yaml", "mesh"]) == 0
    assert proxy.asked[0][0] == tmp_path / "run" / "sidecar" / "planner.sock"


def test_a_proxy_that_does_not_run(file: Path, said: Any) -> None:
    """The real client: there is no socket."""
    err = said(1, "planner.yaml", "mesh")
    assert f"no sidecar answers at {file.parent / 'admin.sock'}" in err
    assert err.endswith("    start it: sidecar run planner.yaml\n")


@pytest.mark.parametrize("code", [code for code in AskCode if code is not AskCode.NOT_RUNNING])
def test_a_proxy_that_cannot_be_asked(file: Path, proxy: Proxy, said: Any, code: AskCode) -> None:
    proxy.reply = AskError(code, "what happened", hint="what to do")
    assert said(1, "planner.yaml", "mesh") == "sidecar: what happened\n    what to do\n"


def test_a_source_that_is_no_helper_is_not_even_asked_for(file: Path, proxy: Proxy, said: Any) -> None:
    assert "say helper: true in it" in said(1, "planner.yaml", "quiet")
    assert proxy.asked == []


def test_a_file_that_is_newer_than_what_runs(file: Path, proxy: Proxy, said: Any) -> None:
    proxy.reply = Reply(404, {"error": "not_found"})
    err = said(1, "planner.yaml", "mesh")
    assert "the running proxy knows no source mesh with helper: true" in err
    assert "reloaded" in err


@pytest.mark.parametrize(
    ("status", "content", "shown"),
    [
        (503, {"error": "issuer_unreachable"}, "now: issuer_unreachable"),
        (503, {"error": "timeout"}, "now: timeout"),
        (500, {"error": "internal"}, "now: internal"),
        (503, {"error": f"x {CANARY}"}, "now: status 503"),
        (418, {"token": CANARY}, "now: status 418"),
        (502, {"error": {"token": CANARY}}, "now: status 502"),
    ],
)
def test_a_source_that_has_none(
    file: Path, proxy: Proxy, said: Any, status: int, content: dict[str, Any], shown: str
) -> None:
    proxy.reply = Reply(status, content)
    err = said(1, "planner.yaml", "mesh")
    assert shown in err
    assert f"curl --unix-socket {file.parent / 'admin.sock'} http://sidecar/tokens" in err


@pytest.mark.parametrize(
    "token", ["", f"{CANARY}\nx", f"{CANARY} x", f"{CANARY}\x1b[2J", f"{CANARY}é", CANARY * 1000, None, 7.5, ["x", "y"]]
)
def test_an_answer_that_is_no_token_is_not_printed(file: Path, proxy: Proxy, capsys: Any, token: object) -> None:
    proxy.reply = Reply(200, {"token": token} if token is not None else {})
    assert main(["token", "planner.yaml", "mesh"]) == 1
    out, err = capsys.readouterr()
    assert out == ""
    assert "visible ASCII" in err
    assert CANARY not in err


@pytest.mark.parametrize("name", ["nope", "", "Mesh", "mesh/../x", "mesh\n", "é", "m" * 5000])
def test_a_name_that_the_file_does_not_have(file: Path, proxy: Proxy, said: Any, name: str) -> None:
    err = said(2, "planner.yaml", name)
    assert "tokens has no source" in err
    assert "with helper: true there are: mesh" in err
    assert len(err) < 500
    assert proxy.asked == []


def test_a_file_without_tokens(file: Path, proxy: Proxy, said: Any) -> None:
    file.write_text(VALID)
    assert "add it, with helper: true" in said(2, "planner.yaml", "mesh")


@pytest.mark.parametrize(
    "content", [b"version: 1\n", b"", b"\xff", VALID.encode() + TOKENS.encode() + b"nonsense: 1\n"]
)
def test_a_file_with_faults(file: Path, proxy: Proxy, said: Any, content: bytes) -> None:
    file.write_bytes(content)
    assert "planner.yaml" in said(2, "planner.yaml", "mesh")
    assert proxy.asked == []


def test_a_file_that_is_not_there(file: Path, proxy: Proxy, said: Any) -> None:
    assert "absent.yaml: does not exist" in said(2, "absent.yaml", "mesh")


@pytest.mark.parametrize(
    "command", [[], ["planner.yaml"], ["planner.yaml", "mesh", "x"], ["--x", "planner.yaml", "mesh"]]
)
def test_a_wrong_command_line(file: Path, proxy: Proxy, capsys: pytest.CaptureFixture[str], command: list[str]) -> None:
    assert main(["token", *command]) == 2
    assert capsys.readouterr().out == ""
    assert proxy.asked == []


def test_the_help_shows_how_a_tool_uses_it(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["token", "--help"]) == 0
    shown = capsys.readouterr().out
    assert '"apiKeyHelper": "/opt/sidecar/bin/sidecar token /etc/sidecar/planner.yaml models"' in shown
    assert "helper: true" in shown

from __future__ import annotations

import importlib.util
import json
from typing import TYPE_CHECKING, Any

import pytest

from sidecar.cli import main
from sidecar.clock import Clock
from tests.support.configuration import Workspace, edit

if TYPE_CHECKING:
    from pathlib import Path

pytestmark = pytest.mark.needs("pyopenssl")


@pytest.fixture
def said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Any:
    workspace = Workspace(tmp_path, now=Clock().wall())
    workspace.write()
    monkeypatch.chdir(tmp_path)

    def run(code: int, *arguments: str) -> str:
        assert main(["inspect", *arguments]) == code
        out, err = capsys.readouterr()
        return out + err

    return run


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        ((), "which peer?\n    name HOST:PORT, or --config FILE --entry NAME"),
        (("--entry", "out"), "--entry needs the file that has it: --config FILE"),
        (("127.0.0.1",), "lacks its port"),
        (("https://x:1",), "is a URL"),
        (("a:1", "--server-name", "a b"), "argument --server-name"),
        (("a:1", "--alpn", ""), "is not the name of a protocol"),
        (("a:1", "--timeout", "nan"), "write a number of seconds, more than 0"),
        (("a:1", "--config", "missing.yaml"), "missing.yaml: does not exist"),
    ],
)
def test_what_is_wrong_with_the_command_line(said: Any, arguments: tuple[str, ...], expected: str) -> None:
    assert expected in said(2, *arguments)


def test_an_entry_that_is_not_there_is_named(said: Any, tmp_path: Path) -> None:
    (file,) = tmp_path.glob("*.yaml")
    shown = said(2, "--config", file.name, "--entry", "in")
    assert f'{file.name} has no outbound entry "in"\n    there are: out\n' in shown


def test_an_entry_that_leads_to_a_socket_is_told_what_to_name(said: Any, tmp_path: Path) -> None:
    (file,) = tmp_path.glob("*.yaml")
    file.write_text(edit("tools.example.org:8443", "unix:way.sock"))
    shown = said(2, "--config", file.name, "--entry", "out")
    assert f'"out" connects to unix:{tmp_path}/way.sock' in shown
    assert "name the HOST:PORT behind that socket" in shown
    assert "cannot be reached" in said(1, "127.0.0.1:1", "--config", file.name, "--entry", "out")


def test_a_certificate_that_cannot_be_read_is_refused_and_shown(said: Any, tmp_path: Path) -> None:
    from tests.support.ca import Ca
    from tests.support.presenting import presenting

    tools = Ca(now=Clock().wall()).leaf("/agent/tools/1")
    (file,) = tmp_path.glob("*.yaml")
    with presenting(tools.der[0].replace(b"\x01\x01\xff", b"\x01\x01\x01", 1), tools.key_pem, tmp_path) as server:
        address = f"127.0.0.1:{server.port}"
        assert "a certificate cannot be read" in said(0, address)
        assert "certificate_malformed" in said(1, address, "--config", file.name, "--entry", "out")


def test_without_its_package_it_says_what_to_install(said: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda _: None)
    assert "pip install 'agent-sidecar[inspect]'" in said(2, "127.0.0.1:1")


def test_a_peer_that_is_not_there_is_exit_one(said: Any) -> None:
    assert "sidecar: 127.0.0.1:1 cannot be reached: connection refused\n" in said(1, "127.0.0.1:1")


def test_a_peer_that_nobody_vouches_for(said: Any, tmp_path: Path) -> None:
    from tests.support.ca import Ca
    from tests.support.presenting import tls

    (file,) = tmp_path.glob("*.yaml")
    server, _ = tls(Ca("other.org", now=Clock().wall()).leaf("/agent/tools/1"))
    with server:
        address = f"127.0.0.1:{server.port}"
        assert "not verified" in said(0, address)
        shown = said(1, address, "--config", file.name)
        assert "trust_domain_unknown" in shown
        shown = said(1, address, "--config", file.name, "--entry", "out", "--json")
    found = json.loads(shown)
    assert [fault["code"] for fault in found["refused"]] == ["trust_domain_unknown", "peer_name_mismatch"]
    assert found["own_handshake_failed"]["code"] == "authority_unknown"
    assert found["own_handshake"] is None

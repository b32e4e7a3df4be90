from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

from sidecar.cli import main
from sidecar.cli import signer as module
from sidecar.identity.spiffe import SpiffeId
from sidecar.keys.token_messages import ASSERTION_SECONDS, SELF_SIGNED_SECONDS, Client, Mandate
from tests.support.ca import keypair

if TYPE_CHECKING:
    from pathlib import Path

    from sidecar.clock import Clock
    from sidecar.signer.process import Order

ID = "spiffe://example.org/agent/planner/1"
PEM = keypair("of the command").private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    key = tmp_path / "k.pem"
    key.touch(mode=0o600)
    key.write_bytes(PEM)
    return tmp_path


@pytest.fixture
def orders(monkeypatch: pytest.MonkeyPatch) -> list[Order]:
    """What would be served."""
    found: list[Order] = []

    async def serve(order: Order, clock: Clock) -> int:
        found.append(order)
        return 0

    monkeypatch.setattr(module, "serve", serve)
    return found


def test_the_command_line(folder: Path, orders: list[Order]) -> None:
    command = ["signer", "--listen", "unix:run/s.sock", "--key", "k.pem"]
    assert main(command) == 0
    assert main([*command, "--uid", "1000", "--uid", "1001", "--time-limit", "0.5"]) == 0
    first, second = orders
    assert (first.place.path, first.place.uids) == (folder / "run" / "s.sock", frozenset())
    assert first.limits.sign == 3.0
    assert (second.place.uids, second.limits.sign) == (frozenset({1000, 1001}), 0.5)
    assert str(first.spec) == str(folder / "k.pem")
    assert b"PRIVATE KEY" not in repr(first).encode()


def test_tokens_only_where_they_are_named(folder: Path, orders: list[Order]) -> None:
    command = ["signer", "--listen", "unix:s", "--key", "k.pem"]
    assert main(command) == 0
    tokens = ["--spiffe-id", ID, "--client-assertion", "https://issuer.example.org", ID]
    assert main([*command, *tokens, "--client-assertion", "a=b c", "client=1", "--client-assertion", "a=b c", "2"]) == 0
    none, some = (order.mandate for order in orders)
    assert none == Mandate()
    clients = {Client("https://issuer.example.org", ID), Client("a=b c", "client=1"), Client("a=b c", "2")}
    assert some == Mandate(SpiffeId.parse(ID), frozenset(clients))


def test_the_help_says_what_is_signed(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["signer", "--help"]) == 0
    said = " ".join(capsys.readouterr().out.split())
    assert "the tokens that --spiffe-id and --client-assertion allow" in said
    assert "--client-assertion AUDIENCE CLIENT" in said
    assert f"at most {SELF_SIGNED_SECONDS} s" in said
    assert f"at most {ASSERTION_SECONDS} s" in said
    assert "\n" not in said


def test_the_files_of_a_key_are_read(folder: Path, orders: list[Order]) -> None:
    pin = folder / "pin"
    pin.touch(mode=0o600)
    pin.write_text("1234\n")
    assert main(["signer", "--listen", "unix:s", "--key", "tpm:handle=0x81000002;pin-source=file:pin"]) == 0
    assert orders[0].secrets.pin == b"1234"
    assert "1234" not in repr(orders[0])


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ([], "--listen"),
        (["--listen", "unix:s"], "--key"),
        (["--listen", "127.0.0.1:1", "--key", "k.pem"], "write unix:PATH"),
        (["--listen", "unix:", "--key", "k.pem"], "write unix:PATH"),
        (["--listen", "unix:" + "x" * 200, "--key", "k.pem"], "at most 107 bytes"),
        (["--listen", "unix:s", "--key", "k.pem", "--uid", "root"], "not the number of a user"),
        (["--listen", "unix:s", "--key", "k.pem", "--uid", "-1"], "--uid"),
        (["--listen", "unix:s", "--key", "k.pem", "--uid", str(2**32 - 1)], "not the number of a user"),
        (["--listen", "unix:s", "--key", "k.pem", "--uid", "9" * 5000], "not the number of a user"),
        (["--listen", "unix:s", "--key", "k.pem", "--uid", "\u0661"], "not the number of a user"),
        (["--listen", "unix:s", "--key", "k.pem", "--time-limit", "0"], "more than 0"),
        (["--listen", "unix:s", "--key", "k.pem", "--time-limit", "nan"], "more than 0"),
        (["--listen", "unix:s", "--key", "k.pem", "--time-limit", "inf"], "at most 60"),
        (["--listen", "unix:s", "--key", "k.pem", "--time-limit", "soon"], "number of seconds"),
        (["--listen", "unix:s", "--key", "k.pem", "--time", "1"], "--time"),
        (["--listen", "unix:s", "--key", "k.pem", "--spiffe-id", "planner"], "--spiffe-id: a SPIFFE ID starts with"),
        (["--listen", "unix:s", "--key", "k.pem", "--spiffe-id", ""], "the SPIFFE ID is empty"),
        (["--listen", "unix:s", "--key", "k.pem", "--spiffe-id", "spiffe://example.org"], "names a trust domain"),
        (["--listen", "unix:s", "--key", "k.pem", "--spiffe-id", ID + "/"], "ends with a slash"),
        (["--listen", "unix:s", "--key", "k.pem", "--spiffe-id", ID + "/*"], "a path segment has only"),
        (["--listen", "unix:s", "--key", "k.pem", "--client-assertion", "x"], "expected 2 arguments"),
        (["--listen", "unix:s", "--key", "k.pem", "--client-assertion", "x", "y", "z"], "unrecognized arguments: z"),
        (["--listen", "unix:s", "--key", "k.pem", "--client-assertion", "", "x"], "1 to 1024 printable"),
        (["--listen", "unix:s", "--key", "k.pem", "--client-assertion", "x", ""], "1 to 1024 printable"),
        (["--listen", "unix:s", "--key", "k.pem", "--client-assertion", "x", "a\nb"], "1 to 1024 printable"),
        (["--listen", "unix:s", "--key", "k.pem", "--client-assertion", "\udce9", "x"], "1 to 1024 printable"),
        (["--listen", "unix:s", "--key", "k.pem", "--client-assertion", "x" * 1025, "x"], "1 to 1024 printable"),
        (["--listen", "unix:s", "--key", "k.pem", "--client", "x", "y"], "--client"),
        (["--listen", "unix:s", "--key", ""], "--key is empty"),
        (["--listen", "unix:s", "--key", "absent.pem"], "absent.pem: does not exist"),
        (["--listen", "unix:s", "--key", "open.pem"], "open.pem: holds a private key and is open to everybody"),
        (["--listen", "unix:s", "--key", "junk.pem"], "junk.pem: the file holds no PEM private key"),
        (["--listen", "unix:s", "--key", "vault:x"], "vault: is not a kind of key"),
        (["--listen", "unix:s", "--key", "pkcs11:object=k?pin-value=1234"], "a PIN stands in the configuration"),
        (["--listen", "unix:s", "--key", "tpm:handle=0x81000002;pin-source=file:none"], "none: does not exist"),
    ],
)
def test_what_is_wrong_is_said(
    folder: Path, orders: list[Order], capsys: pytest.CaptureFixture[str], arguments: list[str], said: str
) -> None:
    (folder / "junk.pem").touch(mode=0o600)
    (folder / "open.pem").write_bytes(PEM)
    (folder / "open.pem").chmod(0o644)
    assert main(["signer", *arguments]) == 2
    shown = capsys.readouterr()
    assert said in shown.err
    assert "1234" not in shown.err
    assert "Traceback" not in shown.err
    assert orders == []
    assert not (folder / "s").exists()


def test_another_service_s_key_is_not_passed_on(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["signer", "--listen", "unix:s", "--key", "signer:unix:other"]) == 2
    assert "does not pass on" in capsys.readouterr().err
    assert not (folder / "s").exists()

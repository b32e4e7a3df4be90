from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

from sidecar.cli import main
from sidecar.cli import signer as module
from tests.support.ca import keypair

if TYPE_CHECKING:
    from pathlib import Path

    from sidecar.clock import Clock
    from sidecar.signer.process import Order

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

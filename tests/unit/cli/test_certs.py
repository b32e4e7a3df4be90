from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from cryptography.hazmat.primitives.asymmetric import ec

from sidecar.cli import certs as module
from sidecar.cli import main
from sidecar.cli.certs import report
from sidecar.devcerts.generate import Made, generate
from sidecar.devcerts.identities import Identity
from sidecar.devcerts.keys import Key
from sidecar.devcerts.layout import Order
from sidecar.identity.pins import Pin
from sidecar.keys.protection import Protection
from sidecar.keys.spec import TpmKey
from sidecar.keys.uri import Pkcs11Key
from tests.support.ca import keypair

if TYPE_CHECKING:
    from sidecar.devcerts.devices import Device

FILES = "These are development identities: the keys are files, which whoever can read them can copy."
AUTHORITY = "The authority's key is a file: whoever can read it can make such identities."


def made(device: Device, *protections: Protection, unused: tuple[str, ...] = ()) -> Made:
    order = Order.parse(Path("c"), [f"agent{n}" for n in range(len(protections))], device=device)
    public = keypair("reported", curve=ec.SECP256R1).public_key()
    identities = tuple(
        Identity(place, Key(device, public, protection), Pin(bytes(32)), 0.0, "new key", unused)
        for place, protection in zip(order.places, protections, strict=True)
    )
    return Made(order, "new", 0.0, identities, foreign_gitignore=False)


@pytest.mark.parametrize(
    ("device", "protections", "software", "said"),
    [
        (TpmKey(), [Protection.TPM], False, "their keys cannot leave the TPM."),
        (TpmKey(), [Protection.TPM], True, "their keys are in a software TPM, and whoever can read the files"),
        (TpmKey(), [Protection.TPM, Protection.SOFTWARE], False, "not all of their keys are kept from being copied"),
        (TpmKey(), [Protection.SOFTWARE], True, "not all of their keys are kept from being copied out of the TPM."),
        (Pkcs11Key(Path("/m")), [Protection.HSM], False, "their keys cannot leave the token."),
        (Pkcs11Key(Path("/m")), [Protection.HSM], True, "their keys are in a software token, and whoever can read"),
    ],
)
def test_the_last_sentences_are_true(device: Device, protections: list[Protection], software: bool, said: str) -> None:
    lines = list(report(made(device, *protections), software=software))
    assert lines[-2].startswith(f"These are development identities: {said}")
    assert lines[-1] == AUTHORITY
    assert [line.split()[1] for line in lines if line.startswith("  protection ")] == protections


def test_keys_in_files(tmp_path: Path) -> None:
    lines = list(report(generate(Order.parse(tmp_path, ["planner"]), 1_800_000_000.0)))
    assert lines[-1] == FILES
    assert f"  key          {tmp_path}/planner/tls.key" in lines
    assert "  protection   software" in lines


def test_what_is_not_used_any_more() -> None:
    lines = list(report(made(TpmKey(), Protection.TPM, unused=("c/agent0/tls.key",))))
    assert "  not used     c/agent0/tls.key any more: the certificate is for the new key" in lines


@pytest.mark.parametrize("key", ["", "foo", "tpm:file=x", "tpm:pin-source=file:absent", "pkcs11:token=t"])
def test_a_wrong_key_makes_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], key: str
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(["certs", "init", "c", "--agent", "planner", "--key", key]) == 2
    said = capsys.readouterr()
    assert said.out == ""
    assert said.err.startswith("sidecar: ")
    assert list(tmp_path.iterdir()) == []


def test_files_need_no_thread(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(module, "within")
    assert main(["certs", "init", str(tmp_path / "c"), "--agent", "planner"]) == 0

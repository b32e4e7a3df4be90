"""Which kind of place is opened by what; the libraries behind are replaced, since here is only the choice."""

from __future__ import annotations

import sys
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import pytest
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

from sidecar.keys.errors import KeyCode, PrivateKeyError
from sidecar.keys.open import Secrets, open_signer
from sidecar.keys.protection import Protection
from sidecar.keys.serial import SIGN_SECONDS, SerialSigner
from sidecar.keys.software import SoftwareSigner
from sidecar.keys.spec import KeyFile, RemoteKey, TpmKey
from sidecar.keys.uri import Pkcs11Key
from tests.support.ca import keypair

if TYPE_CHECKING:
    from sidecar.keys.spec import KeySpec

KEY = keypair("opened")
PEM = KEY.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    made: list[Any] = []

    def opener(*arguments: object, **named: object) -> SimpleNamespace:
        made.append((*arguments, named) if named else arguments)
        return SimpleNamespace(public_key=KEY.public_key(), protection=Protection.HSM)

    for name in ("sidecar.keys.tpm.device", "sidecar.keys.pkcs11.device"):
        monkeypatch.setitem(sys.modules, name, SimpleNamespace(open_device=opener))  # type: ignore[arg-type]  # a fake
    monkeypatch.setitem(sys.modules, "sidecar.keys.remote", SimpleNamespace(RemoteSigner=opener))  # type: ignore[arg-type]  # a fake
    return made


@pytest.mark.parametrize(
    ("spec", "arguments"),
    [
        (TpmKey(handle=0x81000002), (None, b"PIN")),
        (TpmKey(file=Path("/k")), (PEM, b"PIN")),
        (Pkcs11Key(Path("/m.so"), object="x"), (b"PIN",)),
    ],
    ids=["tpm handle", "tpm file", "pkcs11"],
)
def test_a_device(calls: list[Any], spec: KeySpec, arguments: tuple[Any, ...]) -> None:
    signer = open_signer(spec, Secrets(pem=arguments[0] if len(arguments) > 1 else None, pin=b"PIN"), limit=7.0)
    assert isinstance(signer, SerialSigner)
    assert signer._limit == 7.0
    assert calls == [(spec, *arguments)]
    assert (signer.public_key, signer.protection) == (KEY.public_key(), Protection.HSM)


def test_a_service(calls: list[Any]) -> None:
    spec = RemoteKey(Path("/s"))
    open_signer(spec, Secrets())
    assert calls == [(spec, {"limit": SIGN_SECONDS})]


def test_a_file(calls: list[Any]) -> None:
    signer = open_signer(KeyFile(Path("/k")), Secrets(pem=PEM))
    assert isinstance(signer, SoftwareSigner)
    assert (signer.public_key, signer.protection) == (KEY.public_key(), Protection.SOFTWARE)
    assert calls == []


def test_a_file_that_was_not_read() -> None:
    with pytest.raises(PrivateKeyError) as caught:
        open_signer(KeyFile(Path("/k")), Secrets())
    assert caught.value.code is KeyCode.NO_KEY


def test_a_file_that_is_no_key() -> None:
    with pytest.raises(PrivateKeyError) as caught:
        open_signer(KeyFile(Path("/k")), Secrets(pem=b"nonsense"))
    assert caught.value.code is KeyCode.NO_KEY


def test_secrets_are_not_in_repr() -> None:
    text = repr(Secrets(pem=PEM, pin=b"QQ77QQ"))
    assert "QQ77" not in text
    assert "PRIVATE" not in text


def test_python_pkcs11_is_not_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in sys.modules if name.startswith("sidecar.keys.pkcs11")]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "pkcs11", None)  # type: ignore[arg-type]  # what the import system takes for absent
    for _ in range(2):
        with pytest.raises(PrivateKeyError) as caught:
            open_signer(Pkcs11Key(Path("/m.so"), object="x"), Secrets())
        assert (caught.value.code, caught.value.hint) == (KeyCode.NO_LIBRARY, "pip install 'agent-sidecar[pkcs11]'")

from __future__ import annotations

import base64
from typing import TYPE_CHECKING, Any

import pytest
import yaml

from sidecar.app.workers.handed import pack, unpack
from sidecar.app.workers.keeper import needed
from sidecar.app.workers.signing import mandate_of
from sidecar.clock import Clock
from sidecar.config.load import load
from sidecar.keys.token_messages import Client
from tests.support.server import configuration

if TYPE_CHECKING:
    from pathlib import Path

    from sidecar.config.load import Loaded


def loaded(folder: Path, key: str = "tls.key", **parts: Any) -> Loaded:
    config = configuration(folder, 8080) | {"workers": 2} | parts
    config["identity"]["key"] = key
    (folder / "sidecar.yaml").write_text(yaml.safe_dump(config))
    return load(folder / "sidecar.yaml", now=Clock().wall())


@pytest.fixture
def with_pin(tmp_path: Path) -> Loaded:
    (tmp_path / "pin").touch(mode=0o600)
    (tmp_path / "pin").write_bytes(b"93571\n")
    return loaded(tmp_path, "tpm:handle=0x81000002;pin-source=file:pin")


def test_only_keys_in_devices_need_a_process(tmp_path: Path, with_pin: Loaded) -> None:
    assert needed(with_pin)
    assert not needed(loaded(tmp_path))
    assert not needed(loaded(tmp_path, "signer:unix:/run/s.sock"))


def test_workers_do_not_get_the_pin(with_pin: Loaded) -> None:
    for_workers, for_signer = pack(with_pin), pack(with_pin, with_pin=True)
    texts = [[base64.b64decode(file[1]) for file in packed["files"]] for packed in (for_workers, for_signer)]
    assert [b"93571\n" in each for each in texts] == [False, True]
    assert unpack(for_workers).material.key.secrets.pin == b"withheld"
    assert unpack(for_signer).material.key == with_pin.material.key


def test_the_mandate_is_for_the_tokens_that_the_configuration_asks_for(tmp_path: Path) -> None:
    assert mandate_of(loaded(tmp_path)) == mandate_of(loaded(tmp_path, tokens=[]))
    none = mandate_of(loaded(tmp_path))
    assert (none.spiffe_id, none.clients) == (None, frozenset())
    issuer = {"kind": "oauth2", "issuer": "https://a.example", "client_auth": "private_key_jwt"}
    sources = [
        {"name": "own", "kind": "self-signed", "audience": "https://b.example"},
        {"name": "one"} | issuer,
        {"name": "two", "client_id": "me", "assertion_audience": "https://c.example"} | issuer,
        {"name": "three"} | issuer | {"client_auth": "tls_client_auth"},
    ]
    found = loaded(tmp_path, tokens=sources)
    me = str(found.material.svid.id)
    made = mandate_of(found)
    assert str(made.spiffe_id) == me
    assert made.clients == {Client("https://a.example", me), Client("https://c.example", "me")}

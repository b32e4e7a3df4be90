from __future__ import annotations

from pathlib import Path

import pytest

from sidecar.errors import ConfigurationError
from sidecar.keys.errors import KeyCode, PrivateKeyError
from sidecar.keys.spec import KeyFile, parse, scheme

BASE = Path("/etc/sidecar")


@pytest.mark.parametrize(
    ("text", "path"),
    [
        ("tls.key", "/etc/sidecar/tls.key"),
        ("/run/tls.key", "/run/tls.key"),
        ("./tpm:x", "/etc/sidecar/tpm:x"),
        ("a/b:c", "/etc/sidecar/a/b:c"),
        ("c:/tls.key", "/etc/sidecar/c:/tls.key"),
    ],
)
def test_a_path(text: str, path: str) -> None:
    assert parse(text, BASE) == KeyFile(Path(path))
    assert str(parse(text, BASE)) == path


@pytest.mark.parametrize("text", ["vault:secret/x", "file:tls.key", "TPM:handle=1", "awskms://x", "http://x"])
def test_a_scheme_is_no_path(text: str) -> None:
    with pytest.raises(PrivateKeyError) as caught:
        parse(text, BASE)
    assert isinstance(caught.value, ConfigurationError)
    assert caught.value.code is KeyCode.UNKNOWN_KIND
    assert str(caught.value) == f"{scheme(text)}: is not a kind of key"
    assert caught.value.hint == "name the path of a PEM file; write ./ before a path that begins like a scheme"


@pytest.mark.parametrize(
    ("text", "name"), [("PKCS11:object=x", "pkcs11"), ("signer:unix:/x", "signer"), ("tls.key", None), (":x", None)]
)
def test_schemes(text: str, name: str | None) -> None:
    assert scheme(text) == name

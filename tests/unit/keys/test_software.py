from __future__ import annotations

import base64

import pytest
from cryptography.hazmat.primitives.asymmetric import ec, ed448, ed25519, x25519
from cryptography.hazmat.primitives.serialization import (
    BestAvailableEncryption,
    Encoding,
    KeySerializationEncryption,
    NoEncryption,
    PrivateFormat,
    load_pem_private_key,
)
from hypothesis import given
from hypothesis import strategies as st

from sidecar.keys.errors import KeyCode, PrivateKeyError
from sidecar.keys.protection import Protection
from sidecar.keys.software import holds_key, load
from tests.support.ca import Ca, keypair, rsa_keypair

PKCS8, SEC1 = PrivateFormat.PKCS8, PrivateFormat.TraditionalOpenSSL
GOOD = keypair("software key")


def pem(key: object, kind: PrivateFormat = PKCS8, encryption: KeySerializationEncryption | None = None) -> bytes:
    return key.private_bytes(Encoding.PEM, kind, encryption or NoEncryption())  # type: ignore[attr-defined]  # any kind


def refused(data: bytes) -> PrivateKeyError:
    with pytest.raises(PrivateKeyError) as caught:
        load(data)
    return caught.value


@pytest.mark.parametrize("curve", [ec.SECP256R1, ec.SECP384R1])
@pytest.mark.parametrize("kind", [PKCS8, SEC1])
def test_the_two_curves_in_both_formats(curve: type[ec.EllipticCurve], kind: PrivateFormat) -> None:
    key = keypair("a key", curve=curve)
    loaded = load(pem(key, kind))
    assert loaded.public_key == key.public_key()
    assert loaded.protection is Protection.SOFTWARE
    assert str(loaded.protection) == "software"
    assert loaded.pem == pem(key)
    again = load_pem_private_key(loaded.pem, None)
    assert isinstance(again, ec.EllipticCurvePrivateKey)
    assert again.private_numbers() == key.private_numbers()


@pytest.mark.parametrize(
    "around",
    [
        (b"", Ca().pem),
        (Ca().pem, b""),
        (b"-----BEGIN EC PARAMETERS-----\nBggqhkjOPQMBBw==\n-----END EC PARAMETERS-----\n", b""),
        (b"Bag Attributes\n    friendlyName: x\n", b""),
    ],
)
def test_what_stands_around_a_key(around: tuple[bytes, bytes]) -> None:
    assert load(around[0] + pem(GOOD) + around[1]).public_key == GOOD.public_key()


def test_windows_line_ends() -> None:
    assert load(pem(GOOD).replace(b"\n", b"\r\n")).public_key == GOOD.public_key()


@pytest.mark.parametrize("data", [b"", b"garbage", b"\x00\xff" * 50, Ca().pem])
def test_no_key(data: bytes) -> None:
    error = refused(data)
    assert (error.code, str(error)) == (KeyCode.NO_KEY, "the file holds no PEM private key")


def test_more_than_one_key() -> None:
    error = refused(pem(GOOD) + pem(keypair("another")))
    assert (error.code, str(error)) == (KeyCode.SEVERAL_KEYS, "the file holds 2 private keys")


@pytest.mark.parametrize("kind", [PKCS8, SEC1])
def test_an_encrypted_key(kind: PrivateFormat) -> None:
    error = refused(pem(GOOD, kind, BestAvailableEncryption(b"secret")))
    assert (error.code, str(error)) == (
        KeyCode.ENCRYPTED,
        "the private key is encrypted, and there is no way to give a passphrase",
    )
    assert "openssl pkey" in error.hint


@pytest.mark.parametrize(
    ("data", "name"),
    [
        (pem(rsa_keypair()), "an RSA key"),
        (pem(rsa_keypair(), SEC1), "an RSA key"),
        (pem(ed25519.Ed25519PrivateKey.generate()), "an Ed25519 key"),
        (pem(ed448.Ed448PrivateKey.generate()), "an Ed448 key"),
        (pem(x25519.X25519PrivateKey.generate()), "another kind of key"),
        (pem(ec.generate_private_key(ec.SECP521R1())), "a key on the curve secp521r1"),
        (pem(ec.generate_private_key(ec.SECP256K1()), SEC1), "a key on the curve secp256k1"),
        (b"-----BEGIN OPENSSH PRIVATE KEY-----\nAAAA\n-----END OPENSSH PRIVATE KEY-----\n", "a OPENSSH PRIVATE KEY"),
    ],
)
def test_other_kinds_of_key(data: bytes, name: str) -> None:
    error = refused(data)
    assert error.code is KeyCode.UNSUPPORTED
    assert str(error) == f"the file holds {name}; P-256 and P-384 are supported"
    assert "openssl ecparam" in error.hint


def test_a_key_that_a_tpm_wrapped_is_named_as_one() -> None:
    error = refused(b"-----BEGIN TSS2 PRIVATE KEY-----\nAAAA\n-----END TSS2 PRIVATE KEY-----\n")
    assert error.code is KeyCode.UNSUPPORTED
    assert "that TPM alone can use" in str(error)
    assert error.hint == "name it as what it is: tpm:file=PATH"


def test_an_algorithm_that_nobody_knows() -> None:
    """A PKCS#8 structure (RFC 5208 5) whose algorithm is the object identifier 1.2.3.4."""
    der = bytes.fromhex("300e020100300506032a030404020500")
    error = refused(b"-----BEGIN PRIVATE KEY-----\n" + base64.b64encode(der) + b"\n-----END PRIVATE KEY-----\n")
    assert error.code is KeyCode.UNSUPPORTED
    assert str(error) == "the file holds a private key of an unknown algorithm; P-256 and P-384 are supported"


@pytest.mark.parametrize(
    "data",
    [
        pem(GOOD)[:-20],
        pem(GOOD)[30:],
        pem(GOOD).replace(b"M", b"!", 1),
        b"-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----\n",
        b"-----BEGIN PRIVATE KEY-----\n-----END PRIVATE KEY-----\n",
        b"-----BEGIN PRIVATE KEY-----\nAAAA\n-----END EC PRIVATE KEY-----\n",
    ],
)
def test_a_damaged_key(data: bytes) -> None:
    assert refused(data).code is KeyCode.GARBAGE


@pytest.mark.threat(60)
def test_threat_60_no_message_holds_any_of_the_key() -> None:
    body = pem(GOOD).splitlines()[1]
    damaged = pem(GOOD).replace(body[-4:], b"!!!!")
    error = refused(damaged)
    chain: BaseException | None = error
    while chain is not None:
        assert body[:16].decode() not in f"{chain} {getattr(chain, 'hint', '')}"
        chain = chain.__cause__ or chain.__context__


@pytest.mark.threat(60)
def test_threat_60_the_key_is_not_in_repr() -> None:
    assert "PRIVATE" not in repr(load(pem(GOOD)))


@pytest.mark.parametrize(
    ("data", "found"),
    [
        (pem(GOOD), True),
        (pem(GOOD, SEC1), True),
        (pem(GOOD, PKCS8, BestAvailableEncryption(b"x")), True),
        (pem(GOOD)[:40], True),
        (b"-----BEGIN TSS2 PRIVATE KEY-----", True),
        (Ca().pem, False),
        (b"", False),
    ],
)
def test_whether_a_file_holds_a_key(data: bytes, found: bool) -> None:
    assert holds_key(data) is found


@given(st.binary(max_size=60), st.integers(0, 240), st.integers(0, 240))
def test_no_bytes_raise_anything_else(junk: bytes, start: int, stop: int) -> None:
    """Invariant: any bytes are the key they hold or a PrivateKeyError."""
    data = pem(GOOD)
    try:
        loaded = load(data[:start] + junk + data[stop:])
    except PrivateKeyError as error:
        found: object = error.code
    else:
        found = loaded.public_key
    assert isinstance(found, KeyCode | ec.EllipticCurvePublicKey)

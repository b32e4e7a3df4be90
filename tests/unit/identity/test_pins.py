from __future__ import annotations

import base64
import hashlib

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from hypothesis import given
from hypothesis import strategies as st

from sidecar.errors import Fault
from sidecar.identity.pins import Pin, PinCode, PinError
from tests.support.ca import Ca, der, forge, keypair, resign, rsa_keypair

digests = st.binary(min_size=32, max_size=32)


@given(digests)
def test_pin_is_written_back(digest: bytes) -> None:
    """parse(str(pin)) == pin, and the text is the standard encoding."""
    pin = Pin(digest)
    assert Pin.parse(str(pin)) == pin
    assert str(pin) == "sha256:" + base64.b64encode(digest).decode()


@given(st.one_of(st.text(), st.text("AZaz09+/-_= \n\u0661", max_size=50).map("sha256:".__add__)))
def test_any_text_is_a_pin_or_the_one_error(text: str) -> None:
    """Parsing yields a pin of 32 bytes that writes itself back, or PinError, for any text at all."""
    found = outcome(text)
    if isinstance(found, PinError):
        assert isinstance(found.code, PinCode)
    else:
        assert len(found.digest) == 32
        assert str(found) == text


def outcome(text: str) -> Pin | PinError:
    try:
        return Pin.parse(text)
    except PinError as error:
        return error


GOOD = str(Pin(bytes(range(200, 232))))  # no character of it is - or _


@pytest.mark.threat(13)
@pytest.mark.parametrize(
    ("text", "code"),
    [
        ("", PinCode.WRONG_PREFIX),
        (GOOD.removeprefix("sha256:"), PinCode.WRONG_PREFIX),
        (GOOD.replace("sha256:", "sha256/"), PinCode.WRONG_PREFIX),
        (GOOD.replace("sha256:", "SHA256:"), PinCode.WRONG_PREFIX),
        (GOOD.replace("sha256:", "sha512:"), PinCode.WRONG_PREFIX),
        (" " + GOOD, PinCode.WRONG_PREFIX),
        ("sha256:" + base64.urlsafe_b64encode(b"\xff" * 32).decode(), PinCode.URL_SAFE),
        ("sha256:" + base64.urlsafe_b64encode(b"\xfb\xef" * 16).decode(), PinCode.URL_SAFE),
        ("sha256:-" + GOOD.removeprefix("sha256:")[1:], PinCode.URL_SAFE),
        ("sha256:_" + GOOD.removeprefix("sha256:")[1:], PinCode.URL_SAFE),
        (GOOD + "\n", PinCode.NOT_BASE64),
        (GOOD + " ", PinCode.NOT_BASE64),
        ("sha256: " + GOOD.removeprefix("sha256:"), PinCode.NOT_BASE64),
        (GOOD[:20] + "\n" + GOOD[20:], PinCode.NOT_BASE64),
        (GOOD.removesuffix("="), PinCode.NOT_BASE64),
        (GOOD + "=", PinCode.NOT_BASE64),
        (GOOD[:20] + "=" + GOOD[20:], PinCode.NOT_BASE64),
        (GOOD[:-2] + "\u00e9=", PinCode.NOT_BASE64),
        ("sha256:" + "A" * 42 + "B=", PinCode.NOT_CANONICAL),
        ("sha256:", PinCode.WRONG_LENGTH),
        ("sha256:" + base64.b64encode(bytes(20)).decode(), PinCode.WRONG_LENGTH),
        ("sha256:" + base64.b64encode(bytes(33)).decode(), PinCode.WRONG_LENGTH),
        ("sha256:" + "ab" * 32, PinCode.WRONG_LENGTH),  # the digest in hex
    ],
)
def test_threat_13_defective_pin_has_its_code(text: str, code: PinCode) -> None:
    with pytest.raises(PinError) as caught:
        Pin.parse(text)
    assert caught.value.code is code
    assert caught.value.fault is Fault.CONFIGURATION
    assert caught.value.hint


def test_constructor_makes_no_pin_of_another_length() -> None:
    with pytest.raises(PinError) as caught:
        Pin(bytes(31))
    assert caught.value.code is PinCode.WRONG_LENGTH


@pytest.mark.parametrize(
    "key", [keypair(), keypair("p384", curve=ec.SECP384R1), rsa_keypair()], ids=["p256", "p384", "rsa"]
)
def test_pin_of_a_certificate_is_that_of_its_key(key: ec.EllipticCurvePrivateKey) -> None:
    spki = key.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    certificate = forge(Ca().signer, key.public_key())
    assert Pin.of_certificate(certificate) == Pin.of_spki(spki) == Pin(hashlib.sha256(spki).digest())


def test_pin_is_of_the_bytes_presented() -> None:
    """A compressed point is the same key in other bytes, and so has another pin."""
    point = keypair().public_key()
    long = point.public_bytes(Encoding.X962, PublicFormat.UncompressedPoint)
    short = point.public_bytes(Encoding.X962, PublicFormat.CompressedPoint)
    plain = forge(Ca().signer)

    def compress(tbs: bytes) -> bytes:
        algorithm = bytes.fromhex("301306072a8648ce3d020106082a8648ce3d030107")
        old = b"\x30\x59" + algorithm + b"\x03\x42\x00" + long
        assert tbs.count(old) == 1
        return tbs.replace(old, b"\x30\x39" + algorithm + b"\x03\x22\x00" + short)

    compressed = x509.load_der_x509_certificate(resign(plain, keypair("authority example.org "), compress))
    assert compressed.public_key() == plain.public_key()
    assert Pin.of_certificate(compressed) != Pin.of_certificate(plain)
    assert Pin.of_certificate(compressed) == Pin.of_spki(der_between(compressed, short))


def der_between(certificate: x509.Certificate, point: bytes) -> bytes:
    encoded = der(certificate)
    end = encoded.index(point) + len(point)
    return encoded[end - 0x39 - 2 : end]

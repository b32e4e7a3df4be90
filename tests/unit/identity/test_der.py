from __future__ import annotations

from datetime import UTC, datetime

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from sidecar.identity.der import not_after, subject_public_key_info
from tests.support.ca import Ca, Key, der, forge, keypair, name, resign, rsa_keypair

KEYS = [keypair(), keypair("p384", curve=ec.SECP384R1), rsa_keypair(), rsa_keypair("long", bits=3072)]


@pytest.mark.parametrize("key", KEYS, ids=["p256", "p384", "rsa", "rsa-3072"])
@pytest.mark.parametrize("subject", ["", "a", "b" * 64])
def test_key_is_found_behind_names_of_any_length(key: Key, subject: str) -> None:
    certificate = forge(Ca().signer, key.public_key(), subject=name(subject))
    expected = key.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    assert subject_public_key_info(certificate) == expected


def test_key_is_found_in_a_certificate_without_version() -> None:
    plain = forge(Ca().signer)
    old = resign(plain, keypair("authority example.org "), lambda tbs: tbs.removeprefix(bytes.fromhex("a003020102")))
    certificate = x509.load_der_x509_certificate(old)
    assert certificate.version is x509.Version.v1
    assert subject_public_key_info(certificate) == subject_public_key_info(plain)


@pytest.mark.parametrize("year", [1950, 1999, 2000, 2049, 2050, 9999])
def test_the_end_is_read_in_either_form(year: int) -> None:
    end = datetime(year, 12, 31, 23, 59, 58, tzinfo=UTC).timestamp()
    certificate = forge(Ca().signer, not_before=datetime(1950, 1, 1, tzinfo=UTC).timestamp(), not_after=end)
    assert not_after(der(certificate)) == end == certificate.not_valid_after_utc.timestamp()


def test_the_end_is_read_in_a_certificate_without_version() -> None:
    plain = forge(Ca().signer)
    old = resign(plain, keypair("authority example.org "), lambda tbs: tbs.removeprefix(bytes.fromhex("a003020102")))
    assert not_after(old) == plain.not_valid_after_utc.timestamp()


@pytest.mark.parametrize(
    ("end", "instead"),
    [
        (b"20501231235958Z", b"20501331235958Z"),
        (b"20501231235958Z", b"20501231235958+"),
        (b"20501231235958Z", b"2050123123595xZ"),
        (b"\x18\x0f20501231235958Z", b"\x18\x0e0501231235958Z"),
    ],
    ids=["month", "zone", "letter", "short"],
)
def test_an_end_that_is_none_of_rfc_5280_is_not_guessed(end: bytes, instead: bytes) -> None:
    certificate = forge(Ca().signer, not_after=datetime(2050, 12, 31, 23, 59, 58, tzinfo=UTC).timestamp())
    with pytest.raises(ValueError, match=r"time|month|int"):
        not_after(der(certificate).replace(end, instead))


def test_what_is_cut_short_has_no_end() -> None:
    certificate = forge(Ca().signer)
    whole, end = der(certificate), f"{certificate.not_valid_after_utc:%y%m%d%H%M%S}Z".encode()
    for length in range(whole.index(end) + len(end)):
        with pytest.raises(ValueError, match=r"ends before|time"):
            not_after(whole[:length])

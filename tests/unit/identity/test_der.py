from __future__ import annotations

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from sidecar.identity.der import subject_public_key_info
from tests.support.ca import Ca, Key, forge, keypair, name, resign, rsa_keypair

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

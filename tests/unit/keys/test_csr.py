from __future__ import annotations

import subprocess
from typing import TYPE_CHECKING

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

from sidecar.identity.spiffe import SpiffeId
from sidecar.keys.csr import _SigningKey, request
from sidecar.keys.errors import SignCode, SignError
from sidecar.keys.protection import Protection
from sidecar.keys.signer import CURVES
from tests.support.ca import keypair
from tests.support.signer_service import Served, software_signer

if TYPE_CHECKING:
    from pathlib import Path

    from sidecar.keys.signer import Hash

ID = SpiffeId.parse("spiffe://example.org/agent/planner/1")


class Liar:
    """Signs with another key than it shows."""

    protection = Protection.TPM

    def __init__(self) -> None:
        self.public_key = keypair("shown").public_key()

    def sign(self, message: bytes, hash_: Hash) -> bytes:
        return keypair("used").sign(message, ec.ECDSA(hash_.algorithm))

    def close(self) -> None:
        """There is nothing to close."""


@pytest.mark.parametrize("curve", CURVES)
def test_what_stands_in_it(curve: type[ec.EllipticCurve]) -> None:
    signer = software_signer(curve)
    made = x509.load_pem_x509_csr(request(signer, ID))
    assert made.is_signature_valid
    assert made.public_key() == signer.public_key
    assert len(made.subject) == 0
    (extension,) = made.extensions
    assert extension.critical
    assert isinstance(extension.value, x509.SubjectAlternativeName)
    assert list(extension.value) == [x509.UniformResourceIdentifier(str(ID))]


def test_without_a_name() -> None:
    assert list(x509.load_pem_x509_csr(request(software_signer(ec.SECP256R1), None)).extensions) == []


@pytest.mark.needs("openssl")
@pytest.mark.parametrize("spiffe_id", [ID, None], ids=["named", "unnamed"])
@pytest.mark.parametrize("curve", CURVES)
def test_openssl_verifies_it(curve: type[ec.EllipticCurve], spiffe_id: SpiffeId | None) -> None:
    pem = request(software_signer(curve), spiffe_id)
    done = subprocess.run(["openssl", "req", "-verify", "-noout", "-text"], input=pem, capture_output=True, check=True)
    assert b"verify OK" in done.stderr
    assert (f"URI:{ID}".encode() in done.stdout) is (spiffe_id is not None)


def test_a_signature_by_another_key_is_not_passed_on() -> None:
    with pytest.raises(SignError) as caught:
        request(Liar(), ID)
    assert caught.value.code is SignCode.BAD_SIGNATURE


def test_a_signer_service_signs_none(tmp_path: Path) -> None:
    with Served(software_signer(ec.SECP256R1), tmp_path / "s") as served:
        signer = served.client()
        with pytest.raises(SignError) as caught:
            request(signer, ID)
        signer.close()
    assert caught.value.code is SignCode.REFUSED


def test_the_private_half_is_not_to_be_had() -> None:
    key = _SigningKey(software_signer(ec.SECP384R1))
    assert (key.curve.name, key.key_size) == ("secp384r1", 384)
    with pytest.raises(TypeError):
        key.private_numbers()
    with pytest.raises(TypeError):
        key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    with pytest.raises(TypeError):
        key.exchange(ec.ECDH(), key.public_key())
    with pytest.raises(TypeError):
        key.sign(b"", ec.ECDSA(hashes.SHA256()))

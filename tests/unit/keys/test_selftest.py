from __future__ import annotations

import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from hypothesis import given
from hypothesis import strategies as st

from sidecar.keys.errors import SignCode, SignError
from sidecar.keys.messages import Recognisers
from sidecar.keys.protection import Protection
from sidecar.keys.selftest import check_signature, self_test
from sidecar.keys.signer import Hash
from sidecar.keys.software import SoftwareSigner, load
from tests.support.ca import keypair

KEYS = [keypair("self-test"), keypair("self-test P-384", curve=ec.SECP384R1)]
EACH = pytest.mark.parametrize("key", KEYS, ids=lambda key: key.curve.name)


class Fake:
    """A signer that signs with one key and shows another."""

    protection = Protection.TPM

    def __init__(self, key: ec.EllipticCurvePrivateKey, shown: ec.EllipticCurvePrivateKey | None = None) -> None:
        self.key = key
        self.public_key = (shown or key).public_key()
        self.asked: list[tuple[bytes, Hash]] = []

    def sign(self, message: bytes, hash_: Hash) -> bytes:
        self.asked.append((message, hash_))
        return self.key.sign(message, ec.ECDSA(hash_.algorithm))

    def close(self) -> None:
        raise AssertionError


@EACH
def test_it_signs_once_what_a_service_signs_too(key: ec.EllipticCurvePrivateKey) -> None:
    fake = Fake(key)
    self_test(fake)
    ((message, hash_),) = fake.asked
    assert Recognisers().recognise(message, 0) == "self-test"
    assert hash_ is (Hash.SHA384 if key.curve.key_size == 384 else Hash.SHA256)


@EACH
def test_a_software_key_passes(key: ec.EllipticCurvePrivateKey) -> None:
    self_test(SoftwareSigner(load(key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))))


@EACH
@pytest.mark.parametrize("other", [keypair("another"), keypair("another P-384", curve=ec.SECP384R1)])
def test_another_key(key: ec.EllipticCurvePrivateKey, other: ec.EllipticCurvePrivateKey) -> None:
    with pytest.raises(SignError) as caught:
        self_test(Fake(other, shown=key))
    assert caught.value.code is SignCode.BAD_SIGNATURE


def test_what_the_signer_raises_passes() -> None:
    ours = SignError(SignCode.LOCKOUT, "locked")

    class Locked(Fake):
        def sign(self, message: bytes, hash_: Hash) -> bytes:
            raise ours

    with pytest.raises(SignError) as caught:
        self_test(Locked(KEYS[0]))
    assert caught.value is ours


SIGNED = KEYS[0].sign(b"message", ec.ECDSA(Hash.SHA256.algorithm))


def test_a_signature() -> None:
    check_signature(KEYS[0].public_key(), SIGNED, b"message", Hash.SHA256)


@given(st.binary(max_size=80) | st.integers(0, len(SIGNED)).map(lambda at: SIGNED[:at] + b"\0" + SIGNED[at + 1 :]))
def test_anything_else(signature: bytes) -> None:
    """Invariant: bytes are a signature over that message or SignError (BAD_SIGNATURE), never another exception."""
    if signature == SIGNED:
        return
    with pytest.raises(SignError) as caught:
        check_signature(KEYS[0].public_key(), signature, b"message", Hash.SHA256)
    assert caught.value.code is SignCode.BAD_SIGNATURE


def test_another_message_or_hash() -> None:
    for message, hash_ in ((b"massage", Hash.SHA256), (b"message", Hash.SHA384)):
        with pytest.raises(SignError):
            check_signature(KEYS[0].public_key(), SIGNED, message, hash_)

from __future__ import annotations

import hashlib

import pytest
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec

from sidecar.keys.signer import CURVES, Hash, hash_for
from tests.support.ca import keypair


@pytest.mark.parametrize(
    ("hash_", "known", "algorithm"),
    [(Hash.SHA256, hashlib.sha256, hashes.SHA256), (Hash.SHA384, hashlib.sha384, hashes.SHA384)],
)
def test_a_hash_by_its_three_names(hash_: Hash, known: type, algorithm: type[hashes.HashAlgorithm]) -> None:
    assert hash_.digest(b"message") == known(b"message").digest()
    assert isinstance(hash_.algorithm, algorithm)


def test_the_hash_of_a_curve() -> None:
    # RFC 8446 4.2.3: ecdsa_secp256r1_sha256 and ecdsa_secp384r1_sha384.
    pairs = {ec.SECP256R1: Hash.SHA256, ec.SECP384R1: Hash.SHA384}
    assert set(pairs) == set(CURVES)
    for curve, hash_ in pairs.items():
        assert hash_for(keypair(f"hash for {curve.__name__}", curve=curve).public_key()) is hash_

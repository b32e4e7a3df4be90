"""Whatever the bytes, a certificate is described or called unreadable."""

from __future__ import annotations

import hashlib

from hypothesis import given
from hypothesis import strategies as st

from sidecar.inspection.described import Described, describe
from tests.support.ca import NOW, Ca, rsa_keypair

CA = Ca(now=NOW)


def test_a_leaf_and_its_authority() -> None:
    leaf = CA.leaf("/agent/tools/1")
    found = describe(leaf.der[0])
    assert found.uris == ("spiffe://example.org/agent/tools/1",)
    assert found.pin == str(leaf.pin)
    assert (found.key, found.authority, found.self_issued, found.unreadable) == ("EC secp256r1", False, False, "")
    assert found.sha256 == hashlib.sha256(leaf.der[0]).hexdigest()
    assert found.serial == f"{leaf.leaf.serial_number:x}"
    authority = describe(CA.bundle.der()[0])
    assert (authority.authority, authority.self_issued) == (True, True)


def test_an_rsa_key_is_told_by_its_length() -> None:
    assert describe(CA.leaf("/agent/tools/1", key=rsa_keypair()).der[0]).key == "RSA 2048"


@given(st.binary(max_size=200) | st.integers(0, 400).map(lambda n: CA.leaf().der[0][:n]))
def test_anything_else_is_unreadable(der: bytes) -> None:
    found = describe(der)
    assert found == Described(len(der), hashlib.sha256(der).hexdigest(), unreadable=found.unreadable)
    assert found.unreadable


@given(st.integers(0, 10_000), st.integers(1, 255))
def test_a_flipped_byte_is_described_or_not_and_nothing_is_raised(place: int, flip: int) -> None:
    der = bytearray(CA.leaf().der[0])
    der[place % len(der)] ^= flip
    assert describe(bytes(der)).size == len(der)

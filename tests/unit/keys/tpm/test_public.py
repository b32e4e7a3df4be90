from __future__ import annotations

import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from hypothesis import given
from hypothesis import strategies as st

from sidecar.keys.errors import KeyCode, PrivateKeyError
from sidecar.keys.protection import Protection
from sidecar.keys.tpm.public import Attribute, PublicArea, demand_pin_fits, demand_usable, parse
from tests.support.ca import keypair

OURS = 0x40472
NULL = "0010"


def area(
    key: ec.EllipticCurvePublicKey | None = None,
    *,
    kind: str = "0023",
    name: str = "000b",
    attributes: int = OURS,
    middle: str | None = None,
    more: bytes = b"",
) -> bytes:
    """A TPM2B_PUBLIC as a TPM writes it; ``middle`` is what stands between the attributes and the point."""
    key = key or keypair("in a TPM").public_key()
    numbers, size = key.public_numbers(), (key.key_size + 7) // 8
    curve = "0004" if key.key_size == 384 else "0003"
    point = b"".join(size.to_bytes(2) + number.to_bytes(size) for number in (numbers.x, numbers.y))
    between = bytes.fromhex(middle if middle is not None else "0000" + NULL + NULL + curve + NULL)
    body = bytes.fromhex(kind + name) + attributes.to_bytes(4) + between + point + more
    return len(body).to_bytes(2) + body


def refused(raw: bytes) -> PrivateKeyError:
    with pytest.raises(PrivateKeyError) as caught:
        parse(raw)
    return caught.value


@pytest.mark.parametrize("curve", [ec.SECP256R1, ec.SECP384R1])
def test_a_key_of_either_curve(curve: type[ec.EllipticCurve]) -> None:
    key = keypair("in a TPM", curve=curve).public_key()
    found = parse(area(key))
    assert found.key == key
    assert found.attributes == OURS
    assert found.pin_bytes == 32
    assert found.unbound == []


def test_a_key_that_a_tpm_made() -> None:
    raw = bytes.fromhex(
        "00560023000b000404720000001000100003001000203c4c0a8b32b659ea1ffcbdc492d30dd78ebd3088e2da5d34779d56734ab0078b"
        "0020ef93c442c3cc102051bc3980f99a86cfb68687c658cb2fc52d15b20f5410fab2"
    )
    assert parse(raw).key.public_numbers().x >> 240 == 0x3C4C


def test_a_coordinate_without_leading_zeros() -> None:
    key = next(
        key for scalar in range(1, 5000) if (key := ec.derive_private_key(scalar, ec.SECP256R1()).public_key())
        and key.public_numbers().x < 1 << 248
    )  # fmt: skip
    numbers = key.public_numbers()
    short = b"\0\x1f" + numbers.x.to_bytes(31) + b"\0\x20" + numbers.y.to_bytes(32)
    body = area(key)[2:-68] + short
    assert parse(len(body).to_bytes(2) + body).key == key


@pytest.mark.parametrize(
    ("raw", "words"),
    [
        (area(kind="0001"), "the TPM object is an RSA key, not an EC key; P-256 and P-384 are supported"),
        (area(kind="0008"), "an HMAC key or sealed data"),
        (area(kind="0025"), "a symmetric key"),
        (area(kind="0099"), "of type 0x0099"),
        (area(name="0010"), "the hash algorithm 0x0010"),
        (area(middle="0000" + NULL + NULL + "0005" + NULL), "the curve 0x0005"),
        (area(middle="0000" + NULL + NULL + "0020" + NULL), "the curve 0x0020"),
        (area(middle="0000" + NULL + "001a000b0003" + NULL), "the scheme 0x001a"),
        (area(middle="0000" + NULL + "0018000c0003" + NULL), "the hash 0x000c alone; TLS wants sha256"),
    ],
    ids=["RSA", "HMAC", "symmetric", "unknown", "name", "P-521", "SM2", "ECDAA", "SHA-384 alone"],
)
def test_another_kind_of_object(raw: bytes, words: str) -> None:
    error = refused(raw)
    assert error.code is KeyCode.UNSUPPORTED
    assert words in str(error)


@pytest.mark.parametrize(
    "middle",
    [
        "0000" + NULL + "0018000b0003" + NULL,  # ECDSA with SHA-256 and no other
        "0004deadbeef" + NULL + NULL + "0003" + NULL,  # a policy beside the PIN
        "0000" + NULL + NULL + "0003" + "0020000b",  # the hash of a key derivation
    ],
)
def test_other_forms_of_the_same_key(middle: str) -> None:
    assert parse(area(middle=middle)).key == keypair("in a TPM").public_key()


@pytest.mark.parametrize(
    "raw",
    [
        b"",
        b"\0",
        b"\0\0",
        area()[:-1],
        area() + b"\0",
        area(more=b"\0"),
        area()[:-1] + bytes([area()[-1] ^ 1]),  # beside the curve
        area(middle="ffff" + NULL + NULL + "0003" + NULL),
    ],
    ids=[
        "nothing",
        "a byte",
        "no length",
        "cut",
        "one byte more",
        "more inside",
        "beside the curve",
        "policy too long",
    ],
)
def test_garbage(raw: bytes) -> None:
    assert refused(raw).code is KeyCode.GARBAGE


@given(st.binary(max_size=200) | st.builds(lambda at, byte: _changed(area(), at, byte), st.integers(0), st.binary()))
def test_hostile_bytes(raw: bytes) -> None:
    """Invariant: whatever the bytes, there is a key on one of our curves or a PrivateKeyError, and nothing else."""
    try:
        found = parse(raw)
    except PrivateKeyError:
        return
    assert found.raw == raw
    assert found.key.curve.name in {"secp256r1", "secp384r1"}


def _changed(raw: bytes, at: int, inserted: bytes) -> bytes:
    at %= len(raw)
    return raw[:at] + inserted + raw[at + len(inserted) // 2 :]


def with_attributes(attributes: int) -> PublicArea:
    return parse(area(attributes=attributes))


def test_a_key_that_cannot_leave() -> None:
    assert demand_usable(with_attributes(OURS), copyable=False) is Protection.TPM
    assert demand_usable(with_attributes(OURS & ~Attribute.NO_DA), copyable=False) is Protection.TPM


@pytest.mark.parametrize("attribute", [Attribute.FIXED_TPM, Attribute.FIXED_PARENT, Attribute.SENSITIVE_DATA_ORIGIN])
def test_a_key_that_could_leave_or_came_from_elsewhere(attribute: Attribute) -> None:
    found = with_attributes(OURS & ~attribute)
    with pytest.raises(PrivateKeyError) as caught:
        demand_usable(found, copyable=False)
    assert caught.value.code is KeyCode.COPYABLE
    assert len(found.unbound) == 1
    assert found.unbound[0] in str(caught.value)
    assert "unsafe-copyable=true" in caught.value.hint
    assert demand_usable(found, copyable=True) is Protection.SOFTWARE


@pytest.mark.parametrize(
    "attributes",
    [
        OURS & ~Attribute.SIGN,
        OURS | Attribute.DECRYPT,
        OURS | Attribute.RESTRICTED,
        OURS & ~Attribute.SIGN | Attribute.RESTRICTED | Attribute.DECRYPT,
        OURS & ~Attribute.USER_WITH_AUTH,
    ],
)
def test_a_key_for_other_uses(attributes: int) -> None:
    for copyable in (False, True):
        with pytest.raises(PrivateKeyError) as caught:
            demand_usable(with_attributes(attributes), copyable=copyable)
        assert caught.value.code is KeyCode.UNSUPPORTED


def test_a_pin_that_is_too_long() -> None:
    demand_pin_fits(32, 32)
    with pytest.raises(PrivateKeyError) as caught:
        demand_pin_fits(33, 32)
    assert caught.value.code is KeyCode.BAD_PIN

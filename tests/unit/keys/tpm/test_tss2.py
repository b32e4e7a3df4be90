from __future__ import annotations

import base64

import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from hypothesis import given
from hypothesis import strategies as st

from sidecar.keys.errors import KeyCode, PrivateKeyError
from sidecar.keys.protection import Protection
from sidecar.keys.tpm.public import Attribute, parse
from sidecar.keys.tpm.tss2 import OWNER, Wrapped, demand_usable, holds_tss2, inspect, public_key_of
from tests.support.ca import keypair

#: Written by tpm2-tss-engine's format in tpm2-pytss 3.0, with a key of a software TPM that is gone.
FOREIGN = b"""\
-----BEGIN TSS2 PRIVATE KEY-----
MIHwBgZngQUKAQOgAwEB/wIEQAAAAQRYAFYAIwALAAQEcgAAABAAEAADABAAIDxM
CosytlnqH/y9xJLTDdeOvTCI4tpdNHedVnNKsAeLACDvk8RCw8wQIFG8OYD5mobP
toaHxljLL8UtFbIPVBD6sgSBgAB+ACDe/X4td6f/nMa8twuNUWaWEpdYYz7bYg4f
+zCZ0YTDcAAQg9+Ja2bLRr9o/ktktmsNn5w2hXpBKQ78p5dfA9ukkSyFLwo2e2wI
LfiRZOXLpOm1AHTJoG+7g7Y0zWc8anOg2MvYNwLUVqCu7ALy1q9bDtI3HvHIALva
jiT2
-----END TSS2 PRIVATE KEY-----
"""
AREA = inspect(FOREIGN).area
OID = bytes.fromhex("0606 6781050a0103")
TRUE, FALSE = bytes.fromhex("a003 0101ff"), bytes.fromhex("a003 010100")
PARENT = bytes.fromhex("0204 40000001")
PUBLIC = b"\x04\x58" + AREA.raw
PRIVATE = b"\x04\x06\0\4abcd"


def sequence(*parts: bytes) -> bytes:
    body = b"".join(parts)
    return b"\x30" + (bytes([len(body)]) if len(body) < 128 else b"\x81" + bytes([len(body)])) + body


def pem(der: bytes, label: str = "TSS2 PRIVATE KEY") -> bytes:
    return f"-----BEGIN {label}-----\n".encode() + base64.encodebytes(der) + f"-----END {label}-----\n".encode()


def refused(data: bytes) -> PrivateKeyError:
    with pytest.raises(PrivateKeyError) as caught:
        inspect(data)
    return caught.value


def test_a_key_that_another_program_wrapped() -> None:
    found = inspect(FOREIGN)
    assert (found.parent, found.empty_auth) == (OWNER, True)
    assert found.attributes == 0x40472
    assert public_key_of(FOREIGN) == found.area.key
    assert len(found.private) == 128
    assert found.pem() == FOREIGN


@given(
    scalar=st.integers(1, 1 << 200),
    curve=st.sampled_from([ec.SECP256R1(), ec.SECP384R1()]),
    parent=st.sampled_from([OWNER, 0x81000001, 0x8100FFFF]),
    empty_auth=st.sampled_from([True, False, None]),
    private=st.binary(min_size=1, max_size=1500),
)
def test_written_and_read(
    scalar: int, curve: ec.EllipticCurve, parent: int, empty_auth: bool | None, private: bytes
) -> None:
    """Invariant: what is written is read as the same."""
    key = ec.derive_private_key(scalar, curve).public_key()
    size = curve.key_size // 8
    numbers = key.public_numbers()
    body = bytes.fromhex("0023000b0004007200000010001000" + ("04" if size == 48 else "03") + "0010")
    body += b"".join(size.to_bytes(2) + number.to_bytes(size) for number in (numbers.x, numbers.y))
    area = parse(len(body).to_bytes(2) + body)
    wrapped = Wrapped(area, parent, empty_auth, len(private).to_bytes(2) + private)
    assert inspect(wrapped.pem()) == wrapped
    assert public_key_of(wrapped.pem()) == key


@pytest.mark.needs("tpm2-pytss")
def test_another_program_reads_what_we_write() -> None:
    from tpm2_pytss.tsskey import TSSPrivKey

    for parent, empty_auth in ((OWNER, True), (0x81000001, False)):
        wrapped = Wrapped(AREA, parent, empty_auth, inspect(FOREIGN).private)
        read = TSSPrivKey.from_pem(wrapped.pem())
        assert (read.parent, read.empty_auth) == (parent, empty_auth)
        assert read.public.marshal() == AREA.raw
        assert read.private.marshal() == wrapped.private
        assert inspect(read.to_pem()) == wrapped


@pytest.mark.parametrize(
    ("parts", "empty_auth"),
    [
        ((OID, TRUE, PARENT, PUBLIC, PRIVATE), True),
        ((OID, FALSE, PARENT, PUBLIC, PRIVATE), False),
        ((OID, PARENT, PUBLIC, PRIVATE), None),
        ((OID, bytes.fromhex("a003 010101"), PARENT, PUBLIC, PRIVATE), None),  # no DER
        ((OID, TRUE, b"\xa4\x05\x0c\x03key", PARENT, PUBLIC, PRIVATE), True),
        ((OID, TRUE, bytes.fromhex("a503 010100"), PARENT, PUBLIC, PRIVATE), True),
        ((OID, TRUE, bytes.fromhex("0205 0081000001"), PUBLIC, PRIVATE), True),
    ],
)
def test_forms_of_the_same_key(parts: tuple[bytes, ...], empty_auth: bool | None) -> None:
    found = inspect(pem(sequence(*parts)))
    assert found.public_key == AREA.key
    assert found.empty_auth is empty_auth


@pytest.mark.parametrize(
    ("parts", "words"),
    [
        ((bytes.fromhex("0606 6781050a0104"), TRUE, PARENT, PUBLIC, PRIVATE), "imported"),
        ((OID, TRUE, b"\xa1\0", PARENT, PUBLIC, PRIVATE), "policy"),
        ((OID, TRUE, b"\xa3\0", PARENT, PUBLIC, PRIVATE), "policy"),
        ((OID, TRUE, bytes.fromhex("a503 0101ff"), PARENT, PUBLIC, PRIVATE), "RSA primary"),
        ((OID, TRUE, bytes.fromhex("a503 010101"), PARENT, PUBLIC, PRIVATE), "RSA primary"),
        ((OID, TRUE, bytes.fromhex("0204 40000007"), PUBLIC, PRIVATE), "its storage key is 0x40000007"),
        ((OID, TRUE, bytes.fromhex("0201 00"), PUBLIC, PRIVATE), "its storage key is 0x00000000"),
        ((OID, TRUE, PARENT, b"\x04\x06\0\4\0\1\0\x0b", PRIVATE), "an RSA key"),
    ],
)
def test_a_key_of_another_kind(parts: tuple[bytes, ...], words: str) -> None:
    error = refused(pem(sequence(*parts)))
    assert error.code is KeyCode.UNSUPPORTED
    assert words in str(error)


WHOLE = sequence(OID, TRUE, PARENT, PUBLIC, PRIVATE)


@pytest.mark.parametrize(
    "der",
    [
        b"",
        b"\x30",
        WHOLE[:-1],
        WHOLE + b"\0",
        b"\x31" + WHOLE[1:],
        b"\x30\x82\0" + WHOLE[2:],  # a length that is not the shortest
        b"\x30\x80" + WHOLE[2:] + b"\0\0",  # BER
        sequence(OID, TRUE, TRUE, PARENT, PUBLIC, PRIVATE),
        sequence(OID, bytes.fromhex("a503 010100"), TRUE, PARENT, PUBLIC, PRIVATE),
        sequence(OID, b"\xa6\0", PARENT, PUBLIC, PRIVATE),
        sequence(OID, b"\xa0\3\1\2\0", PARENT, PUBLIC, PRIVATE),
        sequence(OID, b"\xa0\3\1\1\2", PARENT, PUBLIC, PRIVATE),
        sequence(OID, b"\xa0\4\1\2\0\0", PARENT, PUBLIC, PRIVATE),
        sequence(OID, bytes.fromhex("0204 81000001"), PUBLIC, PRIVATE),  # negative
        sequence(OID, bytes.fromhex("0205 0040000001"), PUBLIC, PRIVATE),
        sequence(OID, b"\2\0", PUBLIC, PRIVATE),
        sequence(OID, PARENT, PUBLIC, b"\4\0"),
        sequence(OID, PARENT, PUBLIC, b"\4\2\0\0"),
        sequence(OID, PARENT, PUBLIC, b"\4\3\0\2a"),
        sequence(OID, PARENT, PUBLIC, PRIVATE, PRIVATE),
        sequence(OID, PARENT, PUBLIC),
        bytes(9000),
    ],
)
def test_garbage(der: bytes) -> None:
    assert refused(pem(der)).code is KeyCode.GARBAGE


def test_a_damaged_file() -> None:
    assert refused(FOREIGN.replace(b"-----END", b"-----DNE")).code is KeyCode.GARBAGE
    assert refused(FOREIGN.replace(b"jiT2", b"ji!2")).code is KeyCode.GARBAGE


def test_no_key_and_several() -> None:
    clear = keypair("in the clear").private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    assert refused(b"").code is KeyCode.NO_KEY
    assert refused(clear).code is KeyCode.NO_KEY
    assert refused(FOREIGN + FOREIGN).code is KeyCode.SEVERAL_KEYS
    assert refused(clear + FOREIGN).code is KeyCode.SEVERAL_KEYS
    assert inspect(pem(b"a certificate", "CERTIFICATE") + FOREIGN) == inspect(FOREIGN)


def test_which_files_hold_one() -> None:
    assert holds_tss2(FOREIGN)
    assert holds_tss2(FOREIGN[:100])
    assert not holds_tss2(b"-----BEGIN PRIVATE KEY-----\n")


@given(
    st.binary(max_size=400).map(pem)
    | st.binary(max_size=400)
    | st.builds(lambda at, new: pem(_changed(WHOLE, at, new)), st.integers(0, 400), st.binary(max_size=8))
    | st.builds(lambda at, new: _changed(FOREIGN, at, new), st.integers(0, 400), st.binary(max_size=8))
)
def test_hostile_bytes(data: bytes) -> None:
    """Invariant: whatever the bytes, there is a key that is written as it was read, or a PrivateKeyError."""
    try:
        found = inspect(data)
    except PrivateKeyError:
        return
    assert inspect(found.pem()) == found


def _changed(data: bytes, at: int, new: bytes) -> bytes:
    at %= len(data)
    return data[:at] + new + data[at + len(new) :]


def usable(wrapped: Wrapped, *, copyable: bool = False, has_pin: bool = False) -> Protection | KeyCode:
    try:
        return demand_usable(wrapped, copyable=copyable, has_pin=has_pin)
    except PrivateKeyError as error:
        return KeyCode(error.code)


def test_a_verdict_without_a_tpm() -> None:
    free = AREA.raw[:6] + (0x40472 & ~Attribute.FIXED_TPM).to_bytes(4) + AREA.raw[10:]
    loose = Wrapped(parse(free), OWNER, empty_auth=True, private=b"\0\1x")
    assert usable(inspect(FOREIGN)) is Protection.TPM
    assert usable(loose) is KeyCode.COPYABLE
    assert usable(loose, copyable=True) is Protection.SOFTWARE


def test_a_pin_where_none_is() -> None:
    """The other way round the file is not believed: see `demand_usable`."""
    without, with_pin, silent = (Wrapped(AREA, OWNER, says, b"\0\1x") for says in (True, False, None))
    assert usable(without, has_pin=True) is KeyCode.BAD_PIN
    for other in (with_pin, silent):
        assert usable(other) is usable(other, has_pin=True) is Protection.TPM

"""Tokens that answer what no standard allows, in the place of SoftHSM, which cannot be made to."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from hypothesis import given
from hypothesis import strategies as st
from pkcs11.constants import Attribute, ObjectClass
from pkcs11.exceptions import AttributeSensitive, AttributeTypeInvalid, DeviceError, FunctionFailed, PKCS11Error
from pkcs11.types import SignMixin

from sidecar.keys.errors import KeyCode, PrivateKeyError
from sidecar.keys.pkcs11.search import EC_PARAMS, Found, find_key
from sidecar.keys.protection import Protection
from sidecar.keys.uri import Pkcs11Key
from tests.support.ca import Ca, der, forge, keypair, rsa_keypair

if TYPE_CHECKING:
    from collections.abc import Iterator

pytestmark = pytest.mark.needs("python-pkcs11")

SPEC = Pkcs11Key(Path("/module.so"), object="ours")
COPYABLE = Pkcs11Key(Path("/module.so"), object="ours", copyable=True)
KEY = keypair("in a token").public_key()
EC, RSA = b"\3" + bytes(7), bytes(8)


class Thing:
    """An object of a token: attributes, some of which are errors."""

    def __init__(self, **attributes: bytes | PKCS11Error | Any) -> None:
        self.attributes = {Attribute[name]: value for name, value in attributes.items()}

    def __getitem__(self, attribute: Attribute) -> Any:
        value = self.attributes.get(attribute, AttributeTypeInvalid())
        if isinstance(value, PKCS11Error):
            raise value
        return value


class Key(Thing, SignMixin):
    """A private key that may sign."""


class Token:
    """A session that holds things."""

    def __init__(self, *things: Thing) -> None:
        self.things = things

    def get_objects(self, wanted: dict[Attribute, Any]) -> Iterator[Thing]:
        for thing in self.things:
            if all(thing.attributes.get(attribute) == value for attribute, value in wanted.items()):
                yield thing


def point(key: ec.EllipticCurvePublicKey = KEY) -> bytes:
    return key.public_bytes(Encoding.X962, PublicFormat.UncompressedPoint)


def private(kind: type[Thing] = Key, **other: Any) -> Thing:
    good = {
        "CLASS": ObjectClass.PRIVATE_KEY,
        "LABEL": "ours",
        "ID": b"1",
        "KEY_TYPE": EC,
        "PRIVATE": b"\1",
        "SENSITIVE": b"\1",
        "EXTRACTABLE": b"\0",
    }
    return kind(**good | other)


def public(**other: Any) -> Thing:
    good = {
        "CLASS": ObjectClass.PUBLIC_KEY,
        "LABEL": "ours",
        "ID": b"1",
        "EC_PARAMS": EC_PARAMS[ec.SECP256R1],
        "EC_POINT": b"\4\x41" + point(),
    }
    return Thing(**good | other)


def certificate(value: bytes, **other: Any) -> Thing:
    return Thing(**{"CLASS": ObjectClass.CERTIFICATE, "ID": b"1", "VALUE": value} | other)


def find(*things: Thing, spec: Pkcs11Key = SPEC, logged_in: bool = True) -> Found | None:
    return find_key(Token(*things), spec, logged_in=logged_in)  # type: ignore[arg-type]  # a fake


def code(*things: Thing, spec: Pkcs11Key = SPEC) -> KeyCode:
    with pytest.raises(PrivateKeyError) as caught:
        find(*things, spec=spec)
    assert isinstance(caught.value.code, KeyCode)
    return caught.value.code


def test_a_key_as_it_should_be() -> None:
    found = find(private(), public())
    assert found is not None
    assert (found.public_key, found.protection, found.id) == (KEY, Protection.HSM, b"1")
    assert not found.per_signature


def test_the_pin_for_each_signature() -> None:
    asked = []

    class Card(Key):
        def _sign(self, data: bytes, **how: Any) -> bytes:
            asked.append(how["pin"])
            return data

    for value, pin in ((b"\1", "1234"), (b"\0", None), (b"", None)):
        found = find(private(Card, ALWAYS_AUTHENTICATE=value), public())
        assert found is not None
        found.sign(b"digest", b"1234")
        assert asked.pop() == pin


# CKA_SENSITIVE and CKA_EXTRACTABLE


@pytest.mark.parametrize("value", [b"", b"\0", b"\1\1", b"\xff", AttributeTypeInvalid(), FunctionFailed(), True, None])
def test_sensitive_is_exactly_true(value: Any) -> None:
    assert code(private(SENSITIVE=value), public()) is KeyCode.COPYABLE
    found = find(private(SENSITIVE=value), public(), spec=COPYABLE)
    assert found is not None
    assert found.protection is Protection.SOFTWARE


@pytest.mark.parametrize("value", [b"", b"\1", b"\0\0", b"\xff", AttributeSensitive(), FunctionFailed(), False, None])
def test_extractable_is_exactly_false(value: Any) -> None:
    assert code(private(EXTRACTABLE=value), public()) is KeyCode.COPYABLE
    found = find(private(EXTRACTABLE=value), public(), spec=COPYABLE)
    assert found is not None
    assert found.protection is Protection.SOFTWARE


def test_a_good_key_is_hsm_also_where_others_are_accepted() -> None:
    found = find(private(), public(), spec=COPYABLE)
    assert found is not None
    assert found.protection is Protection.HSM


# Which key


@pytest.mark.parametrize("value", [b"", b"\xff", b"\x40" + bytes(7), b"\3\3", RSA, AttributeTypeInvalid()])
def test_another_kind_of_key(value: Any) -> None:
    assert code(private(KEY_TYPE=value), public()) is KeyCode.UNSUPPORTED


def test_a_key_that_does_not_sign() -> None:
    assert code(private(Thing), public()) is KeyCode.UNSUPPORTED


def test_several_private_keys_one_of_them_rsa() -> None:
    assert code(private(), private(KEY_TYPE=RSA), public()) is KeyCode.SEVERAL_KEYS


@pytest.mark.parametrize("value", [b"\1", b"", AttributeTypeInvalid()])
def test_without_a_login_a_key_must_be_public(value: Any) -> None:
    assert find(private(PRIVATE=value), public(), logged_in=False) is None
    assert find(private(PRIVATE=b"\0"), public(), logged_in=False) is not None


def test_a_device_that_fails_is_not_an_absent_attribute() -> None:
    with pytest.raises(DeviceError):
        find(private(SENSITIVE=DeviceError()), public())


# The public half


def test_the_point_in_either_form() -> None:
    for curve, name in ((ec.SECP256R1, "P-256"), (ec.SECP384R1, "P-384")):
        key = keypair(f"in a token {name}", curve=curve).public_key()
        raw = point(key)
        for value in (raw, bytes([4, len(raw)]) + raw):
            found = find(private(), public(EC_PARAMS=EC_PARAMS[curve], EC_POINT=value))
            assert found is not None
            assert found.public_key == key


def test_a_point_whose_x_looks_like_a_length() -> None:
    # 04 41 ... is an OCTET STRING of 65 bytes or a raw point whose x begins with 0x41: the length tells.
    number = next(
        n for n in range(1, 10_000) if point(ec.derive_private_key(n, ec.SECP256R1()).public_key())[1] == 0x41
    )
    key = ec.derive_private_key(number, ec.SECP256R1()).public_key()
    for value in (point(key), b"\4\x41" + point(key)):
        found = find(private(), public(EC_POINT=value))
        assert found is not None
        assert found.public_key == key


@pytest.mark.parametrize(
    "value",
    [
        b"",
        b"\4",
        b"\4\x41",
        point()[:-1],
        point() + b"\0",
        b"\4\x41" + point()[:-1],
        b"\4\x81\x41" + point(),
        b"\0" * 65,
        b"\4" + bytes(64),
        point(keypair("in a token P-384", curve=ec.SECP384R1).public_key()),
        AttributeTypeInvalid(),
    ],
    ids=[
        "nothing",
        "first byte alone",
        "header alone",
        "cut",
        "one byte more",
        "header, then cut",
        "long form of the length",
        "zeros",
        "beside the curve",
        "P-384",
        "not told",
    ],
)
def test_what_is_no_point(value: Any) -> None:
    assert code(private(), public(EC_POINT=value)) is KeyCode.GARBAGE


@pytest.mark.parametrize(
    "value",
    [b"", bytes.fromhex("06052b81040023"), bytes.fromhex("06052b8104000a"), b"\x13\x02P2", AttributeTypeInvalid()],
)
def test_other_curves(value: Any) -> None:
    assert code(private(), public(EC_PARAMS=value)) is KeyCode.UNSUPPORTED


def test_the_identifier_goes_before_the_label() -> None:
    other = point(keypair("another").public_key())
    found = find(private(), public(ID=b"2", EC_POINT=other), public(LABEL="theirs"))
    assert found is not None
    assert found.public_key == KEY


def test_the_label_where_there_is_no_identifier() -> None:
    for thing in (private(ID=b""), private(ID=AttributeTypeInvalid()), private(ID=b"9")):
        found = find(thing, public())
        assert found is not None
        assert found.public_key == KEY


def test_several_public_halves() -> None:
    other = point(keypair("another").public_key())
    assert code(private(), public(), public(EC_POINT=other)) is KeyCode.SEVERAL_KEYS
    assert find(private(), public(), public(EC_POINT=point())) is not None  # the same one twice


def test_a_certificate() -> None:
    ours = Ca(key="in a token")
    found = find(private(), certificate(der(ours.certificate)))
    assert found is not None
    assert found.public_key == ours.key.public_key()
    assert code(private(), certificate(der(ours.certificate), ID=b"2")) is KeyCode.NO_KEY
    assert code(private(), certificate(b"")) is KeyCode.GARBAGE
    assert code(private(), certificate(der(ours.certificate)[:-1])) is KeyCode.GARBAGE


def test_a_certificate_for_another_kind_of_key() -> None:
    ca = Ca()
    for key in (rsa_keypair(), keypair("P-521", curve=ec.SECP521R1)):
        leaf = forge(ca.signer, key.public_key())
        assert code(private(), certificate(der(leaf))) is KeyCode.UNSUPPORTED


def test_no_public_half() -> None:
    assert code(private()) is KeyCode.NO_KEY
    assert code(private(), public(LABEL="theirs", ID=b"9")) is KeyCode.NO_KEY


ANY = st.binary(max_size=100) | st.sampled_from(
    [AttributeTypeInvalid(), AttributeSensitive(), FunctionFailed(), None, 7]
)


@given(
    st.fixed_dictionaries({}, optional=dict.fromkeys(["KEY_TYPE", "SENSITIVE", "EXTRACTABLE", "PRIVATE"], ANY)),
    ANY,
    ANY,
)
def test_hostile_attributes(of_private: dict[str, Any], parameters: Any, value: Any) -> None:
    """Invariant: whatever a token says, a key is found that is labelled ``hsm`` rightly, or PrivateKeyError is raised."""
    key = private(**of_private)
    try:
        found = find(key, public(EC_PARAMS=parameters, EC_POINT=value))
    except PrivateKeyError:
        return
    assert found is not None
    assert (key[Attribute.SENSITIVE], key[Attribute.EXTRACTABLE]) == (b"\1", b"\0")
    assert found.public_key.curve.name in {"secp256r1", "secp384r1"}

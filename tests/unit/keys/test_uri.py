from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sidecar.keys.errors import KeyCode, PrivateKeyError
from sidecar.keys.spec import parse as parse_any
from sidecar.keys.uri import Pkcs11Key, parse

BASE = Path("/etc/sidecar")
MODULE = Path("/m.so")

TEXT = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), min_size=1, max_size=20)
PATHS = st.builds(lambda first, name: Path(first + name), st.sampled_from(["/", "//", "/a/", "/%41/", "/;&?#/"]), TEXT)
KEYS = st.builds(
    Pkcs11Key,
    module=PATHS,
    token=st.none() | TEXT,
    manufacturer=st.none() | TEXT,
    model=st.none() | TEXT,
    serial=st.none() | TEXT,
    slot=st.none() | st.integers(0, 2**63),
    object=st.none() | TEXT,
    id=st.none() | st.binary(min_size=1, max_size=20),
    pin_source=st.none() | PATHS,
    copyable=st.booleans(),
).filter(lambda key: key.object is not None or key.id is not None)


def refused(text: str) -> PrivateKeyError:
    with pytest.raises(PrivateKeyError) as caught:
        parse(text, BASE)
    return caught.value


@pytest.mark.parametrize(
    ("text", "key"),
    [
        ("pkcs11:object=a?module-path=/m.so", Pkcs11Key(MODULE, object="a")),
        ("PKCS11:object=a?module-path=/m.so", Pkcs11Key(MODULE, object="a")),
        ("pkcs11:object=a?module-path=m.so", Pkcs11Key(BASE / "m.so", object="a")),
        ("pkcs11:object=a;type=private?module-path=/m.so", Pkcs11Key(MODULE, object="a")),
        ("pkcs11:id=%01a%FF?module-path=/m.so", Pkcs11Key(MODULE, id=b"\1a\xff")),
        ("pkcs11:object=a%20b%3Bc?module-path=/m.so", Pkcs11Key(MODULE, object="a b;c")),
        ("pkcs11:object=a+b?module-path=/m.so", Pkcs11Key(MODULE, object="a+b")),
        ("pkcs11:object=%C3%A4?module-path=/m.so", Pkcs11Key(MODULE, object="\u00e4")),
        ("pkcs11:slot-id=3;object=a?module-path=/m.so", Pkcs11Key(MODULE, slot=3, object="a")),
        (
            "pkcs11:token=t;manufacturer=m;model=o;serial=s;object=a?module-path=/m.so",
            Pkcs11Key(MODULE, token="t", manufacturer="m", model="o", serial="s", object="a"),
        ),
        (
            "pkcs11:object=a?module-path=/m.so&pin-source=file:pin",
            Pkcs11Key(MODULE, object="a", pin_source=BASE / "pin"),
        ),
        (
            "pkcs11:object=a?pin-source=file:///run/a%20pin&module-path=/m.so",
            Pkcs11Key(MODULE, object="a", pin_source=Path("/run/a pin")),
        ),
        ("pkcs11:object=a?module-path=/m.so&unsafe-copyable=true", Pkcs11Key(MODULE, object="a", copyable=True)),
    ],
)
def test_good_ones(text: str, key: Pkcs11Key) -> None:
    assert parse(text, BASE) == key


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("pkcs11:", "pkcs11: names no module-path"),
        ("pkcs11:object=a", "pkcs11: names no module-path"),
        ("pkcs11:object=a;module-path=/m.so", "pkcs11: 'module-path' is not an attribute that names a private key"),
        ("pkcs11:?module-path=/m.so", "pkcs11: names no key"),
        ("pkcs11:token=t?module-path=/m.so", "pkcs11: names no key"),
        ("pkcs11:object=a;type=public?module-path=/m.so", "pkcs11: type is something else than private"),
        ("pkcs11:object=a;type=cert?module-path=/m.so", "pkcs11: type is something else than private"),
        ("pkcs11:object=a;object=b?module-path=/m.so", "pkcs11: has object twice"),
        ("pkcs11:object=a?module-path=/m.so&module-path=/n.so", "pkcs11: has module-path twice"),
        ("pkcs11:object=?module-path=/m.so", "pkcs11: has an empty object"),
        ("pkcs11:id=?module-path=/m.so", "pkcs11: has an empty id"),
        ("pkcs11:object=a?module-path=", "pkcs11: has an empty module-path"),
        ("pkcs11:Object=a?module-path=/m.so", "pkcs11: 'Object' is not an attribute that names a private key"),
        ("pkcs11:x-v=a;object=a?module-path=/m.so", "pkcs11: 'x-v' is not an attribute that names a private key"),
        ("pkcs11:object?module-path=/m.so", "pkcs11: what has no = is not an attribute that names a private key"),
        ("pkcs11:object=a?module-name=m", "pkcs11: 'module-name' is not an attribute that names a private key"),
        ("pkcs11:object=%?module-path=/m.so", "pkcs11: object has a percent sign without two hexadecimal digits"),
        ("pkcs11:id=%0?module-path=/m.so", "pkcs11: id has a percent sign without two hexadecimal digits"),
        ("pkcs11:object=%ff?module-path=/m.so", "pkcs11: object is not UTF-8"),
        ("pkcs11:object=a%00?module-path=/m.so", "pkcs11: object holds a zero byte"),
        ("pkcs11:object=\udc80?module-path=/m.so", "pkcs11: object is no text"),
        ("pkcs11:id=\udc80?module-path=/m.so", "pkcs11: id is no text"),
        ("pkcs11:object=a;slot-id=-1?module-path=/m.so", "pkcs11: slot-id is no number"),
        ("pkcs11:object=a;slot-id=0x1?module-path=/m.so", "pkcs11: slot-id is no number"),
        ("pkcs11:object=a;slot-id=\u0663?module-path=/m.so", "pkcs11: slot-id is no number"),
        (f"pkcs11:object=a;slot-id={'9' * 20}?module-path=/m.so", "pkcs11: slot-id is no number"),
        ("pkcs11:object=a?module-path=/m.so&pin-source=/pin", "pin-source is not a file"),
        ("pkcs11:object=a?module-path=/m.so&pin-source=file:", "pin-source is not a file"),
        ("pkcs11:object=a?module-path=/m.so&pin-source=file://", "pin-source is not a file"),
        ("pkcs11:object=a?module-path=/m.so&pin-source=file://host/pin", "pin-source is not a file"),
        ("pkcs11:object=a?module-path=/m.so&pin-source=%7Ccat%20pin", "pin-source is not a file"),
        ("pkcs11:object=a?module-path=/m.so&pin-source=FILE:/pin", "pin-source is not a file"),
        ("pkcs11:object=a?module-path=/m.so&unsafe-copyable=1", "unsafe-copyable is neither true nor false"),
    ],
)
def test_bad_ones(text: str, message: str) -> None:
    error = refused(text)
    assert (error.code, str(error)) == (KeyCode.BAD_PLACE, message)
    assert error.hint


@pytest.mark.parametrize(
    "text",
    [
        "pkcs11:object=a?module-path=/m.so&pin-value=1234",
        "pkcs11:object=a;pin-value=1234?module-path=/m.so",
        "pkcs11:pin-value=1234",
        "pkcs11:object=a?pin-value=1234&module-path=/m.so",
        "pkcs11:object=a?pin-value",
    ],
)
def test_a_pin_in_the_configuration(text: str) -> None:
    error = refused(text)
    assert (error.code, str(error)) == (
        KeyCode.SECRET,
        "pkcs11: a PIN stands in the configuration (pin-value)",
    )
    assert "1234" not in error.hint


BEFORE = st.sampled_from(
    ["object=a;", "object=a?", "object=a?module-path=/m.so&", "x=y&", "object=a;object=b;", "pin;"]
)


def demand_secrecy(text: str) -> None:
    for kind in ("pkcs11:", "tpm:"):
        with pytest.raises(PrivateKeyError) as caught:
            parse_any(kind + text, BASE)
        assert "77" not in f"{caught.value} {caught.value.hint}"


@given(
    before=BEFORE,
    name=st.sampled_from(["pin-value=", "PIN-VALUE=", "pin_value=", "pin=", "pinvalue="]),
    secret=st.text("Q7;&?=%", max_size=20).map(lambda text: f"QQ77{text}QQ77"),
)
def test_no_message_shows_a_pin(before: str, name: str, secret: str) -> None:
    """Invariant: what follows a name of a PIN is in no message and no hint, whatever separators it holds."""
    demand_secrecy(before + name + secret)


@given(before=BEFORE, name=st.sampled_from(["", "pin-value:", "pin-value ", "pin "]), secret=st.text("Q7%", max_size=9))
def test_no_message_shows_a_pin_without_a_name(before: str, name: str, secret: str) -> None:
    """Invariant: a part that has no name and value is in no message and no hint: it may be a PIN."""
    demand_secrecy(f"{before}{name}QQ77{secret}")


@given(KEYS)
def test_what_is_written_is_read_again(key: Pkcs11Key) -> None:
    """Invariant: the written form of a place is that place, wherever it is read."""
    assert parse(str(key), BASE) == key
    assert parse_any(str(key), Path("/another")) == key


def test_the_written_form() -> None:
    key = Pkcs11Key(MODULE, token="a b", slot=0, object="k;1", id=b"\1\xff", pin_source=Path("/p&q"), copyable=True)
    assert str(key) == (
        "pkcs11:token=a%20b;slot-id=0;object=k%3B1;id=%01%FF;type=private"
        "?module-path=/m.so&pin-source=file:/p%26q&unsafe-copyable=true"
    )

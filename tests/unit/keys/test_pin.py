from __future__ import annotations

import traceback

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sidecar.keys.errors import KeyCode, PrivateKeyError
from sidecar.keys.pin import read_pin


@pytest.mark.parametrize(
    ("data", "pin"),
    [
        (b"1234", b"1234"),
        (b"1234\n", b"1234"),
        (b"1234\r\n", b"1234"),
        (b" 12 34 ", b" 12 34 "),
        (b"\t\n", b"\t"),
        ("\u00e4\n".encode(), "\u00e4".encode()),
        (b"x" * 255 + b"\n", b"x" * 255),
    ],
)
def test_a_pin(data: bytes, pin: bytes) -> None:
    assert read_pin(data) == pin


@pytest.mark.parametrize(
    "data",
    [b"", b"\n", b"\r\n", b"1234\n\n", b"\n1234", b"1234\n5678\n", b"12\x0034", b"x" * 256, b"1234\n# the PIN\n"],
)
def test_what_is_not_one_pin(data: bytes) -> None:
    with pytest.raises(PrivateKeyError) as caught:
        read_pin(data)
    assert (caught.value.code, str(caught.value)) == (KeyCode.BAD_PIN, "does not hold one PIN")


@pytest.mark.parametrize("data", [b"\xff\xfe1234", b"\xe4", b"12\xc3"])
def test_what_is_no_text(data: bytes) -> None:
    with pytest.raises(PrivateKeyError) as caught:
        read_pin(data)
    assert (caught.value.code, str(caught.value)) == (KeyCode.BAD_PIN, "does not hold a PIN in UTF-8")


@given(st.binary(max_size=300) | st.binary(max_size=20).map(lambda data: b"QQ77QQ" + data))
def test_any_file(data: bytes) -> None:
    """Invariant: a file is one PIN, of 1 to 255 bytes of it in order, or a PrivateKeyError that does not show it."""
    try:
        pin = read_pin(data)
    except PrivateKeyError as error:
        shown = "".join(traceback.format_exception(error))
    else:
        assert data in {pin, pin + b"\n", pin + b"\r\n", pin + b"\r"}
        assert 0 < len(pin) < 256
        shown = pin.decode().replace("77", "")
    assert "77" not in shown

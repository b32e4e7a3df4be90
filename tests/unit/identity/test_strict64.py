from __future__ import annotations

import base64

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sidecar.identity.strict64 import decode


@given(st.binary(max_size=100))
def test_what_is_encoded_is_decoded(data: bytes) -> None:
    """decode(encode(x)) == x."""
    assert decode(base64.b64encode(data)) == data


@pytest.mark.parametrize(
    "text",
    [
        b"A",
        b"AQI",
        b"AQID=",
        b"AQ=",
        b"AQ===",
        b"AQ==AQ==",
        b"=",
        b"====",
        b"AQ ID",
        b"AQID\n",
        b"AQ-_",
        b"AQ*D",
        b"\xff\xff\xff\xff",
    ],
)
def test_everything_else_is_refused(text: bytes) -> None:
    with pytest.raises(ValueError, match="base64"):
        decode(text)


def test_bits_after_the_last_byte_are_let_pass() -> None:
    assert decode(b"AR==") == decode(b"AQ==") == b"\1"

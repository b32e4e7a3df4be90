"""The format of the signer service: whatever comes, a message or a WireError."""

from __future__ import annotations

from typing import TYPE_CHECKING, TypeVar

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sidecar.keys.errors import SignCode
from sidecar.keys.messages import MAX_BYTES
from sidecar.keys.signer import Hash
from sidecar.keys.wire import (
    HEAD_BYTES,
    MAX_REPLY,
    MAX_REQUEST,
    Done,
    PublicKeyRequest,
    Refusal,
    SignRequest,
    WireCode,
    WireError,
    encode_reply,
    encode_request,
    parse_reply,
    parse_request,
)

if TYPE_CHECKING:
    from collections.abc import Callable

    from sidecar.keys.wire import Reply, Request

T = TypeVar("T")

requests = st.one_of(
    st.just(PublicKeyRequest()),
    st.builds(SignRequest, st.sampled_from(Hash), st.binary(max_size=300)),
)
replies = st.one_of(
    st.builds(Done, st.binary(min_size=1, max_size=MAX_REPLY - HEAD_BYTES)),
    st.builds(Refusal, st.sampled_from(SignCode)),
)


@st.composite
def hostile(draw: st.DrawFn) -> bytes:
    """Bytes that begin like a message, with any field wrong."""
    if draw(st.booleans()):
        return draw(st.binary(max_size=300))
    body = draw(st.binary(max_size=200))
    length = draw(st.one_of(st.just(len(body)), st.integers(0, 0xFFFF)))
    head = bytes((draw(st.sampled_from([1, 1, 1, 0, 2])), draw(st.integers(0, 3))))
    return head + length.to_bytes(2, "big") + body


def outcome(parse: Callable[[bytes], T | None], data: bytes) -> T | object:
    """What is made of bytes: a value, None, or the code of the error."""
    try:
        return parse(data)
    except WireError as error:
        return error.code


def in_pieces(parse: Callable[[bytes], T | None], data: bytes) -> T | object:
    """Feeds a message byte by byte, as far as anybody would: to the first value or error."""
    made = (outcome(parse, data[:end]) for end in range(len(data) + 1))
    return next((found for found in made if found is not None), None)


@given(request=requests)
def test_a_request_comes_back_as_it_was(request: Request) -> None:
    """A request that was encoded parses to itself, whole and byte by byte, and no proper prefix of it to anything."""
    data = encode_request(request)
    assert len(data) <= MAX_REQUEST
    assert parse_request(data) == request
    assert in_pieces(parse_request, data) == request
    assert all(parse_request(data[:end]) is None for end in range(len(data)))


def test_the_longest_request() -> None:
    """It fits into the two octets of a length, and is read whole, octet by octet and at no other length."""
    request = SignRequest(Hash.SHA256, bytes(range(256)) * (MAX_BYTES // 256))
    assert len(request.message) == MAX_BYTES == 16_384
    data = encode_request(request)
    assert len(data) == MAX_REQUEST == 16_389
    assert data[:5] == bytes.fromhex("01 02 4001 01")
    assert parse_request(data) == request
    assert in_pieces(parse_request, data) == request
    assert outcome(parse_request, data + b"x") is WireCode.EXCESS


@given(reply=replies)
def test_a_reply_comes_back_as_it_was(reply: Reply) -> None:
    """A reply that was encoded parses to itself, whole and byte by byte, and no proper prefix of it to anything."""
    data = encode_reply(reply)
    assert len(data) <= MAX_REPLY
    assert parse_reply(data) == reply
    ends = range(len(data)) if len(data) < 200 else (0, 1, 2, 3, 4, 5, len(data) - 1)
    assert all(parse_reply(data[:end]) is None for end in ends)


@pytest.mark.parametrize(("parse", "encode"), [(parse_request, encode_request), (parse_reply, encode_reply)])
@given(data=hostile())
def test_hostile_bytes(parse: Callable[[bytes], object], encode: Callable[[object], bytes], data: bytes) -> None:
    """Any bytes give a value that encodes to them, None or a WireError; an error stays one whatever follows."""
    found = outcome(parse, data)
    if isinstance(found, WireCode):
        assert isinstance(outcome(parse, data + b"x"), WireCode)
    else:
        assert found is None or encode(found) == data


@given(data=hostile())
def test_byte_by_byte_is_no_different(data: bytes) -> None:
    """What a reader makes of bytes that come one by one is what it makes of all of them, up to the end of a message."""
    found, whole = in_pieces(parse_request, data), outcome(parse_request, data)
    if whole is WireCode.EXCESS:
        assert found is not None  # what came before the excess
    elif isinstance(whole, WireCode):
        assert isinstance(found, WireCode)  # perhaps for another field, which came first
    else:
        assert found == whole


def test_the_octets() -> None:
    """As the module's docstring has them: what another implementation would be written from."""
    assert encode_request(PublicKeyRequest()) == bytes.fromhex("01 01 0000")
    assert encode_request(SignRequest(Hash.SHA256, b"\xaa\xbb")) == bytes.fromhex("01 02 0003 01 aabb")
    assert encode_request(SignRequest(Hash.SHA384, b"")) == bytes.fromhex("01 02 0001 02")
    assert encode_reply(Done(b"\xcc")) == bytes.fromhex("01 00 0001 cc")
    assert encode_reply(Refusal(SignCode.TIMEOUT)) == bytes.fromhex("01 01 000e") + b"signer_timeout"


@pytest.mark.parametrize(
    ("data", "code"),
    [
        ("00", WireCode.VERSION),
        ("02", WireCode.VERSION),
        ("01 00", WireCode.KIND),
        ("01 03", WireCode.KIND),
        ("01 01 0001", WireCode.LENGTH),
        ("01 02 0000", WireCode.LENGTH),
        ("01 02 ffff", WireCode.LENGTH),
        (f"01 02 {MAX_BYTES + 2:04x}", WireCode.LENGTH),
        ("01 02 0005 00", WireCode.HASH),
        ("01 02 0005 03", WireCode.HASH),
        ("01 01 0000 01", WireCode.EXCESS),
        ("01 02 0001 01 00", WireCode.EXCESS),
        ("16 03 01 02", WireCode.VERSION),
        (b"GET / HTTP/1.1\r\n\r\n".hex(), WireCode.VERSION),
    ],
)
def test_a_request_that_is_none(data: str, code: WireCode) -> None:
    with pytest.raises(WireError) as caught:
        parse_request(bytes.fromhex(data))
    assert caught.value.code is code


@pytest.mark.parametrize(
    ("data", "code"),
    [
        (b"\0", WireCode.VERSION),
        (b"\1\2", WireCode.KIND),
        (b"\1\0\0\0", WireCode.LENGTH),
        (b"\1\0\xff\xff", WireCode.LENGTH),
        (b"\1\1\0\0", WireCode.LENGTH),
        (b"\1\1\0\x0esigner_timeous", WireCode.REASON),
        (b"\1\1\0\1\xff", WireCode.REASON),
        (b"\1\0\0\1xx", WireCode.EXCESS),
    ],
)
def test_a_reply_that_is_none(data: bytes, code: WireCode) -> None:
    with pytest.raises(WireError) as caught:
        parse_reply(data)
    assert caught.value.code is code


def test_what_does_not_fit_is_not_sent() -> None:
    for encode in (
        lambda: encode_request(SignRequest(Hash.SHA256, bytes(MAX_BYTES + 1))),
        lambda: encode_reply(Done(b"")),
        lambda: encode_reply(Done(bytes(MAX_REPLY))),
    ):
        with pytest.raises(WireError) as caught:
            encode()
        assert caught.value.code is WireCode.LENGTH

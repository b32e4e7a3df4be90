"""Taking a token apart: where two readers could see two tokens in the same bytes, there is none."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sidecar.tokens.codes import TokenCode, TokenError
from sidecar.tokens.jws import bearer, decode, encode, parse
from sidecar.tokens.token import MAX_BYTES
from tests.support import jwts
from tests.support.jwts import b64, compact, dump

if TYPE_CHECKING:
    from typing import Any

HEAD, SAID = dump(jwts.header()), dump(jwts.claims())


def refusal(token: bytes) -> TokenError | None:
    """Returns why a token cannot be taken apart."""
    try:
        parse(token)
    except TokenError as error:
        return error
    return None


def code(token: bytes) -> TokenCode | None:
    """Returns the code of that; the error holds nothing of the token."""
    error = refusal(token)
    if error is None:
        return None
    assert error.__cause__ is None  # it would quote what could not be read
    assert all(len(part) < 8 or part.decode("latin-1") not in repr(error) for part in token.split(b"."))
    return error.code


def saying(payload: bytes | str) -> bytes:
    return compact(HEAD, payload if isinstance(payload, bytes) else payload.encode())


def headed(header: bytes | str) -> bytes:
    return compact(header if isinstance(header, bytes) else header.encode(), SAID)


def test_a_good_token_comes_apart() -> None:
    token = jwts.token()
    jws = parse(token)
    assert jws.header == jwts.header()
    assert jws.claims == jwts.claims()
    assert token == jws.signed + b"." + encode(jws.signature).encode()


def test_nothing_of_a_token_is_in_its_repr() -> None:
    assert repr(parse(jwts.token())) == "Jws()"


@pytest.mark.parametrize(
    ("authorization", "token"),
    [
        (b"Bearer abc", b"abc"),
        (b"bearer abc", b"abc"),
        (b"BEARER a.b-c_d~+/==", b"a.b-c_d~+/=="),
        (None, None),
        (b"", None),
        (b"Bearer", None),
        (b"Bearer ", None),
        (b"Bearer  abc", None),
        (b"Bearer\tabc", None),
        (b"Bearer abc def", None),
        (b"Bearer abc\n", None),
        (b"Bearer abc\0", None),
        (b"Bearer ab\xc3\xa9", None),
        (b" Bearer abc", None),
        (b"Bearerabc", None),
        (b"Basic abc", None),
        (b"DPoP abc", None),
        (b"X-Bearer abc", None),
    ],
)
def test_what_is_a_bearer_token(authorization: bytes | None, token: bytes | None) -> None:
    assert bearer(authorization) == token


# -- its form ---------------------------------------------------------------------------------------------------------

ONE, TWO, THREE = jwts.token().split(b".")


@pytest.mark.threat(18)
@pytest.mark.parametrize(
    "token",
    [
        b"",
        b".",
        b"..",
        b"...",
        ONE,
        ONE + b"." + TWO,
        b"." + TWO + b"." + THREE,
        ONE + b".." + THREE,
        ONE + b"." + TWO + b"." + THREE + b".",
        ONE + b"." + TWO + b"." + THREE + b"." + THREE,
        b".".join([ONE, TWO, THREE, b"AAAA", b"AAAA"]),  # JWE (RFC 7516 7.1)
        ONE + b"...AAAA",
        b" " + jwts.token(),
        jwts.token() + b" ",
        jwts.token() + b"\n",
        jwts.token() + b"\0",
        jwts.token() + b"=",
        ONE + b"==." + TWO + b"." + THREE,
        ONE + b"." + TWO + b"\n." + THREE,
        ONE + b"." + TWO + b"!." + THREE,
        ONE + b"." + TWO + b"." + THREE.replace(THREE[:1], b"+"),
        ONE + b"." + TWO + b"." + THREE.replace(THREE[:1], b"/"),
        ONE + b"." + TWO + b"." + b"\xef\xbb\xbf" + THREE,
        b"\xef\xbb\xbf" + jwts.token(),
        jwts.token().decode().encode("utf-16"),
        # JSON serialisation (RFC 7515 7.2), general and flattened.
        json.dumps({"payload": TWO.decode(), "signatures": [{"protected": ONE.decode()}]}).encode(),
        json.dumps({"payload": TWO.decode(), "protected": ONE.decode(), "signature": THREE.decode()}).encode(),
    ],
)
def test_threat_18_what_is_no_compact_jws(token: bytes) -> None:
    assert code(token) is TokenCode.MALFORMED


@pytest.mark.threat(18)
def test_threat_18_a_token_without_a_signature() -> None:
    assert code(ONE + b"." + TWO + b".") is TokenCode.ALGORITHM


def test_the_longest_token_and_one_byte_more() -> None:
    rest = len(saying('{"a":""}'))
    for spare in range(8):
        long = saying('{"a":"' + "x" * ((MAX_BYTES - rest) * 3 // 4 + 3 - spare) + '"}')
        if len(long) <= MAX_BYTES:
            break
    assert MAX_BYTES - 2 <= len(long) <= MAX_BYTES
    assert code(long) is None
    # The bound is on the bytes, whatever they are; it comes before anything is looked at.
    assert code(b"a" * MAX_BYTES) is TokenCode.MALFORMED
    assert code(b"a" * (MAX_BYTES + 1)) is TokenCode.TOO_LONG
    assert code(long + b"A" * (MAX_BYTES + 1 - len(long))) is TokenCode.TOO_LONG


@pytest.mark.threat(18)
@pytest.mark.parametrize("part", [0, 1, 2])
def test_threat_18_the_bits_that_base64_leaves_over_are_zero(part: int) -> None:
    """Otherwise the same token would have several spellings, and a remembered one several names."""
    parts = [b64(b'{"a":1} '), b64(b'{"b":1} '), b64(b"12345678")]
    assert code(".".join(parts).encode()) is None
    assert len(parts[part]) % 4 == 3
    last = parts[part][-1]
    alphabet = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_"
    for bits in (1, 2, 3):
        parts[part] = parts[part][:-1] + alphabet[alphabet.index(last) + bits]
        assert code(".".join(parts).encode()) is TokenCode.MALFORMED


# -- its JSON ---------------------------------------------------------------------------------------------------------


@pytest.mark.threat(18)
@pytest.mark.parametrize(
    "text",
    [
        '{"aud":"a","aud":"b"}',
        '{"aud":"a","\\u0061ud":"b"}',
        '{"\\u0061\\u0075d":"a","a\\u0075d":"a"}',
        '{"cnf":{"x5t#S256":"a","x5t#S256":"b"}}',
        '{"a":[1,[2,{"b":{"c":1,"c":1}}]]}',
        '{"":1,"":2}',
        '{"\\n":1,"\\u000a":1}',
        '{"\u00e9":1,"\\u00e9":1}',
        '{"\U0001f600":1,"\\ud83d\\ude00":1}',
    ],
)
def test_threat_18_a_name_that_stands_twice(text: str) -> None:
    assert code(saying(text)) is TokenCode.DUPLICATE_NAME
    assert code(headed(text)) is TokenCode.DUPLICATE_NAME


def test_names_that_differ_are_two() -> None:
    text = '{"aud":1,"Aud":1,"aud ":1,"a":{"aud":1},"\u00e9":1,"e\u0301":1}'
    assert len(parse(saying(text)).claims) == 6


@pytest.mark.threat(18)
@pytest.mark.parametrize(
    "text",
    [
        b"",
        b"{",
        b"{}{}",
        b"{} x",
        b"{}\0",
        b"\xef\xbb\xbf{}",
        "{}".encode("utf-16"),
        "{}".encode("utf-16-le"),
        "{}".encode("utf-32-be"),
        b'{"a":"\xff"}',
        b'{"a":"\xc0\xaf"}',
        b'{"a":"\xed\xa0\x80"}',  # half of a surrogate pair in UTF-8
        b'{"a":"\\ud800"}',
        b'{"a":"\\udc00\\ud800"}',
        b'{"\\ud800":1}',
        b'{"a":[{"b":"\\uDFFF"}]}',
        b'{"a":"\n"}',
        b'{"a":"\0"}',
        b'{"a":NaN}',
        b'{"a":Infinity}',
        b'{"a":-Infinity}',
        b'{"a":01}',
        b'{"a":+1}',
        b'{"a":.5}',
        b'{"a":0x10}',
        b'{"a":1_000}',
        b'{"a":' + b"9" * 5000 + b"}",
        b'{"a":True}',
        b"{'a':1}",
        b'{"a":1,}',
        b'{"a":1/*x*/}',
        b'{"a":' + b"[" * 3000 + b"}",
        b'{"a":' + b"[" * 2000 + b"]" * 2000 + b"}",
        b'{"a":' * 800 + b"1" + b"}" * 800 + b"]",
        b"[]",
        b'[{"iss":"a"}]',
        b'"text"',
        b"null",
        b"1",
        jwts.token(),  # nested (RFC 7519 A.2)
        b'"' + jwts.token() + b'"',
    ],
)
def test_threat_18_what_is_no_json_object(text: bytes) -> None:
    if text:
        assert code(headed(text)) is TokenCode.MALFORMED
    assert code(saying(text)) is TokenCode.MALFORMED


def test_what_json_allows() -> None:
    text = b' {"a": [1.5e3, -0, true, null, "\\ud83d\\ude00", "\xc3\xa9"], "b": {}}\r\n'
    assert parse(saying(text)).claims == {"a": [1500.0, 0, True, None, "\U0001f600", "\u00e9"], "b": {}}


# -- properties -------------------------------------------------------------------------------------------------------

VALUES = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**60), 2**60)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4),
    max_leaves=20,
)
OBJECTS = st.dictionaries(st.text(max_size=8), VALUES, max_size=6)


@given(OBJECTS, OBJECTS, st.binary(min_size=1, max_size=200), st.booleans())
def test_parse_undoes_writing(
    header: dict[str, Any], payload: dict[str, Any], signature: bytes, ascii_only: bool
) -> None:
    """Invariant: whatever JSON objects and signature are written come back from parse, none other."""
    head, said = (json.dumps(each, ensure_ascii=ascii_only).encode() for each in (header, payload))
    jws = parse(compact(head, said, lambda _: signature))
    assert (jws.header, jws.claims, jws.signature) == (header, payload, signature)


@given(st.binary(max_size=300) | st.text(alphabet="ey.JAQa0-_={}\n", max_size=60).map(str.encode))
def test_anything_is_parsed_or_refused(token: bytes) -> None:
    """Invariant: parse raises TokenError or returns what writes the same bytes again; nothing else leaves it."""
    if code(token) is None:
        jws = parse(token)
        assert jws.signed + b"." + encode(jws.signature).encode() == token


@given(st.text(max_size=60).map(str.encode) | st.binary(max_size=60))
def test_any_payload_is_parsed_or_refused(text: bytes) -> None:
    """Invariant: whatever stands in a payload, it is an object without duplicates, or refused with a code."""
    assert code(saying(text)) in {None, TokenCode.MALFORMED, TokenCode.DUPLICATE_NAME}


@given(st.binary(max_size=100))
def test_decode_undoes_encode(data: bytes) -> None:
    """Invariant: decode(encode(x)) is x, and encode is RFC 7515's base64url without padding."""
    assert encode(data) == b64(data)
    assert decode(encode(data).encode()) == data


@given(st.text(alphabet="AaZz09-_+/=\n ", max_size=12).map(str.encode))
def test_no_bytes_have_two_spellings(text: bytes) -> None:
    """Invariant: what decode accepts is exactly what encode writes."""
    data = decode(text)
    assert data is None or encode(data).encode() == text

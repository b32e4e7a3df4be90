from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sidecar.tokens.codes import SourceCode, SourceError
from sidecar.tokens.sources.peek import claims, confirmation, expiry
from tests.support.tokens import base64url, jwt


def test_a_jwt_says_what_it_says() -> None:
    said = claims(jwt({"exp": 5, "cnf": {"x5t#S256": "abc"}}))
    assert said is not None
    assert (expiry(said), confirmation(said)) == (5.0, "abc")


@pytest.mark.parametrize(
    "value",
    [
        "opaque",
        "a.b",
        "a.b.c.d.e",
        "..",
        f"{base64url(b'{}')}.{base64url(b'text')}.AAAA",
        f"x.{base64url(b'{}')}.AAAA",
        "a=.b.c",
    ],
)
def test_what_is_no_jwt_is_opaque(value: str) -> None:
    assert claims(value) is None
    assert (expiry(None), confirmation(None)) == (None, None)


@pytest.mark.parametrize(
    "value",
    [
        jwt('{"exp":1,"exp":2}'),
        jwt('{"cnf":{"x5t#S256":"a","x5t#S256":"b"}}'),
        jwt({}, '{"alg":"ES256","alg":"none"}'),
        jwt({}).rpartition(".")[0] + ".",
    ],
)
def test_a_jwt_of_two_readings_or_of_nobody(value: str) -> None:
    with pytest.raises(SourceError) as caught:
        claims(value)
    assert caught.value.code is SourceCode.BAD_TOKEN


@pytest.mark.parametrize("exp", ["1", True, [], {}, -1, 0, 253_402_300_800, 10**400, 1.7e300])
def test_what_is_no_time(exp: object) -> None:
    with pytest.raises(SourceError) as caught:
        expiry({"exp": exp})
    assert caught.value.code is SourceCode.BAD_TOKEN


def test_no_time() -> None:
    assert expiry({}) is None
    assert expiry({"exp": None}) is None
    assert expiry({"exp": 1.5}) == 1.5


@pytest.mark.parametrize("cnf", [None, "x5t#S256", [], {}, {"jkt": "abc"}, {"x5t": "abc"}])
def test_what_names_no_certificate(cnf: object) -> None:
    assert confirmation({"cnf": cnf}) is None


@pytest.mark.parametrize("named", [None, 1, ["abc"], {"a": 1}, True])
def test_what_names_one_that_is_none(named: object) -> None:
    assert confirmation({"cnf": {"x5t#S256": named}}) == ""


@given(st.text(st.characters(min_codepoint=33, max_codepoint=126), max_size=300))
def test_whatever_was_given(value: str) -> None:
    """`claims` returns an object or None, or raises SourceError, for any visible ASCII."""
    try:
        assert claims(value) is None or isinstance(claims(value), dict)
    except SourceError as error:
        assert error.code is SourceCode.BAD_TOKEN  # noqa: PT017 - either outcome is right

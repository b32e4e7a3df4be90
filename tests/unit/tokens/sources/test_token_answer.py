from __future__ import annotations

from typing import Any

import pytest

from sidecar.tokens.codes import SourceCode, SourceError
from sidecar.tokens.settings import ClientAuth, Keeping, OAuth2Source
from sidecar.tokens.sources.token_answer import read
from sidecar.tokens.token import Token
from tests.support.tokens import jwt

NOW = 1_000_000.0
LEAF = "A" * 43
ABSENT = object()
OURS = {"cnf": {"x5t#S256": LEAF}}
GOOD = {"access_token": "opaque", "token_type": "Bearer", "expires_in": 60}


def answer(**more: Any) -> dict[str, Any]:
    return {name: value for name, value in (GOOD | more).items() if value is not ABSENT}


def settings(**more: Any) -> OAuth2Source:
    return OAuth2Source("x", "https://as.example", ClientAuth.TLS, **more)


def token(given: dict[str, Any] | None = None, **more: Any) -> Token:
    return read(answer() if given is None else given, settings(**more), LEAF, NOW)


def refused(given: dict[str, Any], **more: Any) -> SourceError:
    with pytest.raises(SourceError) as caught:
        token(given, **more)
    assert "secret" not in str(caught.value) + caught.value.hint + repr(caught.value.__context__)
    return caught.value


def test_an_opaque_token_is_taken_on_trust() -> None:
    assert token() == Token("opaque", NOW + 60, 60, bound=False)


@pytest.mark.parametrize("name", ["Bearer", "bearer", "BEARER", "bEaReR"])
def test_bearer_in_any_case(name: str) -> None:
    assert token(answer(token_type=name)).value == "opaque"


@pytest.mark.parametrize("name", [ABSENT, None, "", "mac", "N_A", "secret", "Bearer ", 1, ["Bearer"], "DPoP", "dpop"])
def test_another_type_is_not_used(name: object) -> None:
    error = refused(answer(token_type=name))
    assert error.code is SourceCode.BAD_ANSWER
    assert ("DPoP" in str(error)) is (str(name).lower() == "dpop")


@pytest.mark.parametrize("value", [ABSENT, None, 1, ["secret"], {"a": "secret"}])
def test_without_a_token(value: object) -> None:
    assert refused(answer(access_token=value)).code is SourceCode.BAD_ANSWER


@pytest.mark.parametrize("value", ["", "secret token", "secret\r\nx: y", "secret\0", "é" * 3, "s" * 8193])
def test_a_token_that_no_field_may_hold(value: str) -> None:
    assert refused(answer(access_token=value)).code is SourceCode.BAD_TOKEN


@pytest.mark.parametrize("value", [0, -1, True, "60", 60.0, 1.5, [60], {}])
def test_expires_in_is_a_positive_whole_number(value: object) -> None:
    assert refused(answer(expires_in=value)).code is SourceCode.BAD_ANSWER


@pytest.mark.parametrize(
    ("expires_in", "exp", "most", "life"),
    [
        (60, None, 900, 60),
        (60, 30, 900, 30),
        (60, 90, 900, 60),
        (ABSENT, 90, 900, 90),
        (None, 90, 900, 90),
        (3600, 7200, 900, 900),
        (10**300, None, 900, 900),
        (ABSENT, None, 900, None),
    ],
)
def test_the_shortest_life_counts(expires_in: object, exp: int | None, most: float, life: float | None) -> None:
    claims = OURS if exp is None else OURS | {"exp": NOW + exp}
    found = token(answer(access_token=jwt(claims), expires_in=expires_in), keeping=Keeping(max_lifetime=most))
    assert found.lifetime == life
    assert found.expires == (None if life is None else NOW + life)


def test_one_that_has_expired() -> None:
    error = refused(answer(access_token=jwt(OURS | {"exp": NOW - 5})))
    assert error.code is SourceCode.EXPIRED
    assert "clock" in error.hint


@pytest.mark.parametrize("scope", [ABSENT, None, "a b", "b a", "a b c"])
def test_all_scopes(scope: object) -> None:
    assert token(answer(scope=scope), scopes=("a", "b")).value


@pytest.mark.parametrize(
    ("scope", "missing"),
    [("a", "1 of 2 scopes were not granted: b"), ("", "2 of 2"), ("ab", "a, b"), ("a,b", "2 of 2")],
)
def test_fewer_scopes(scope: str, missing: str) -> None:
    error = refused(answer(scope=scope), scopes=("a", "b"))
    assert error.code is SourceCode.REFUSED
    assert missing in str(error)


@pytest.mark.parametrize("scope", [1, ["a", "b"], {}])
def test_scopes_that_are_no_text(scope: object) -> None:
    assert refused(answer(scope=scope), scopes=("a",)).code is SourceCode.BAD_ANSWER


@pytest.mark.threat(22)
@pytest.mark.parametrize("bound", [True, False])
def test_bound_to_our_certificate(*, bound: bool) -> None:
    assert token(answer(access_token=jwt(OURS)), bound=bound).bound


@pytest.mark.threat(22)
@pytest.mark.parametrize("bound", [True, False])
@pytest.mark.parametrize("named", ["B" * 43, "", LEAF + "=", LEAF.lower(), None, 1, [LEAF]])
def test_bound_to_another(named: object, *, bound: bool) -> None:
    error = refused(answer(access_token=jwt({"cnf": {"x5t#S256": named}})), bound=bound)
    assert error.code is SourceCode.NOT_BOUND
    assert "another certificate" in str(error)


@pytest.mark.parametrize("claims", [{}, {"cnf": {}}, {"cnf": {"jkt": LEAF}}, {"cnf": LEAF}, {"cnf": None}])
def test_not_bound(claims: dict[str, Any]) -> None:
    error = refused(answer(access_token=jwt(claims)))
    assert error.code is SourceCode.NOT_BOUND
    assert "tls_client_certificate_bound_access_tokens" in error.hint
    assert "bound: false" in error.hint
    assert not token(answer(access_token=jwt(claims)), bound=False).bound

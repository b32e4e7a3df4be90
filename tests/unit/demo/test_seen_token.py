"""No part of a token is in what is told of it, whatever came as one."""

from __future__ import annotations

import base64
import hashlib
from typing import Any

import jwt
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sidecar.demo.seen_token import told

CLAIMS: dict[str, Any] = {
    "sub": "spiffe://example.org/agent/planner/1",
    "aud": "https://tools.internal",
    "iat": 1000,
    "exp": 1300,
    "jti": "j1",
    "cnf": {"x5t#S256": base64.urlsafe_b64encode(hashlib.sha256(b"leaf").digest()).decode().rstrip("=")},
}
UNREADABLE = {"authorization": "no token with the claims that are looked for"}


def token(claims: dict[str, Any]) -> str:
    return jwt.encode(claims, "k" * 32, algorithm="HS256")


def test_what_it_says() -> None:
    value = token(CLAIMS)
    said = told([f"Bearer {value}"])
    assert said == {
        "authorization": "Bearer, a token",
        "sub": CLAIMS["sub"],
        "aud": CLAIMS["aud"],
        "jti": "j1",
        "life": "300 s",
        "cnf": hashlib.sha256(b"leaf").hexdigest(),
    }
    assert not any(part in str(said) for part in value.split("."))


def test_none_says_nothing() -> None:
    assert told([]) == {}


def test_two_are_one_too_many() -> None:
    assert told([f"Bearer {token(CLAIMS)}"] * 2) == {"authorization": "2 fields"}


@pytest.mark.parametrize(
    "claims",
    [
        {},
        *({name: value for name, value in CLAIMS.items() if name != absent} for absent in CLAIMS),
        CLAIMS | {"cnf": "x"},
        CLAIMS | {"cnf": {"x5t#S256": 1}},
        CLAIMS | {"exp": "soon"},
    ],
    ids=str,
)
def test_claims_that_are_missing_or_of_another_kind(claims: dict[str, Any]) -> None:
    assert told([f"Bearer {token(claims)}"]) == UNREADABLE


@given(st.text())
def test_what_is_no_token_is_not_told(text: str) -> None:
    """Whatever stands in the field, what is told is one fixed text."""
    assert told([text]) == UNREADABLE


def test_a_token_without_its_scheme_is_not_told() -> None:
    assert told([token(CLAIMS)]) == UNREADABLE

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from sidecar.tokens.codes import SourceCode, SourceError
from sidecar.tokens.issuer.answer import Answer
from sidecar.tokens.settings import ClientAuth, OAuth2Source, SecretRef
from sidecar.tokens.sources.refusal import refused
from tests.support.tls import PLANNER

ISSUER = "https://as.example"
WORDS = [
    "invalid_request",
    "invalid_client",
    "invalid_grant",
    "unauthorized_client",
    "unsupported_grant_type",
    "invalid_scope",
    "invalid_target",
    "unsupported_token_type",
]


def error_of(body: Any, auth: ClientAuth = ClientAuth.TLS, status: int = 401) -> SourceError:
    data = body if isinstance(body, bytes) else json.dumps(body).encode()
    settings = OAuth2Source("x", ISSUER, auth, client_secret=SecretRef(file=Path("/run/secret")))
    return refused(Answer(status, "application/json", data), settings, "planner-1", PLANNER.id)


@pytest.mark.parametrize("word", WORDS)
def test_registered_words_are_repeated(word: str) -> None:
    error = error_of({"error": word, "error_description": "secret", "error_uri": "https://secret"})
    assert error.code is SourceCode.REFUSED
    assert word in str(error)
    assert error.hint
    assert "secret" not in str(error) + error.hint


@pytest.mark.parametrize(
    "body",
    [{}, {"error": "secret"}, {"error": ["invalid_client"]}, {"error": None}, {"error": "invalid_client secret"}, b"<secret>",
     b"", [], b'{"error":"invalid_client","error":"secret"}', {"error_description": "secret"}],
)  # fmt: skip
def test_nothing_else_is(body: Any) -> None:
    error = error_of(body, status=400)
    assert error.code is SourceCode.REFUSED
    assert "400" in str(error)
    assert "secret" not in str(error) + error.hint + repr(error.__context__)


@pytest.mark.parametrize(
    ("auth", "needed"),
    [
        (ClientAuth.TLS, f"tls_client_auth_san_uri {PLANNER.id}"),
        (ClientAuth.SELF_SIGNED_TLS, "x5c"),
        (ClientAuth.PRIVATE_KEY_JWT, ISSUER),
        (ClientAuth.SECRET_BASIC, "file /run/secret"),
        (ClientAuth.SECRET_POST, "file /run/secret"),
    ],
)
def test_what_an_unknown_client_needs(auth: ClientAuth, needed: str) -> None:
    hint = error_of({"error": "invalid_client"}, auth).hint
    assert "client_id planner-1" in hint
    assert f"token_endpoint_auth_method {auth.value}" in hint
    assert needed in hint

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from sidecar.config import token_values
from sidecar.config.faults import ConfigCode, Faults, Refused
from sidecar.config.schema import Kind, Ledger, Spot
from sidecar.config.yaml import Scalar


def at(value: str) -> Spot:
    return Spot(Scalar(value, False, 1), "key", 1, Faults(Path("/x.yaml")), Path("/"), {}, Ledger())


def refused(kind: Kind[Any], value: str) -> Refused:
    with pytest.raises(Refused) as caught:
        kind.read(at(value))
    assert caught.value.hint
    return caught.value


@pytest.mark.parametrize("value", ["a", "tools.read", "https://a.b/c", "!#[]~", "x" * 1024])
def test_scopes(value: str) -> None:
    assert token_values.SCOPE.read(at(value)) == value


@pytest.mark.parametrize("value", ["", "a b", 'a"b', "a\\b", "ä", "x" * 1025])
def test_what_is_no_scope(value: str) -> None:
    assert refused(token_values.SCOPE, value).code is ConfigCode.BAD_SCOPE


@pytest.mark.parametrize("value", ["a", "https://tools.example.org/", "the tools", "ä"])
def test_audiences(value: str) -> None:
    assert token_values.AUDIENCE.read(at(value)) == value


@pytest.mark.parametrize("value", ["", " ", " a", "a ", "x" * 1025])
def test_what_is_no_audience(value: str) -> None:
    assert refused(token_values.AUDIENCE, value).code is ConfigCode.BAD_TEXT


@pytest.mark.parametrize("value", ["x-token-subject", "X-Department", "x_a", "department"])
def test_fields_for_claims(value: str) -> None:
    assert token_values.field_name(value) == value.encode()


@pytest.mark.threat(20)
@pytest.mark.parametrize(
    "value",
    [
        "host", "Content-Length", "transfer-encoding", "transfer_encoding", "connection", "TE", "upgrade", "keep-alive",
        "x-forwarded-client-cert", "X_Forwarded_Client_Cert", "x-sidecar-caller", "x-spiffe-id", "x-forwarded-for",
        "X.Forwarded.For", "forwarded", "via", "x-real-ip", "proxy", "proxy-authorization", "authorization",
        "Authorization", "cookie", "set-cookie", "content-type", "expect", "trailer", "sec-fetch-site", "origin",
        "traceparent",
    ],
)  # fmt: skip
def test_fields_that_no_claim_may_set(value: str) -> None:
    with pytest.raises(Refused) as caught:
        token_values.field_name(value)
    assert caught.value.code is ConfigCode.BAD_FIELD_NAME
    assert "is not to be set from a token" in str(caught.value)


@pytest.mark.parametrize("value", ["", "a b", "a:", "a\tb", "ä", "x" * 65, "(a)"])
def test_what_is_no_name_of_a_field(value: str) -> None:
    with pytest.raises(Refused) as caught:
        token_values.field_name(value)
    assert (caught.value.code, "is not the name of a field" in str(caught.value)) == (ConfigCode.BAD_FIELD_NAME, True)


@pytest.mark.parametrize(
    ("value", "name", "scheme"),
    [
        ("Authorization: Bearer", b"Authorization", b"Bearer"),
        ("authorization:DPoP", b"authorization", b"DPoP"),
        ("Authorization", b"Authorization", b""),
        ("X-Api-Key", b"X-Api-Key", b""),
        ("x-api-key: token", b"x-api-key", b"token"),
    ],
)
def test_fields_for_tokens(value: str, name: bytes, scheme: bytes) -> None:
    assert token_values.TOKEN_HEADER.read(at(value)) == (name, scheme)


@pytest.mark.threat(20)
@pytest.mark.parametrize(
    "value",
    [
        "", ":", ": Bearer", "Authorization:", "Authorization: ", "Authorization:  Bearer", "Authorization: Bearer x",
        "Authorization : Bearer", "Authorization: Bea(rer", "Autho rization", "host", "Host: Bearer", "content-length",
        "transfer_encoding", "connection", "cookie", "x-forwarded-client-cert", "X_Sidecar_Caller", "proxy-authorization",
        "te", "upgrade",
    ],
)  # fmt: skip
def test_what_is_no_field_for_a_token(value: str) -> None:
    assert refused(token_values.TOKEN_HEADER, value).code is ConfigCode.BAD_FIELD_NAME

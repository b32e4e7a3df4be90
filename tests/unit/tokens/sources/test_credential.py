from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sidecar.tokens.codes import SourceCode, SourceError
from sidecar.tokens.sources.credential import EXEC_INFO, Printed, read

V1, BETA = "client.authentication.k8s.io/v1", "client.authentication.k8s.io/v1beta1"
ABSENT = object()


def credential(version: Any = V1, kind: Any = "ExecCredential", **status: Any) -> bytes:
    return json.dumps({"apiVersion": version, "kind": kind, "status": {"token": "a-token"} | status}).encode()


def refused(output: bytes) -> SourceError:
    with pytest.raises(SourceError) as caught:
        read(output)
    assert "secret" not in str(caught.value) + caught.value.hint + repr(caught.value.__context__)
    return caught.value


@pytest.mark.parametrize("output", [b"a-token", b"a-token\n"])
def test_one_line_is_the_token(output: bytes) -> None:
    assert read(output) == Printed("a-token", None)


@pytest.mark.parametrize(
    "output", [b"", b"\n", b"a b", b"a-token\n\n", b"a\nb\n", b"a-token\r\n", b"\xff", b"\xc3\xa9", b"[1]\n2"]
)
def test_what_is_no_token(output: bytes) -> None:
    assert refused(output).code is SourceCode.BAD_TOKEN


@pytest.mark.parametrize("version", [V1, BETA])
def test_an_exec_credential(version: str) -> None:
    assert read(credential(version)) == Printed("a-token", None)
    assert read(b"\n  " + credential(version) + b"\n") == Printed("a-token", None)
    assert read(credential(version, clientCertificateData="é", expirationTimestamp=None)) == Printed("a-token", None)


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("1970-01-01T00:01:40Z", 100.0),
        ("1970-01-01t00:01:40z", 100.0),
        ("1970-01-01T00:01:40.25Z", 100.25),
        ("1970-01-01T00:01:40.123456789Z", 100.123456),
        ("1970-01-01T01:01:40+01:00", 100.0),
        ("1969-12-31T23:01:40-01:00", 100.0),
    ],
)
def test_when_it_ends(text: str, seconds: float) -> None:
    assert read(credential(expirationTimestamp=text)).expires == pytest.approx(seconds)


@pytest.mark.parametrize(
    "text",
    ["", "soon", "1970-01-01", "1970-01-01T00:01:40", "19700101T000140Z", "1970-13-01T00:00:00Z", "1970-01-01T00:00:60Z",
     "1970-01-01T00:00:00+99:00", "1970-W01-1T00:00:00Z", "\uff11970-01-01T00:00:00Z", 100, True, {}, ["1970-01-01T00:00:00Z"]],
)  # fmt: skip
def test_what_is_no_time(text: object) -> None:
    assert refused(credential(expirationTimestamp=text)).code is SourceCode.COMMAND


@pytest.mark.parametrize(
    "output",
    [
        b"{",
        b'{"secret"',
        b"{}",
        b'{"kind":"ExecCredential"}',
        credential("client.authentication.k8s.io/v1alpha1"),
        credential(None),
        credential(kind="Secret"),
        credential(kind=["ExecCredential"]),
        credential(token=None),
        credential(token=1),
        credential(token=["secret"]),
        json.dumps({"apiVersion": V1, "kind": "ExecCredential", "status": ["secret"]}).encode(),
        json.dumps({"apiVersion": V1, "kind": "ExecCredential", "status": {"clientKeyData": "secret"}}).encode(),
        b'{"apiVersion":"client.authentication.k8s.io/v1","kind":"ExecCredential","status":{"token":"a","token":"secret"}}',
        credential() + b"secret",
        b'{"a":' * 20000,
        b'{"a":' + b"9" * 5000 + b"}",
    ],
)
def test_what_is_no_credential(output: bytes) -> None:
    error = refused(output)
    assert error.code is SourceCode.COMMAND
    assert error.hint


@pytest.mark.parametrize("version", [[V1], {"a": V1}, 1])
def test_a_version_that_is_no_text(version: object) -> None:
    assert refused(credential(version)).code is SourceCode.COMMAND


@pytest.mark.parametrize("token", ["", "a b", "a\r\nb", "a\0", "é", "a" * 9000])
def test_a_token_that_no_field_may_hold(token: str) -> None:
    assert refused(credential(token=token)).code is SourceCode.BAD_TOKEN


def test_what_plugins_are_told() -> None:
    assert json.loads(EXEC_INFO) == {"apiVersion": V1, "kind": "ExecCredential", "spec": {"interactive": False}}


@given(st.binary(max_size=200) | st.builds(lambda d: b"{" + d, st.binary(max_size=200)))
def test_whatever_is_printed(output: bytes) -> None:
    """`read` returns a token of visible ASCII or raises SourceError, for any bytes."""
    try:
        assert read(output).value.isascii()
    except SourceError as error:
        assert error.code in {SourceCode.BAD_TOKEN, SourceCode.COMMAND}  # noqa: PT017 - either outcome is right

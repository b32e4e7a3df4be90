from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from sidecar.config.faults import ConfigCode
from sidecar.tokens.settings import ClientAuth, Keeping, OAuth2Source, Reach, SecretRef
from tests.support.configuration import VALID, Workspace, line_of

if TYPE_CHECKING:
    from pathlib import Path

ISSUER = "https://issuer.example.org"


def oauth2(*keys: str, auth: str = "tls_client_auth", issuer: str = ISSUER) -> str:
    """The valid file with one source, each of its keys on a line of its own."""
    given = ["name: api", "kind: oauth2", f"issuer: {issuer}", f"client_auth: {auth}", *keys]
    return VALID + "tokens:\n  - " + "\n    ".join(given) + "\n"


def source(workspace: Workspace, text: str) -> OAuth2Source:
    (found,) = workspace.load(text).config.tokens
    assert isinstance(found, OAuth2Source)
    return found


@pytest.fixture
def secret(workspace: Workspace) -> Path:
    path = workspace.folder / "secret.txt"
    path.touch(mode=0o600)
    path.write_text("hunter2\n")
    return path


def test_the_defaults(workspace: Workspace) -> None:
    assert source(workspace, oauth2()) == OAuth2Source("api", ISSUER, ClientAuth.TLS)
    assert source(workspace, oauth2(auth="self_signed_tls_client_auth")).client_auth is ClientAuth.SELF_SIGNED_TLS


def test_every_key(workspace: Workspace) -> None:
    (workspace.folder / "issuer.pem").write_bytes(workspace.ca.pem)
    keys = (
        "client_id: planner",
        "scopes: [tools.read, 'tools:write']",
        "resource: https://tools.example.org/?a=b",
        "audience: the tools",
        "assertion_audience: https://issuer.example.org/token",
        "key_id: planner-1",
        "bound: false",
        "ca: issuer.pem",
        "timeout: 100ms",
        "max_lifetime: 1m",
        "cache: none",
        "helper: true",
        "unsafe_plaintext_issuer: true",
    )
    assert source(workspace, oauth2(*keys, auth="private_key_jwt", issuer="http://127.0.0.1:9000")) == OAuth2Source(
        name="api",
        issuer="http://127.0.0.1:9000",
        client_auth=ClientAuth.PRIVATE_KEY_JWT,
        client_id="planner",
        scopes=("tools.read", "tools:write"),
        resource="https://tools.example.org/?a=b",
        audience="the tools",
        assertion_audience="https://issuer.example.org/token",
        key_id="planner-1",
        bound=False,
        reach=Reach(workspace.folder / "issuer.pem", 0.1, unsafe_plaintext=True),
        keeping=Keeping(cache=False, max_lifetime=60.0, helper=True),
    )


@pytest.mark.parametrize("auth", ["client_secret_basic", "client_secret_post"])
def test_a_secret_by_its_place(workspace: Workspace, secret: Path, auth: str) -> None:
    found = source(workspace, oauth2("client_secret: {file: secret.txt}", auth=auth))
    assert (found.client_auth, found.client_secret) == (ClientAuth(auth), SecretRef(file=secret))


# What is wrong: (way of authentication, the key's line, code, key below tokens[0], message)
BAD = {
    "another way": ("none", "", ConfigCode.BAD_CHOICE, "client_auth", '"none" is not one of the choices'),
    "a secret for mutual TLS": (
        "tls_client_auth",
        "client_secret: {file: secret.txt}",
        ConfigCode.MISPLACED_KEY,
        "client_secret",
        "client_secret belongs to client_auth: client_secret_basic or client_secret_post",
    ),
    "a secret for a key": (
        "private_key_jwt",
        "client_secret: {file: secret.txt}",
        ConfigCode.MISPLACED_KEY,
        "client_secret",
        "client_secret belongs to client_auth: client_secret_basic or client_secret_post",
    ),
    "no secret": (
        "client_secret_basic",
        "",
        ConfigCode.MISSING_KEY,
        "client_secret",
        "client_secret_basic needs a client secret",
    ),
    "an audience of no assertion": (
        "tls_client_auth",
        "assertion_audience: a",
        ConfigCode.MISPLACED_KEY,
        "assertion_audience",
        "assertion_audience belongs to client_auth: private_key_jwt",
    ),
    "a key id of no assertion": (
        "self_signed_tls_client_auth",
        "key_id: a",
        ConfigCode.MISPLACED_KEY,
        "key_id",
        "key_id belongs to client_auth: private_key_jwt",
    ),
    "a client id with a blank": (
        "tls_client_auth",
        "client_id: a b",
        ConfigCode.BAD_TEXT,
        "client_id",
        "this is not 1 to 1024 visible ASCII characters",
    ),
    "a client id beyond ASCII": (
        "tls_client_auth",
        "client_id: plänner",
        ConfigCode.BAD_TEXT,
        "client_id",
        "this is not 1 to 1024 visible ASCII characters",
    ),
    "no scope": ("tls_client_auth", "scopes: []", ConfigCode.EMPTY_LIST, "scopes", "the list is empty"),
    "scopes in one": (
        "tls_client_auth",
        "scopes: [a b]",
        ConfigCode.BAD_SCOPE,
        "scopes[0]",
        '"a b" is not a scope',
    ),
    "a scope twice": (
        "tls_client_auth",
        "scopes: [a, a]",
        ConfigCode.DUPLICATE_ITEM,
        "scopes[1]",
        '"a" stands twice in the list',
    ),
    "a resource with a fragment": (
        "tls_client_auth",
        "resource: https://a.b/#c",
        ConfigCode.BAD_URL,
        "resource",
        "this is not an absolute URI without a fragment (RFC 8707 2)",
    ),
    "command": (
        "tls_client_auth",
        "command: [a]",
        ConfigCode.MISPLACED_KEY,
        "command",
        "command belongs to kind: exec",
    ),
    "a slow issuer": (
        "tls_client_auth",
        "timeout: 61s",
        ConfigCode.OUT_OF_RANGE,
        "timeout",
        '"61s" is not between 100ms and 1m',
    ),
    "no life": (
        "tls_client_auth",
        "max_lifetime: 0s",
        ConfigCode.OUT_OF_RANGE,
        "max_lifetime",
        '"0s" is not between 1s and 24h',
    ),
}


@pytest.mark.usefixtures("secret")
@pytest.mark.parametrize("case", BAD)
def test_a_fault_is_named_with_its_place(workspace: Workspace, case: str) -> None:
    auth, line, code, key, message = BAD[case]
    text = oauth2(*([line] if line else []), auth=auth)
    fault = workspace.fault(text)
    assert (fault.code, fault.key, fault.message) == (code, f"tokens[0].{key}", message)
    piece = line or ("client_auth:" if key == "client_auth" else "  - name: api")
    assert fault.line == line_of(text, piece)


def test_no_issuer_and_no_way_to_prove_who_we_are(workspace: Workspace) -> None:
    text = VALID + "tokens:\n  - {name: api, kind: oauth2}\n"
    assert [(fault.code, fault.key) for fault in workspace.faults(text)] == [
        (ConfigCode.MISSING_KEY, "tokens[0].issuer"),
        (ConfigCode.MISSING_KEY, "tokens[0].client_auth"),
    ]


def test_http_is_for_those_who_say_unsafe(workspace: Workspace) -> None:
    text = oauth2(issuer="http://issuer.example.org")
    fault = workspace.fault(text)
    assert (fault.code, fault.key) == (ConfigCode.PLAINTEXT_ISSUER, "tokens[0].issuer")
    assert fault.line == line_of(text, "issuer: http")
    assert fault.message == "the URL is http://: whoever is on the way could read or make tokens"
    assert fault.hint == "write https://, or accept it with unsafe_plaintext_issuer: true"
    for value in ("false", "yes"):
        faults = workspace.faults(oauth2(f"unsafe_plaintext_issuer: {value}", issuer="http://issuer.example.org"))
        assert {fault.code for fault in faults} <= {ConfigCode.PLAINTEXT_ISSUER, ConfigCode.BAD_CHOICE}


def test_every_fault_at_once(workspace: Workspace) -> None:
    keys = ("client_secret: hunter2", "key_id: a", "scopes: ['']", "ca: missing.pem", "nonsense: 1")
    faults = workspace.faults(oauth2(*keys, issuer="http://a.b"))
    assert [(fault.code, fault.key) for fault in faults] == [
        (ConfigCode.PLAINTEXT_ISSUER, "tokens[0].issuer"),
        (ConfigCode.SECRET, "tokens[0].client_secret"),
        (ConfigCode.MISPLACED_KEY, "tokens[0].client_secret"),
        (ConfigCode.MISPLACED_KEY, "tokens[0].key_id"),
        (ConfigCode.BAD_SCOPE, "tokens[0].scopes[0]"),
        (ConfigCode.FILE_MISSING, "tokens[0].ca"),
        (ConfigCode.UNKNOWN_KEY, "tokens[0].nonsense"),
    ]
    assert "hunter2" not in "".join(map(str, faults))

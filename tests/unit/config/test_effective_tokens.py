from __future__ import annotations

import json

import pytest

from sidecar.config.effective import effective, policy, policy_version
from sidecar.config.load import load
from tests.support.configuration import Workspace, edit

RULE = """\
        token:
          issuer: corp
          audience: [b, a]
          scopes: [y, x]
          claims: {deep: {er: {level: 1}, admin: true}, department: finance}
          headers: {X-Token-Subject: sub}
"""
SECTIONS = """\
tokens:
  - name: api
    kind: oauth2
    issuer: https://issuer.example.org
    client_auth: client_secret_basic
    client_secret: {env: TOOLS_SECRET}
    scopes: [b, a]
  - {name: old, kind: oauth2, issuer: "https://old.example.org", client_auth: client_secret_post,
     client_secret: {file: s}, ca: ca.crt}
  - {name: mesh, kind: self-signed, audience: a}
  - {name: pod, kind: file, path: token, cache: none, helper: true}
  - {name: cli, kind: exec, command: [get-token, a]}
issuers:
  - {name: corp, issuer: "https://issuer.example.org", jwks: "https://issuer.example.org/jwks"}
  - {name: unused, issuer: "https://b.example.org", jwks: "https://b.example.org/jwks", typ: none}
"""
TEXT = edit("        methods:", RULE + "        methods:", edit("    peer:", "    token: api\n    peer:")) + SECTIONS
CANARY = "hunter2-canary"


@pytest.fixture
def tokens(workspace: Workspace) -> Workspace:
    path = workspace.folder / "s"
    path.touch(mode=0o600)
    path.write_text(CANARY)
    return workspace


def shown(workspace: Workspace, text: str = TEXT) -> dict[str, object]:
    config = load(workspace.write(text), now=workspace.now, environ={"TOOLS_SECRET": CANARY}).config
    return effective(config) | {"policy": policy(config), "policy_version": policy_version(config)}


def version(workspace: Workspace, text: str) -> object:
    return shown(workspace, text)["policy_version"]


def test_sources_and_issuers_are_shown_in_the_keys_of_the_file(tokens: Workspace) -> None:
    found = shown(tokens)
    kept = {"max_lifetime": "15m", "cache": "memory", "helper": False}
    oauth2 = {
        "name": "api",
        "kind": "oauth2",
        "issuer": "https://issuer.example.org",
        "client_auth": "client_secret_basic",
        "client_id": None,
        "client_secret": {"env": "TOOLS_SECRET"},
        "scopes": ["b", "a"],
        "resource": None,
        "audience": None,
        "assertion_audience": None,
        "key_id": None,
        "bound": True,
        "ca": None,
        "timeout": "5s",
        "unsafe_plaintext_issuer": False,
        **kept,
    }
    old = {
        "name": "old",
        "issuer": "https://old.example.org",
        "client_auth": "client_secret_post",
        "client_secret": {"file": f"{tokens.folder}/s"},
        "ca": f"{tokens.folder}/ca.crt",
        "scopes": [],
    }
    assert found["tokens"] == [
        oauth2,
        {**oauth2, **old},
        {"name": "mesh", "kind": "self-signed", "audience": "a", "lifetime": "5m", "cache": "memory", "helper": False},
        {
            "name": "pod",
            "kind": "file",
            "path": f"{tokens.folder}/token",
            "max_lifetime": "15m",
            "cache": "none",
            "helper": True,
        },
        {"name": "cli", "kind": "exec", "command": ["get-token", "a"], "timeout": "10s", **kept},
    ]
    corp = {
        "name": "corp",
        "issuer": "https://issuer.example.org",
        "jwks": "https://issuer.example.org/jwks",
        "algorithms": ["ES256"],
        "typ": "at+jwt",
        "leeway": "30s",
        "jwks_refresh": "5m",
        "jwks_interval": "10s",
        "jwks_max_age": "1h",
        "ca": None,
        "timeout": "5s",
        "unsafe_plaintext_issuer": False,
    }
    other = {"name": "unused", "issuer": "https://b.example.org", "jwks": "https://b.example.org/jwks", "typ": "none"}
    assert found["issuers"] == [corp, {**corp, **other}]


def test_what_a_rule_and_an_entry_say_of_tokens(tokens: Workspace) -> None:
    config = load(tokens.write(TEXT), now=tokens.now, environ={"TOOLS_SECRET": CANARY}).config
    found = effective(config)
    asked = {
        "issuer": "corp",
        "audience": ["a", "b"],
        "scopes": ["x", "y"],
        "claims": {"deep": {"er": {"level": 1}, "admin": True}, "department": "finance"},
        "max_lifetime": "15m",
        "bound": True,
        "pass_token": False,
        "headers": {"X-Token-Subject": "sub"},
    }
    assert found["inbound"][0]["allow"][0]["token"] == asked
    assert (found["outbound"][0]["token"], found["outbound"][0]["token_header"]) == ("api", "Authorization: Bearer")
    decides = policy(config)
    assert decides["inbound"]["in"]["inbound.in.allow[0]"]["token"] == asked
    assert decides["outbound"]["out"]["token"] == "api"
    assert decides["outbound"]["out"]["token_header"] == "Authorization: Bearer"
    assert decides["issuers"] == {
        "corp": {
            "issuer": "https://issuer.example.org",
            "jwks": "https://issuer.example.org/jwks",
            "algorithms": ["ES256"],
            "typ": "at+jwt",
            "leeway": "30s",
        }
    }
    assert "tokens" not in decides


@pytest.mark.threat(21)
def test_threat_21_no_secret_is_shown(tokens: Workspace) -> None:
    found = shown(tokens)
    assert json.loads(json.dumps(found)) == found
    assert CANARY not in json.dumps(found)


def test_a_source_without_a_secret_says_so(workspace: Workspace) -> None:
    auth = edit(
        "client_auth: client_secret_basic\n    client_secret: {env: TOOLS_SECRET}", "client_auth: tls_client_auth", TEXT
    )
    config = workspace.load(edit(auth[auth.index("  - {name: old,") : auth.index("  - {name: mesh")], "", auth)).config
    assert effective(config)["tokens"][0]["client_secret"] is None


def test_a_policy_without_tokens_says_nothing_of_them(workspace: Workspace) -> None:
    """Or every version of every policy would change with the program."""
    config = workspace.load().config
    assert "token" not in json.dumps(policy(config))
    assert "issuers" not in policy(config)
    assert effective(config)["inbound"][0]["allow"][0]["token"] is None
    assert (effective(config)["outbound"][0]["token"], effective(config)["outbound"][0]["token_header"]) == (None, None)


@pytest.mark.parametrize(
    "text",
    [
        edit("audience: [b, a]", "audience: [a]", TEXT),
        edit("scopes: [y, x]", "scopes: [x]", TEXT),
        edit("level: 1", "level: '1'", TEXT),
        edit("level: 1", "level: true", TEXT),
        edit("admin: true", "admin: 1", TEXT),
        edit("          scopes: [y, x]\n", "          scopes: [y, x]\n          max_lifetime: 1m\n", TEXT),
        edit("          scopes: [y, x]\n", "          scopes: [y, x]\n          bound: false\n", TEXT),
        edit("          scopes: [y, x]\n", "          scopes: [y, x]\n          pass_token: true\n", TEXT),
        edit("X-Token-Subject: sub", "X-Token-Subject: client_id", TEXT),
        edit("          issuer: corp", "          issuer: self-signed", TEXT),
        edit(RULE, "", TEXT),
        edit('jwks: "https://issuer.example.org/jwks"', 'jwks: "https://issuer.example.org/k"', TEXT),
        edit(
            'name: corp, issuer: "https://issuer.example.org"',
            'name: corp, issuer: "https://issuer.example.org/"',
            TEXT,
        ),
        edit("name: corp,", "name: corp, algorithms: [ES256, RS256],", TEXT),
        edit("name: corp,", "name: corp, typ: JWT,", TEXT),
        edit("name: corp,", "name: corp, leeway: 1s,", TEXT),
        edit("    token: api\n", "    token: mesh\n", TEXT),
        edit("    token: api\n", "    token: api\n    token_header: X-Api-Key\n", TEXT),
        edit("    token: api\n", "", TEXT),
    ],
)
def test_what_decides_changes_the_policy_version(tokens: Workspace, text: str) -> None:
    assert version(tokens, text) != version(tokens, TEXT)


@pytest.mark.parametrize(
    "text",
    [
        edit("audience: [b, a]", "audience: [a, b]", TEXT),
        edit("scopes: [y, x]", "scopes: [x, y]", TEXT),
        edit("admin: true}, department: finance", "admin: true}, 'department': finance", TEXT),
        edit("name: corp,", "name: corp, jwks_refresh: 1m,", TEXT),
        edit("name: corp,", "name: corp, timeout: 1s,", TEXT),
        edit("name: unused,", "name: unused, leeway: 1s,", TEXT),
        edit("scopes: [b, a]", "scopes: [c]", TEXT),
    ],
)
def test_what_decides_nothing_leaves_the_policy_version(tokens: Workspace, text: str) -> None:
    assert version(tokens, text) == version(tokens, TEXT)

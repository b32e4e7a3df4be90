from __future__ import annotations

from dataclasses import replace

import pytest

from sidecar.config.faults import ConfigCode
from sidecar.tokens.requirement import Requirement
from tests.support.configuration import VALID, Workspace, edit, line_of

ISSUERS = "issuers:\n  - {name: corp, issuer: https://issuer.example.org, jwks: https://issuer.example.org/jwks}\n"
AUDIENCE = "https://tools.example.org"
KEY = "inbound.in.allow[0].token"
TCP = "        methods: [GET, POST]\n        paths: [/mcp, /tools/**]\n"


def asking(*keys: str, issuer: str = "corp", audience: str = f"[{AUDIENCE}]", text: str = VALID) -> str:
    """The valid file whose rule asks for a token, each key on a line of its own; an empty value leaves the key out."""
    given = [f"issuer: {issuer}"] * bool(issuer) + [f"audience: {audience}"] * bool(audience) + [*keys]
    lines = "".join(f"          {key}\n" for key in given)
    return edit("        methods:", f"        token:\n{lines}        methods:", text) + ISSUERS


def requirement(workspace: Workspace, text: str) -> Requirement | None:
    return workspace.load(text).config.inbound[0].allow[0].token


def test_a_rule_asks_for_no_token_unless_it_says_so(workspace: Workspace) -> None:
    assert requirement(workspace, VALID) is None


def test_the_defaults(workspace: Workspace) -> None:
    assert requirement(workspace, asking()) == Requirement(KEY, "corp", frozenset({AUDIENCE}))
    assert requirement(workspace, asking(audience=AUDIENCE)) == Requirement(KEY, "corp", frozenset({AUDIENCE}))
    assert requirement(workspace, asking(issuer="self-signed")) == Requirement(
        KEY, "self-signed", frozenset({AUDIENCE})
    )


def test_every_key(workspace: Workspace) -> None:
    keys = (
        "scopes: [tools.read, tools.write]",
        "claims: {department: finance, kubernetes.io: {namespace: default}, admin: false, level: 2}",
        "max_lifetime: 24h",
        "bound: false",
        "pass_token: true",
        "headers: {X-Token-Subject: sub, x-department: department}",
    )
    found = requirement(workspace, asking(*keys, audience=f"[{AUDIENCE}, {AUDIENCE}/]"))
    assert found == Requirement(
        key=KEY,
        issuer="corp",
        audience=frozenset({AUDIENCE, f"{AUDIENCE}/"}),
        scopes=frozenset({"tools.read", "tools.write"}),
        claims=(
            (("admin",), False),
            (("department",), "finance"),
            (("kubernetes.io", "namespace"), "default"),
            (("level",), 2),
        ),
        max_lifetime=86400.0,
        bound=False,
        pass_token=True,
        headers=((b"X-Token-Subject", "sub"), (b"x-department", "department")),
    )


def test_a_requirement_is_named_after_its_rule(workspace: Workspace) -> None:
    named = edit("      - caller:", "      - name: planners\n        caller:", asking())
    assert requirement(workspace, named) == Requirement("planners.token", "corp", frozenset({AUDIENCE}))
    rule = workspace.load(asking()).config.inbound[0].allow[0]
    assert rule.token is not None
    assert rule.token.key == f"{rule.id}.token"
    assert replace(rule, token=None) == workspace.load().config.inbound[0].allow[0]


# What is wrong: (the key's line, code, key below the token, message)
BAD = {
    "a scope that is none": ('scopes: [a, "b c"]', ConfigCode.BAD_SCOPE, "scopes[1]", '"b c" is not a scope'),
    "no scope": ("scopes: []", ConfigCode.EMPTY_LIST, "scopes", "the list is empty"),
    "scopes as OAuth writes them": (
        "scopes: a b",
        ConfigCode.WRONG_TYPE,
        "scopes",
        "this is a single value, expected a list",
    ),
    "no claim": ("claims: {}", ConfigCode.EMPTY_LIST, "claims", "no claim is named"),
    "a claim with values": (
        "claims: {groups: [a]}",
        ConfigCode.WRONG_TYPE,
        "claims.groups",
        "this is a list, expected a single value",
    ),
    "a claim without a value": ("claims: {a: }", ConfigCode.NO_VALUE, "claims.a", "the key has no value"),
    "a claim that could be a number": (
        "claims: {a: 1.0}",
        ConfigCode.BAD_CLAIM,
        "claims.a",
        "this could be text or something else",
    ),
    "no life": (
        "max_lifetime: 0s",
        ConfigCode.OUT_OF_RANGE,
        "max_lifetime",
        '"0s" is not between 1s and 24h',
    ),
    "a long life": (
        "max_lifetime: 25h",
        ConfigCode.OUT_OF_RANGE,
        "max_lifetime",
        '"25h" is not between 1s and 24h',
    ),
    "bound in quotes": (
        'bound: "false"',
        ConfigCode.BAD_CHOICE,
        "bound",
        '"false" is neither true nor false',
    ),
    "pass_token": ("pass_token: 1", ConfigCode.BAD_CHOICE, "pass_token", '"1" is neither true nor false'),
    "no field": ("headers: {}", ConfigCode.EMPTY_LIST, "headers", "no field is named"),
    "a field that authenticates": (
        "headers: {Authorization: sub}",
        ConfigCode.BAD_FIELD_NAME,
        "headers.Authorization",
        '"Authorization" is not to be set from a token: it frames, routes or authenticates a message',
    ),
    "a field of the proxy": (
        "headers: {X_Sidecar_Caller: sub}",
        ConfigCode.BAD_FIELD_NAME,
        "headers.X_Sidecar_Caller",
        '"X_Sidecar_Caller" is not to be set from a token: it frames, routes or authenticates a message',
    ),
    "a field that is none": (
        "headers: {'x token': sub}",
        ConfigCode.BAD_FIELD_NAME,
        'headers."x token"',
        '"x token" is not the name of a field (RFC 9110 5.1)',
    ),
    "one field twice": (
        "headers: {x-a: sub, X_A: sub}",
        ConfigCode.DUPLICATE_ITEM,
        "headers.X_A",
        '"X_A" and "x-a" are one field to most servers',
    ),
    "no claim for a field": (
        "headers: {x-a: ''}",
        ConfigCode.BAD_CLAIM,
        "headers.x-a",
        "the name of a claim has 1 to 1024 characters",
    ),
    "a path to a claim": (
        "headers: {x-a: {a: b}}",
        ConfigCode.WRONG_TYPE,
        "headers.x-a",
        "this is a mapping, expected a single value",
    ),
    "another key": ("algorithms: [ES256]", ConfigCode.UNKNOWN_KEY, "algorithms", "the key is unknown"),
}


@pytest.mark.parametrize("case", BAD)
def test_a_fault_is_named_with_its_place(workspace: Workspace, case: str) -> None:
    line, code, key, message = BAD[case]
    text = asking(line)
    fault = workspace.fault(text)
    assert (fault.code, fault.key, fault.message) == (code, f"inbound[0].allow[0].token.{key}", message)
    assert fault.line == line_of(text, line)


@pytest.mark.threat(19)
@pytest.mark.parametrize("audience", ["", "[]", "~"])
def test_threat_19_an_audience_is_needed(workspace: Workspace, audience: str) -> None:
    """None would mean any: a token for another service would open this one."""
    fault = workspace.fault(asking(audience=audience))
    assert (fault.code, fault.key) == (ConfigCode.NO_AUDIENCE, "inbound[0].allow[0].token.audience")
    assert fault.message == "no audience is named"


@pytest.mark.parametrize(
    ("audience", "code", "key"),
    [
        ('""', ConfigCode.BAD_TEXT, "audience"),
        ("[a, '']", ConfigCode.BAD_TEXT, "audience[1]"),
        ("[a, a]", ConfigCode.DUPLICATE_ITEM, "audience[1]"),
        ("{a: b}", ConfigCode.WRONG_TYPE, "audience"),
    ],
)
def test_what_is_no_audience(workspace: Workspace, audience: str, code: ConfigCode, key: str) -> None:
    fault = workspace.fault(asking(audience=audience))
    assert (fault.code, fault.key) == (code, f"inbound[0].allow[0].token.{key}")


def test_an_issuer_is_needed(workspace: Workspace) -> None:
    fault = workspace.fault(asking(issuer=""))
    assert (fault.code, fault.key) == (ConfigCode.MISSING_KEY, "inbound[0].allow[0].token.issuer")


def test_an_issuer_that_is_not_there(workspace: Workspace) -> None:
    text = asking(issuer="crop")
    fault = workspace.fault(text)
    assert (fault.code, fault.key) == (ConfigCode.UNKNOWN_ISSUER, "inbound[0].allow[0].token.issuer")
    assert (fault.line, fault.message) == (line_of(text, "issuer: crop"), 'issuers has no issuer "crop"')
    assert fault.hint == "known are corp, self-signed"


def test_an_issuer_that_is_faulty_is_there(workspace: Workspace) -> None:
    """One fault for one mistake: the name is known, or may be one that could not be read."""
    assert workspace.fault(asking().replace("{name: corp,", "{name: corp, leeway: x,")).key == "issuers[0].leeway"
    assert workspace.fault(asking().replace("name: corp", "name: CORP")).key == "issuers[0].name"
    assert workspace.fault(asking().replace("name: corp, ", "")).key == "issuers[0].name"
    assert workspace.fault(asking().replace(ISSUERS, "issuers:\n")).key == "issuers"
    assert workspace.fault(asking().replace(ISSUERS, "")).code is ConfigCode.UNKNOWN_ISSUER


def test_a_token_without_a_value(workspace: Workspace) -> None:
    text = edit("        methods:", "        token:\n        methods:")
    assert workspace.fault(text).code is ConfigCode.NO_VALUE
    assert (
        workspace.fault(edit("        methods:", "        token: corp\n        methods:")).code is ConfigCode.WRONG_TYPE
    )


def test_bytes_have_no_tokens(workspace: Workspace) -> None:
    text = edit(TCP, "", edit("http://127.0.0.1:8080", "tcp://127.0.0.1:8080", asking()))
    fault = workspace.fault(text)
    assert (fault.code, fault.key) == (ConfigCode.NOT_FOR_TCP, "inbound[0].allow[0].token")
    assert fault.message == "forward is tcp://, where nobody looks for requests: token could never be checked"


def test_a_token_belongs_to_a_rule(workspace: Workspace) -> None:
    fault = workspace.fault(edit("    forward:", "    token: {}\n    forward:"))
    assert (fault.code, fault.key, fault.message) == (
        ConfigCode.MISPLACED_KEY,
        "inbound[0].token",
        "token belongs to a rule, below allow",
    )


def test_every_fault_at_once(workspace: Workspace) -> None:
    faults = workspace.faults(asking("scopes: []", "claims: {a: 1.5}", "headers: {host: ''}", issuer="x", audience=""))
    assert {(fault.code, fault.key.removeprefix("inbound[0].allow[0].token.")) for fault in faults} == {
        (ConfigCode.UNKNOWN_ISSUER, "issuer"),
        (ConfigCode.NO_AUDIENCE, "audience"),
        (ConfigCode.EMPTY_LIST, "scopes"),
        (ConfigCode.BAD_CLAIM, "claims.a"),
        (ConfigCode.BAD_CLAIM, "headers.host"),
        (ConfigCode.BAD_FIELD_NAME, "headers.host"),
    }

from __future__ import annotations

import pytest

from sidecar.config.faults import ConfigCode
from sidecar.tokens.settings import Issuer, Reach
from tests.support.configuration import VALID, Workspace, line_of

URL = "https://issuer.example.org"


def issuers(*keys: str, name: str = "corp", issuer: str = URL, jwks: str = f"{URL}/jwks") -> str:
    """The valid file with one issuer, each of its keys on a line of its own."""
    given = [f"name: {name}", f"issuer: {issuer}", f"jwks: {jwks}", *keys]
    return VALID + "issuers:\n  - " + "\n    ".join(given) + "\n"


def test_the_defaults(workspace: Workspace) -> None:
    assert workspace.load().config.issuers == ()
    assert workspace.load(issuers()).config.issuers == (Issuer("corp", URL, f"{URL}/jwks"),)


def test_every_key(workspace: Workspace) -> None:
    (workspace.folder / "issuer.pem").write_bytes(workspace.ca.pem)
    keys = (
        "algorithms: [ES256, ES384, ES512, RS256, RS384, RS512, PS256, PS384, PS512, EdDSA]",
        "typ: none",
        "leeway: 0s",
        "jwks_refresh: 1s",
        "jwks_interval: 1h",
        "jwks_max_age: 24h",
        "ca: issuer.pem",
        "timeout: 1m",
        "unsafe_plaintext_issuer: true",
    )
    text = issuers(*keys, issuer="http://127.0.0.1:9000/", jwks="http://127.0.0.1:9000/keys?set=a")
    assert workspace.load(text).config.issuers == (
        Issuer(
            name="corp",
            issuer="http://127.0.0.1:9000/",
            jwks="http://127.0.0.1:9000/keys?set=a",
            algorithms=("ES256", "ES384", "ES512", "RS256", "RS384", "RS512", "PS256", "PS384", "PS512", "EdDSA"),
            typ=None,
            leeway=0.0,
            jwks_refresh=1.0,
            jwks_interval=3600.0,
            jwks_max_age=86400.0,
            reach=Reach(workspace.folder / "issuer.pem", 60.0, unsafe_plaintext=True),
        ),
    )


@pytest.mark.parametrize("typ", ["at+jwt", "JWT", "application/at+jwt"])
def test_types_are_kept_as_they_are(workspace: Workspace, typ: str) -> None:
    assert workspace.load(issuers(f"typ: {typ}")).config.issuers[0].typ == typ


KNOWN = "write one of ES256, ES384, ES512, RS256, RS384, RS512, PS256, PS384, PS512, EdDSA"

# What is wrong: (the key's line, code, key below issuers[0], message, part of the hint)
BAD = {
    "a shared secret": (
        "algorithms: [ES256, HS256]",
        ConfigCode.BAD_ALGORITHM,
        "algorithms[1]",
        '"HS256" needs a shared secret: whoever can check such a token can make one',
        "let the issuer sign with a key pair",
    ),
    "a shared secret in lower case": (
        "algorithms: [hs512]",
        ConfigCode.BAD_ALGORITHM,
        "algorithms[0]",
        '"hs512" needs a shared secret: whoever can check such a token can make one',
        "let the issuer sign with a key pair",
    ),
    "none": (
        "algorithms: [none]",
        ConfigCode.BAD_ALGORITHM,
        "algorithms[0]",
        "none means that nobody signed: anybody can make such a token",
        KNOWN,
    ),
    "None": (
        "algorithms: [nOnE]",
        ConfigCode.BAD_ALGORITHM,
        "algorithms[0]",
        "none means that nobody signed: anybody can make such a token",
        KNOWN,
    ),
    "lower case": (
        "algorithms: [es256]",
        ConfigCode.BAD_ALGORITHM,
        "algorithms[0]",
        '"es256" is not an algorithm that is served',
        KNOWN,
    ),
    "another curve": (
        "algorithms: [ES256K]",
        ConfigCode.BAD_ALGORITHM,
        "algorithms[0]",
        '"ES256K" is not an algorithm that is served',
        KNOWN,
    ),
    "no algorithm": (
        "algorithms: []",
        ConfigCode.EMPTY_LIST,
        "algorithms",
        "the list is empty: no token could pass",
        "remove the key for ES256",
    ),
    "an algorithm twice": (
        "algorithms: [ES256, ES256]",
        ConfigCode.DUPLICATE_ITEM,
        "algorithms[1]",
        '"ES256" stands twice in the list',
        "leave one",
    ),
    "a type with a blank": (
        "typ: at jwt",
        ConfigCode.BAD_TEXT,
        "typ",
        '"at jwt" is not a type of tokens',
        "write at+jwt (RFC 9068)",
    ),
    "an empty type": ("typ: ''", ConfigCode.BAD_TEXT, "typ", '"" is not a type of tokens', "or none"),
    "leeway": ("leeway: 301s", ConfigCode.OUT_OF_RANGE, "leeway", '"301s" is not between 0s and 5m', ""),
    "refresh": ("jwks_refresh: 0s", ConfigCode.OUT_OF_RANGE, "jwks_refresh", '"0s" is not between 1s and 24h', ""),
    "interval": ("jwks_interval: 0s", ConfigCode.OUT_OF_RANGE, "jwks_interval", '"0s" is not between 1s and 1h', ""),
    "age": ("jwks_max_age: 25h", ConfigCode.OUT_OF_RANGE, "jwks_max_age", '"25h" is not between 1s and 24h', ""),
    "an age below the default": (
        "jwks_max_age: 4m",
        ConfigCode.OUT_OF_RANGE,
        "jwks_max_age",
        "jwks_max_age (4m) is below jwks_refresh (5m)",
        "raise jwks_max_age or lower jwks_refresh",
    ),
    "a refresh above the default": (
        "jwks_refresh: 2h",
        ConfigCode.OUT_OF_RANGE,
        "jwks_refresh",
        "jwks_max_age (1h) is below jwks_refresh (2h)",
        "raise jwks_max_age or lower jwks_refresh",
    ),
    "a key of sources": ("client_auth: x", ConfigCode.UNKNOWN_KEY, "client_auth", "the key is unknown", "known here"),
    "no file": ("ca: missing.pem", ConfigCode.FILE_MISSING, "ca", "{}/missing.pem: does not exist", "correct the path"),
}


@pytest.mark.parametrize("case", BAD)
def test_a_fault_is_named_with_its_place(workspace: Workspace, case: str) -> None:
    line, code, key, message, hint = BAD[case]
    text = issuers(line)
    fault = workspace.fault(text)
    assert (fault.code, fault.key, fault.message) == (code, f"issuers[0].{key}", message.format(workspace.folder))
    assert fault.line == line_of(text, line)
    assert hint in fault.hint


def test_what_is_needed(workspace: Workspace) -> None:
    assert [(fault.code, fault.key) for fault in workspace.faults(VALID + "issuers:\n  - leeway: 1s\n")] == [
        (ConfigCode.MISSING_KEY, "issuers[0].name"),
        (ConfigCode.MISSING_KEY, "issuers[0].issuer"),
        (ConfigCode.MISSING_KEY, "issuers[0].jwks"),
    ]


def test_the_name_of_self_signed_tokens_is_taken(workspace: Workspace) -> None:
    text = issuers(name="self-signed")
    fault = workspace.fault(text)
    assert (fault.code, fault.key) == (ConfigCode.RESERVED_NAME, "issuers[0].name")
    assert fault.line == line_of(text, "name: self-signed")
    assert fault.hint == "choose another name"


def test_names_are_unique_among_issuers(workspace: Workspace) -> None:
    text = issuers() + issuers(name="other").split("issuers:\n")[1] + issuers().split("issuers:\n")[1]
    fault = workspace.fault(text)
    assert (fault.code, fault.key) == (ConfigCode.DUPLICATE_NAME, "issuers[2].name")
    assert fault.message.startswith("another issuer has this name, on line ")
    assert workspace.load(issuers(name="in"))


@pytest.mark.parametrize("key", ["issuer", "jwks"])
def test_http_is_for_those_who_say_unsafe(workspace: Workspace, key: str) -> None:
    urls = {key: "http://issuer.example.org"}
    text = issuers(**urls)  # the other one is https
    fault = workspace.fault(text)
    assert (fault.code, fault.key) == (ConfigCode.PLAINTEXT_ISSUER, f"issuers[0].{key}")
    assert fault.line == line_of(text, "http://issuer")
    assert workspace.load(issuers("unsafe_plaintext_issuer: true", **urls))

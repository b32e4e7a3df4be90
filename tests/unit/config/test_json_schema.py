from __future__ import annotations

import json
import re
import subprocess
from typing import TYPE_CHECKING, Any

import pytest

from sidecar.config.json_schema import document, shipped
from sidecar.config.tables import TABLES
from tests.support.configuration import VALID, Workspace, edit
from tests.support.generated import ANEW, REFERENCE, SCHEMA, schema
from tests.support.oauth_server import NODE
from tests.support.schema import complaints

if TYPE_CHECKING:
    from collections.abc import Iterator

TOKENS = """\
tokens:
  - {name: api, kind: oauth2, issuer: "https://issuer.example.org", client_auth: tls_client_auth}
issuers:
  - {name: corp, issuer: "https://issuer.example.org", jwks: "https://issuer.example.org/jwks"}
"""
#: Every example of the reference, whole files and fragments of it that begin with `version`.
EXAMPLES = [text for text in re.findall(r"```yaml\n(.*?)```", REFERENCE.read_text(), re.DOTALL) if "version: 1" in text]


def nodes(value: Any) -> Iterator[dict[str, Any]]:
    """Every mapping in a JSON document."""
    if isinstance(value, dict):
        yield value
    for below in value.values() if isinstance(value, dict) else value if isinstance(value, list) else ():
        yield from nodes(below)


def test_the_shipped_schema_is_what_the_parser_knows() -> None:
    assert SCHEMA.read_text() == schema(), ANEW
    assert shipped() == schema(), ANEW


def test_every_section_and_key_is_in_the_schema() -> None:
    found = document()
    sections = {"top": found, **found["$defs"]}
    assert {table.name for table in TABLES} == set(sections)
    for table in TABLES:
        section = sections[table.name]
        assert section["additionalProperties"] is False
        assert set(section["properties"]) == {key.name for key in table.keys}
        for key in table.keys:
            assert section["properties"][key.name]["description"].startswith(key.doc)


def test_every_key_has_a_form() -> None:
    """A kind that says nothing of its form takes anything: give the Kind a form, a fragment or its Table."""
    found = document()
    for name, section in {"top": found, **found["$defs"]}.items():
        for key, value in section["properties"].items():
            assert set(value) - {"description", "default"}, f"{name}.{key}"
            assert value.get("items", True), f"{name}.{key}"


def test_references_lead_somewhere() -> None:
    found = document()
    for node in nodes(found):
        if "$ref" in node:
            target: Any = found
            for step in node["$ref"].removeprefix("#/").split("/"):
                target = target[step]
            assert target


def test_defaults_are_values_that_their_keys_take() -> None:
    from jsonschema import Draft202012Validator  # here, where it is asked about parts of the schema

    for node in nodes(document()):
        if "default" in node:
            assert Draft202012Validator(node).is_valid(node["default"]), node


def test_what_a_limit_may_be_is_said() -> None:
    limits = document()["$defs"]["limits"]["properties"]
    assert (limits["connections"]["minimum"], limits["connections"]["maximum"]) == (1, 1_000_000)
    assert limits["connections"]["default"] == 4096
    assert limits["head_bytes"]["default"] == "64KiB"
    assert re.search(limits["idle_timeout"]["pattern"], "60s")
    assert not re.search(limits["idle_timeout"]["pattern"], "60 s")


@pytest.mark.parametrize("example", EXAMPLES)
def test_the_examples_of_the_reference_are_fine(example: str) -> None:
    assert complaints(example) == []


def test_every_file_that_loads_is_fine() -> None:
    """`Workspace.load` asks the schema about every file that a test loads; this is that it does."""
    assert complaints(VALID) == complaints(VALID + TOKENS) == []
    assert "complaints" in Workspace.load.__code__.co_names


BAD = {
    "unknown key": VALID + "colour: blue\n",
    "unknown key in an entry": edit("    peer:", "    colour: blue\n    peer:"),
    "unknown key in a rule": edit("        methods:", "        method: GET\n        methods:"),
    "unknown limit": VALID + "  connexions: 1\n",
    "no version": edit("version: 1\n", ""),
    "another version": edit("version: 1\n", "version: 2\n"),
    "no identity": VALID[: VALID.index("identity:")] + VALID[VALID.index("inbound:") :],
    "no key": edit("  key: planner.key\n", ""),
    "no entries": VALID[: VALID.index("inbound:")] + VALID[VALID.index("admin:") :],
    "no trust domain": edit("  trust:\n    example.org: ca.crt\n", "  trust: {}\n"),
    "a trust domain in capitals": edit("example.org: ca.crt", "Example.org: ca.crt"),
    "a list where a section is expected": edit("admin:\n  listen: unix:admin.sock", "admin: [unix:admin.sock]"),
    "a section where a list is expected": edit("methods: [GET, POST]", "methods: {GET: true}"),
    "a value where a list is expected": edit("methods: [GET, POST]", "methods: GET"),
    "a key without a value": edit("methods: [GET, POST]", "methods:"),
    "an empty list of callers": VALID[: VALID.index("    allow:")]
    + "    allow: []\n"
    + VALID[VALID.index("outbound:") :],
    "an empty list of pins": edit('pins: ["sha256:n4bQgYhMfWWaL+qgxVrQFaO/TxsrC4Is0V1sFbDwCgg="]', "pins: []"),
    "a pin that is too short": edit("FbDwCgg=", "FbDw="),
    "the same method twice": edit("[GET, POST]", "[GET, GET]"),
    "a caller that is no SPIFFE ID": edit("spiffe://example.org/agent/planner/*", "planner"),
    "a path that is relative": edit("[/mcp,", "[mcp,"),
    "a name in capitals": edit("name: in\n", "name: In\n"),
    "a number in quotes": edit("connections: 4096", 'connections: "4096"'),
    "a number out of bounds": edit("connections: 4096", "connections: 0"),
    "a duration without a unit": edit("drain_timeout: 30s", "drain_timeout: 30"),
    "a word that is none of the choices": VALID + "log_full: maybe\n",
    "a flag that is text": edit("    peer:", '    unsafe_plaintext_listen: "true"\n    peer:'),
    "administration on TCP": edit("unix:admin.sock", "127.0.0.1:1"),
    "a kind of source that is none": VALID + TOKENS.replace("kind: oauth2", "kind: magic"),
    "a source without a kind": VALID + TOKENS.replace("kind: oauth2, ", ""),
    "a key of another kind of source": VALID + TOKENS.replace("kind: oauth2", "kind: oauth2, command: [x]"),
    "an issuer without keys": VALID + TOKENS.replace(', jwks: "https://issuer.example.org/jwks"', ""),
    "a shared secret for signatures": VALID + TOKENS.replace("name: corp", "name: corp, algorithms: [HS256]"),
    "a rule's token without an audience": edit("        methods:", "        token: {issuer: corp}\n        methods:"),
    "a claim that is a list": edit(
        "        methods:", "        token: {issuer: corp, audience: a, claims: {a: {b: [c]}}}\n        methods:"
    ),
}


@pytest.mark.parametrize("case", BAD)
def test_what_a_schema_can_see_is_found(workspace: Workspace, case: str) -> None:
    assert complaints(BAD[case])
    assert workspace.faults(BAD[case])


@pytest.mark.needs("oauth-server")
def test_patterns_mean_the_same_in_javascript() -> None:
    """Editors read them by ECMA-262, JSON Schema asks for its unicode mode: what matches there matches here."""
    patterns = sorted({node["pattern"] for node in nodes(document()) if isinstance(node.get("pattern"), str)})
    words = ["", "a", "in", "In", "30s", "30 s", "64KiB", "GET", "G T", "é", "spiffe://a/b", "/a", "sha256:x"]
    words += ["unix:x", "https://x", "urn:a:b", "Authorization: Bearer", "at+jwt", "x y", "[]", "\\", '"', "a.org", "]"]
    program = """
        const [patterns, words] = JSON.parse(require("fs").readFileSync(0, "utf8"));
        console.log(JSON.stringify(patterns.map(x => words.map(y => new RegExp(x, "u").test(y)))));
    """
    done = subprocess.run(
        [str(NODE), "-e", program], input=json.dumps([patterns, words]), capture_output=True, text=True, check=True
    )
    ours = [[bool(re.search(pattern, word)) for word in words] for pattern in patterns]
    assert json.loads(done.stdout) == ours

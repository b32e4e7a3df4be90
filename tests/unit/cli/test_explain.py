from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pytest

from sidecar.cli import main
from sidecar.config.effective import policy_version
from tests.support.configuration import OTHER_PIN, PIN, VALID, edit

if TYPE_CHECKING:
    from pathlib import Path

PLANNER = "spiffe://example.org/agent/planner/1"
MORE = f"""\
      - caller: spiffe://example.org/agent/admin/1
        name: admin
        token: {{issuer: self-signed, audience: "https://tools.example.org", scopes: [b, a]}}
  - name: database
    listen: 127.0.0.1:8444
    forward: tcp://127.0.0.1:5432
    allow:
      - caller: {PLANNER}
        pins: ["{PIN}"]
outbound:
"""


@pytest.fixture
def file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A configuration alone: none of the files that it names is there."""
    path = tmp_path / "tools.yaml"
    path.write_text(edit("outbound:\n", MORE))
    monkeypatch.chdir(tmp_path)
    return path


@pytest.fixture
def said(file: Path, capsys: pytest.CaptureFixture[str]) -> Any:
    """Runs the command, which has to end with that code; gives what it printed."""

    def run(code: int, *arguments: str, caller: str = PLANNER) -> str:
        assert main(["explain", "tools.yaml", "--caller", caller, *arguments]) == code
        out, err = capsys.readouterr()
        assert (err == "") is (code < 2), err
        return out or err

    return run


def test_a_permit_names_the_rule_and_its_line(said: Any) -> None:
    assert said(0, "--pin", PIN, "--path", "/mcp?x=1", "--entry", "in").splitlines() == [
        f"tools.yaml: {PLANNER}, key {PIN}",
        "  in: GET /mcp: allow, by inbound.in.allow[0] (tools.yaml:12)",
    ]


def test_a_denial_compares_the_nearest_rule(said: Any) -> None:
    assert said(1, "--pin", PIN, "--method", "PUT", "--path", "/admin", "--entry", "in").splitlines()[1:] == [
        "  in: PUT /admin: deny (403), path_not_allowed: no rule that names this caller and key allows the path",
        "    nearest: inbound.in.allow[0] (tools.yaml:12)",
        "      caller  spiffe://example.org/agent/planner/*: holds",
        f"      pin     {PIN}: holds",
        "      path    /mcp /tools/**: missing, the path is /admin",
        "      method  GET POST: missing, it is PUT",
        "      token   none: holds",
    ]


def test_all_entries_are_asked_and_one_that_allows_is_enough(said: Any) -> None:
    lines = said(0, "--pin", PIN).splitlines()
    assert lines[1].startswith("  in: GET /: deny (403), path_not_allowed")
    assert lines[-1] == "  database: a connection: allow, by inbound.database.allow[0] (tools.yaml:23)"


def test_without_a_pin_no_rule_with_pins_matches_and_it_says_so(said: Any) -> None:
    assert f"pin     {PIN}: missing, the key is not told: --pin" in said(1, "--path", "/mcp")
    assert f"pin     {PIN}: missing, the key has {OTHER_PIN}" in said(1, "--path", "/mcp", "--pin", OTHER_PIN)


def test_a_token_is_not_looked_at_but_can_be_supposed(said: Any) -> None:
    admin = "spiffe://example.org/agent/admin/1"
    denied = said(1, "--entry", "in", caller=admin)
    assert "in: GET /: deny (401), token_missing: all that is missing is a token" in denied
    assert "token   one of self-signed with a b: missing, and not looked at here: --with-token" in denied
    allowed = said(0, "--entry", "in", "--with-token", caller=admin)
    assert allowed.splitlines()[1:] == [
        "  in: GET /: allow, by admin (tools.yaml:16)",
        "  note: a token was only supposed: the proxy checks each",
    ]


def test_a_caller_of_a_domain_without_a_bundle_never_reaches_a_rule(said: Any) -> None:
    shown = said(1, caller="spiffe://example.net/agent/a/1")
    assert "caller_not_named: no rule names this caller" in shown
    assert shown.endswith(
        "note: identity.trust names no bundle for example.net: its certificates are refused before any rule is looked at\n"
    )


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (
            ("--path", "/a/../b"),
            "(400), path_dot_segment: the path holds a dot segment, which servers read differently",
        ),
        (("--method", "TRACE"), "(405), method_refused: CONNECT and TRACE are refused whatever the rules say"),
    ],
)
def test_what_no_rule_could_allow_is_near_to_none(said: Any, arguments: tuple[str, ...], expected: str) -> None:
    shown = said(1, "--pin", PIN, "--entry", "in", *arguments)
    assert expected in shown
    assert "nearest" not in shown


def test_json_says_the_same(said: Any, file: Path) -> None:
    from sidecar.cli.configuration import read_configuration

    found = json.loads(said(0, "--pin", PIN, "--path", "/mcp", "--method", "PUT", "--json"))
    rule = {"rule": "inbound.in.allow[0]", "line": 12}
    holds = {
        "caller": "spiffe://example.org/agent/planner/*",
        "pin": PIN,
        "path": "/mcp /tools/**",
        "method": "GET POST",
        "token": "none",
    }
    assert found == {
        "allowed": True,
        "caller": PLANNER,
        "pin": PIN,
        "policy_version": policy_version(read_configuration(file).config),
        "entries": [
            {
                "entry": "in",
                "asked": "PUT /mcp",
                "verdict": "deny",
                "reason": "method_not_allowed",
                "says": "the path is allowed, with other methods",
                "status": 403,
                "nearest": rule
                | {
                    "conditions": [
                        {"condition": name, "wanted": wanted, "holds": name != "method"}
                        for name, wanted in holds.items()
                    ]
                },
            },
            {
                "entry": "database",
                "asked": "a connection",
                "verdict": "allow",
                "rule": "inbound.database.allow[0]",
                "line": 23,
            },
        ],
        "notes": [],
    }


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (("--path", "mcp"), '"GET mcp" is no request that any rule sees: the request target is neither a path nor'),
        (("--path", "http://x/"), '"GET http://x/" is no request that any rule sees: write the path alone'),
        (("--path", "/\x1b"), '"GET /\\x1b" is no request that any rule sees: the request target has a character'),
        (("--path", "*"), "only OPTIONS takes the target *"),
        (("--entry", "x"), 'tools.yaml has no inbound entry "x"\n    there are: in, database\n'),
        (("--pin", "x"), "a pin starts with sha256:"),
        (("--method", "G T"), "'G T' is not a method"),
        (("--caller", "spiffe://example.org"), "this names a trust domain, and no caller in it"),
        (("--caller", "planner"), "argument --caller: "),
    ],
)
def test_a_question_that_cannot_be_asked_is_the_command_lines(
    said: Any, arguments: tuple[str, ...], expected: str
) -> None:
    assert expected in said(2, *arguments)


def test_a_file_without_inbound_entries_says_so(said: Any, file: Path) -> None:
    file.write_text(VALID[: VALID.index("inbound:")] + VALID[VALID.index("outbound:") :])
    assert "has no inbound entry\n    --url asks about outbound ones" in said(2)


def test_a_broken_file_names_its_faults(said: Any, file: Path) -> None:
    file.write_text(VALID.replace("GET, POST", "get"))
    assert "tools.yaml:14: inbound[0].allow[0].methods[0]" in said(2)

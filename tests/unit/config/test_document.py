from __future__ import annotations

import json
from pathlib import Path

import pytest
import yaml

from sidecar.config.document import parse
from sidecar.config.faults import ConfigCode, Fault, Faults
from sidecar.config.values import UnixAddress
from sidecar.identity.peer import Role
from tests.support.configuration import VALID, edit, line_of

FILE = Path("/etc/sidecar/planner.yaml")
INBOUND = VALID[VALID.index("  - name: in") : VALID.index("outbound:")]
OUTBOUND = VALID[VALID.index("  - name: out") : VALID.index("admin:")]


def faults(text: str, **environ: str) -> list[Fault]:
    found = Faults(FILE)
    parsed = parse(text.encode(), FILE, environ, found)
    assert (parsed.config is None) == bool(found.found)
    return found.found


def fault(text: str, **environ: str) -> Fault:
    found = faults(text, **environ)
    assert len(found) == 1, "\n".join(map(str, found))
    return found[0]


def second(entry: str, *edits: tuple[str, str]) -> str:
    """The file with a copy of an entry behind it, edited."""
    copy = entry
    for old, new in edits:
        copy = edit(old, new, copy)
    return edit(entry, entry + copy)


def line_with(text: str, begin: str) -> str:
    (found,) = [line for line in text.splitlines() if line.startswith(begin)]
    return found


def test_no_other_file_is_opened() -> None:
    assert faults(VALID) == []


def test_the_two_roles_of_a_certificate() -> None:
    both = parse(VALID.encode(), FILE, {}, Faults(FILE))
    assert both.roles == (Role.SERVER, Role.CLIENT)
    one = parse(edit("inbound:\n" + INBOUND, "").encode(), FILE, {}, Faults(FILE))
    assert one.roles == (Role.CLIENT,)


@pytest.mark.parametrize("text", ["hello", "[a, b]", "12", "- version: 1"])
def test_a_file_that_is_no_mapping(text: str) -> None:
    found = fault(text)
    assert (found.code, found.line, found.message) == (ConfigCode.WRONG_TYPE, 1, "the file is not a mapping of keys")


def test_another_version_is_the_one_fault() -> None:
    found = fault("version: 2\nlisteners: []\nidentity: none\n")
    assert (found.code, found.line, found.key, found.message) == (
        ConfigCode.BAD_VERSION,
        1,
        "version",
        '"2" is not a version of this format',
    )


def test_a_missing_version_is_one_of_the_faults() -> None:
    found = fault(edit("version: 1\n", ""))
    assert (found.code, found.key) == (ConfigCode.MISSING_KEY, "version")
    assert {each.key for each in faults("foo: 1\n")} == {"version", "identity", "foo", ""}


def test_neither_inbound_nor_outbound() -> None:
    found = fault(edit("inbound:\n" + INBOUND, "", edit("outbound:\n" + OUTBOUND, "")))
    assert (found.code, found.message) == (
        ConfigCode.NO_ENTRY,
        "the file has neither an inbound nor an outbound entry",
    )


@pytest.mark.parametrize(
    ("entry", "edits", "key", "message"),
    [
        (INBOUND, [("8443", "8444")], "inbound[1].name", "another inbound entry has this name, on line {line}"),
        (OUTBOUND, [("14001", "14002")], "outbound[1].name", "another outbound entry has this name, on line {line}"),
    ],
)
def test_names_are_unique_per_direction(entry: str, edits: list[tuple[str, str]], key: str, message: str) -> None:
    found = fault(second(entry, *edits))
    line = line_of(VALID, entry.split("\n", maxsplit=1)[0])
    assert (found.code, found.key) == (ConfigCode.DUPLICATE_NAME, key)
    assert found.message == message.format(line=line)


def test_names_are_unique_in_a_file_of_one_line_too() -> None:
    """JSON that a program wrote: two entries of one name would be one, and the agent reach the wrong peer."""
    config = yaml.safe_load(VALID) | {"tokens": [{"name": "t", "kind": "file", "path": "token"}]}
    config |= {key: config[key] * 2 for key in ("inbound", "outbound", "tokens")}
    found = {each.key for each in faults(json.dumps(config)) if each.code is ConfigCode.DUPLICATE_NAME}
    assert found == {"inbound[1].name", "outbound[1].name", "tokens[1].name"}


def test_the_same_name_in_both_directions_is_fine() -> None:
    assert faults(edit("name: out", "name: in")) == []


def test_rule_names_are_unique_in_the_file() -> None:
    caller = "      - caller: spiffe://example.org/agent/planner/*\n"
    rules = f"{caller}        name: r\n      - caller: spiffe://example.org/agent/b\n        name: r\n"
    found = fault(edit(caller, rules))
    assert (found.code, found.key) == (ConfigCode.DUPLICATE_NAME, "inbound[0].allow[1].name")
    assert found.message == "another rule has this name, on line 13"


@pytest.mark.parametrize(
    ("text", "key", "message"),
    [
        (
            edit("127.0.0.1:14001", "127.0.0.1:8443"),
            "outbound[0].listen",
            "inbound[0].listen on line 9 listens on 127.0.0.1:8443 already",
        ),
        (
            edit("127.0.0.1:14021", "127.0.0.1:8443"),
            "health.listen",
            "inbound[0].listen on line 9 listens on 127.0.0.1:8443 already",
        ),
        (
            edit("127.0.0.1:14021", "0.0.0.0:8443"),
            "health.listen",
            "inbound[0].listen on line 9 listens on 127.0.0.1:8443 already",
        ),
        (
            edit("127.0.0.1:14021", "localhost:14001"),
            "health.listen",
            "outbound[0].listen on line 18 listens on 127.0.0.1:14001 already",
        ),
        (
            edit("127.0.0.1:14021", '"[::ffff:127.0.0.1]:14001"'),
            "health.listen",
            "outbound[0].listen on line 18 listens on 127.0.0.1:14001 already",
        ),
        (
            second(INBOUND, ("name: in", "name: in2"), ("8080", "8081")),
            "inbound[1].listen",
            "inbound[0].listen on line 9 listens on 127.0.0.1:8443 already",
        ),
    ],
)
def test_one_listener_per_address(text: str, key: str, message: str) -> None:
    found = fault(text)
    assert (found.code, found.key, found.message) == (ConfigCode.DUPLICATE_LISTEN, key, message)


@pytest.mark.parametrize("address", ["127.0.0.2:8443", '"[::1]:8443"', '"[::]:8443"', "127.0.0.1:8444"])
def test_listeners_that_do_not_meet(address: str) -> None:
    assert faults(edit("127.0.0.1:14021", address)) == []


@pytest.mark.parametrize(
    ("target", "text", "listener"),
    [
        ("127.0.0.1:14001", VALID, "outbound[0].listen"),
        ("localhost:14001", VALID, "outbound[0].listen"),
        ("127.0.0.1:8443", VALID, "inbound[0].listen"),
        ("127.0.0.1:14021", VALID, "health.listen"),
        ("127.0.0.9:14021", edit("127.0.0.1:14021", "0.0.0.0:14021"), "health.listen"),
        ("localhost:14021", edit("127.0.0.1:14021", "0.0.0.0:14021"), "health.listen"),
    ],
)
def test_nothing_is_forwarded_to_our_own_listeners(target: str, text: str, listener: str) -> None:
    """Through an outbound listener a caller would speak with our identity."""
    found = fault(edit("http://127.0.0.1:8080", f"http://{target}", text))
    assert (found.code, found.key) == (ConfigCode.FORWARD_TO_SELF, "inbound[0].forward")
    assert found.message.startswith(f"{target} is this sidecar's own {listener} (line ")


@pytest.mark.parametrize("target", ["127.0.0.1:14001", "localhost:14001"])
def test_no_entry_leads_to_its_own_listener(target: str) -> None:
    """Each connection would make another one."""
    connect = line_with(VALID, "    connect: ")
    found = fault(VALID.replace(connect, f"    connect: {target}"))
    assert (found.code, found.key) == (ConfigCode.FORWARD_TO_SELF, "outbound[0].connect")
    assert found.message == f"{target} is where this entry itself listens"
    assert faults(VALID.replace(connect, "    connect: 127.0.0.1:14099")) == []


@pytest.mark.parametrize("target", ["127.0.0.2:14001", "[::1]:14001", "127.0.0.1:14002"])
def test_forwards_to_other_addresses(target: str) -> None:
    assert faults(edit("http://127.0.0.1:8080", f"http://{target}")) == []


@pytest.mark.parametrize(
    ("old", "key"),
    [
        ("spiffe://example.org/agent/planner/*", "inbound[0].allow[0].caller"),
        ("spiffe://example.org/agent/tools/*", "outbound[0].peer"),
    ],
)
def test_names_of_a_trust_domain_without_a_bundle(old: str, key: str) -> None:
    found = fault(edit(old, "spiffe://other.org/agent/x"))
    assert (found.code, found.key) == (ConfigCode.UNKNOWN_TRUST_DOMAIN, key)
    assert found.message == "identity.trust names no bundle for the trust domain other.org"
    assert found.hint == "add it below identity.trust, other.org: PATH, or correct the name"


def test_a_broken_trust_does_not_make_every_name_a_fault() -> None:
    assert {each.key for each in faults(edit("example.org: ca.crt", "Example.org: ca.crt"))} == {
        "identity.trust.Example.org"
    }


def test_faults_across_sections_show_beside_faults_within_them() -> None:
    """Every fault at once: a bad name in an entry does not hide that its port is taken."""
    text = edit("127.0.0.1:14001", "127.0.0.1:8443", edit("name: out", "name: OUT"))
    assert {each.code for each in faults(text)} == {ConfigCode.BAD_NAME, ConfigCode.DUPLICATE_LISTEN}


@pytest.mark.parametrize(
    ("environ", "path"),
    [
        ({"XDG_RUNTIME_DIR": "/run/user/1000"}, "/run/user/1000/sidecar/planner.sock"),
        ({"XDG_RUNTIME_DIR": "relative"}, "/run/sidecar/planner.sock"),
        ({"XDG_RUNTIME_DIR": ""}, "/run/sidecar/planner.sock"),
        ({}, "/run/sidecar/planner.sock"),
    ],
)
def test_the_default_of_the_administration_socket(environ: dict[str, str], path: str) -> None:
    for text in (edit("admin:\n  listen: unix:admin.sock\n", ""), edit("listen: unix:admin.sock", "uids: [7]")):
        parsed = parse(text.encode(), FILE, environ, Faults(FILE))
        assert parsed.config is not None
        assert parsed.config.admin.listen == UnixAddress(path)


def test_a_default_socket_whose_path_is_too_long() -> None:
    found = fault(edit("admin:\n  listen: unix:admin.sock\n", ""), XDG_RUNTIME_DIR="/" + "x" * 100)
    assert (found.code, found.key, found.line) == (ConfigCode.SOCKET_PATH_TOO_LONG, "admin.listen", 0)

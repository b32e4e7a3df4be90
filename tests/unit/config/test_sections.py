from __future__ import annotations

from pathlib import Path

import pytest

from sidecar.config.faults import ConfigCode
from sidecar.config.tables import TABLES
from sidecar.config.values import (
    Admin,
    Forward,
    Health,
    Identity,
    Inbound,
    LogFull,
    Outbound,
    TcpAddress,
    UnixAddress,
)
from sidecar.identity.pattern import IdPattern
from sidecar.identity.pins import Pin
from sidecar.identity.spiffe import SpiffeIdCode, TrustDomain
from sidecar.keys.errors import KeyCode
from sidecar.keys.spec import KeyFile
from sidecar.policy.paths import PathPattern
from sidecar.policy.rules import Rule
from tests.support.configuration import OTHER_PIN, PIN, VALID, Workspace, edit, line_of


def test_a_whole_file(workspace: Workspace) -> None:
    config = workspace.load().config
    folder = workspace.folder
    assert config.source == folder / "planner.yaml"
    assert config.version == 1
    assert config.identity == Identity(
        folder / "planner.crt", KeyFile(folder / "planner.key"), {TrustDomain("example.org"): folder / "ca.crt"}
    )
    assert config.inbound == (
        Inbound(
            "in",
            TcpAddress("127.0.0.1", 8443),
            Forward(TcpAddress("127.0.0.1", 8080)),
            (
                Rule(
                    "inbound.in.allow[0]",
                    IdPattern.parse("spiffe://example.org/agent/planner/*"),
                    frozenset({Pin.parse(PIN)}),
                    frozenset({b"GET", b"POST"}),
                    (PathPattern.parse("/mcp"), PathPattern.parse("/tools/**")),
                ),
            ),
        ),
    )
    assert config.outbound == (
        Outbound(
            name="out",
            listen=TcpAddress("127.0.0.1", 14001),
            connect=TcpAddress("tools.example.org", 8443),
            peer=IdPattern.parse("spiffe://example.org/agent/tools/*"),
            hosts=frozenset({b"tools.internal"}),
            server_name="tools.example.org",
        ),
    )
    assert config.admin == Admin(UnixAddress(str(folder / "admin.sock")))
    assert config.health == Health(TcpAddress("127.0.0.1", 14021))
    assert (config.access_log, config.log_full, config.drain_timeout) == (None, LogFull.DROP, 30.0)


def test_the_optional_keys(workspace: Workspace) -> None:
    text = edit("    peer:", f"    pins: ['{PIN}', '{OTHER_PIN}']\n    peer:")
    text = edit(
        "    peer:",
        "    server_name: a.example\n    host: B.example:80\n    origins: ['https://c.example']\n    peer:",
        text,
    )
    text = edit("health:\n  listen: 127.0.0.1:14021\n", "access_log: log/access.json\nlog_full: deny\n", text)
    text = edit("drain_timeout: 30s", "drain_timeout: 1m", text)
    text = edit("unix:admin.sock", "unix:admin.sock\n  uids: [1000, 0]", text)
    config = workspace.load(text).config
    entry = config.outbound[0]
    assert entry.pins == {Pin.parse(PIN), Pin.parse(OTHER_PIN)}
    assert (entry.server_name, entry.host, entry.origins) == ("a.example", b"b.example:80", {b"https://c.example"})
    assert (config.health, config.access_log) == (None, workspace.folder / "log/access.json")
    assert (config.log_full, config.drain_timeout, config.admin.uids) == (LogFull.DENY, 60.0, {0, 1000})


# What is wrong: (the variant of the file, code, key path, message)
BAD = {
    # identity
    "a pasted certificate": (
        edit("certificate: planner.crt", 'certificate: "-----BEGIN CERTIFICATE----- MIIB"'),
        ConfigCode.BAD_PATH,
        "identity.certificate",
        "PEM text stands where the path of a file is expected",
    ),
    "a key of no kind": (
        edit("planner.key", "vault:secret/x"),
        KeyCode.UNKNOWN_KIND,
        "identity.key",
        "vault: is not a kind of key",
    ),
    "no trust domain": (
        edit("    example.org: ca.crt\n", ""),
        ConfigCode.MISSING_KEY,
        "identity.trust",
        "no trust domain is named",
    ),
    "an empty trust": (
        edit("\n    example.org: ca.crt\n", " {}\n"),
        ConfigCode.MISSING_KEY,
        "identity.trust",
        "no trust domain is named",
    ),
    "a trust domain with a scheme": (
        edit("    example.org: ca.crt\n", "    example.org: ca.crt\n    spiffe://b.org: ca.crt\n"),
        SpiffeIdCode.PORT,
        "identity.trust.spiffe://b.org",
        "a trust domain name has only the characters a-z 0-9 . - _, this is 'spiffe://b.org'",
    ),
    # operators
    "admin on TCP": (
        edit("unix:admin.sock", "127.0.0.1:14020"),
        ConfigCode.ADMIN_ON_TCP,
        "admin.listen",
        '"127.0.0.1:14020" is not a UNIX socket, and administration is on nothing else',
    ),
    "a negative uid": (
        edit("unix:admin.sock", "unix:admin.sock\n  uids: [-1]"),
        ConfigCode.BAD_NUMBER,
        "admin.uids[0]",
        '"-1" is not a whole number',
    ),
    "the log on stderr": (
        edit("drain_timeout: 30s", "access_log: stderr"),
        ConfigCode.BAD_PATH,
        "access_log",
        "the access log cannot go to stderr, where the proxy's own messages go",
    ),
    "another answer to a full log": (
        edit("drain_timeout: 30s", "log_full: block"),
        ConfigCode.BAD_CHOICE,
        "log_full",
        '"block" is not one of the choices',
    ),
    "a time without a unit": (
        edit("drain_timeout: 30s", "drain_timeout: 30"),
        ConfigCode.BAD_DURATION,
        "drain_timeout",
        '"30" is not a duration',
    ),
}


@pytest.mark.parametrize("case", BAD)
def test_a_fault_is_named_with_its_place(workspace: Workspace, case: str) -> None:
    text, code, key, message = BAD[case]
    fault = workspace.fault(text)
    assert (fault.code, fault.key, fault.message) == (code, key, message)
    assert fault.hint
    assert 0 < fault.line <= text.count("\n")


@pytest.mark.parametrize(("case", "piece"), [("a time without a unit", "drain_timeout"), ("a key of no kind", "key:")])
def test_a_fault_has_the_line_of_its_key(workspace: Workspace, case: str, piece: str) -> None:
    text = BAD[case][0]
    assert workspace.fault(text).line == line_of(text, piece)


def test_empty_sections_of_entries_are_fine_beside_full_ones(workspace: Workspace) -> None:
    inbound = VALID[VALID.index("inbound:") : VALID.index("outbound:")]
    assert workspace.load(edit(inbound, "inbound: []\n")).config.inbound == ()


def test_every_key_has_a_kind_and_a_meaning() -> None:
    for table in TABLES:
        assert len({key.name for key in table.keys}) == len(table.keys)
        for key in table.keys:
            assert key.kind.says
            assert key.doc.endswith(".")


def test_the_access_log_is_a_path_from_the_folder_of_the_file(workspace: Workspace) -> None:
    config = workspace.load(edit("drain_timeout: 30s", "access_log: /var/log/a.json")).config
    assert config.access_log == Path("/var/log/a.json")

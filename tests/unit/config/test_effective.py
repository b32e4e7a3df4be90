from __future__ import annotations

import json

import pytest

from sidecar.config.effective import canonical, effective, policy, policy_version
from tests.support.configuration import OTHER_PIN, PIN, VALID, Workspace, edit


def test_everything_is_there_with_its_defaults(workspace: Workspace) -> None:
    shown = effective(workspace.load().config)
    folder = workspace.folder
    assert json.loads(json.dumps(shown)) == shown
    assert shown["identity"] == {
        "certificate": f"{folder}/planner.crt",
        "key": f"{folder}/planner.key",
        "trust": {"example.org": f"{folder}/ca.crt"},
    }
    assert shown["inbound"] == [
        {
            "name": "in",
            "listen": "127.0.0.1:8443",
            "forward": "http://127.0.0.1:8080",
            "proxy_protocol": None,
            "allow": [
                {
                    "id": "inbound.in.allow[0]",
                    "caller": "spiffe://example.org/agent/planner/*",
                    "pins": [PIN],
                    "methods": ["GET", "POST"],
                    "paths": ["/mcp", "/tools/**"],
                    "token": None,
                }
            ],
            "resumption": "allow",
        }
    ]
    assert shown["outbound"] == [
        {
            "name": "out",
            "listen": "127.0.0.1:14001",
            "uids": [],
            "hosts": ["tools.internal"],
            "connect": "tools.example.org:8443",
            "tls": "mutual",
            "peer": "spiffe://example.org/agent/tools/*",
            "pins": [],
            "methods": [],
            "paths": [],
            "protocol": "http",
            "server_name": "tools.example.org",
            "host": None,
            "origins": [],
            "resumption": "allow",
            "passthrough": False,
            "unsafe_private_addresses": False,
            "token": None,
            "token_header": None,
        }
    ]
    assert (shown["tokens"], shown["issuers"]) == ([], [])
    assert shown["resumption"] == "allow"
    assert shown["admin"] == {"listen": f"unix:{folder}/admin.sock", "uids": []}
    assert shown["health"] == {"listen": "127.0.0.1:14021"}
    assert (shown["access_log"], shown["log_full"], shown["drain_timeout"]) == ("stdout", "drop", "30s")
    assert shown["limits"]["head_bytes"] == "64KiB"
    assert shown["limits"]["min_rate"] == "240B"
    assert shown["limits"]["idle_timeout"] == "1m"
    assert shown["limits"]["connections"] == 4096


def test_resumption_of_the_file_holds_for_entries_that_say_nothing(workspace: Workspace) -> None:
    config = workspace.load(
        edit("    hosts:", "    resumption: allow\n    hosts:", VALID + "resumption: never\n")
    ).config
    shown = effective(config)
    assert shown["resumption"] == shown["inbound"][0]["resumption"] == "never"
    assert shown["outbound"][0]["resumption"] == "allow"


def test_a_key_in_a_device_is_shown_by_its_place_and_never_with_a_pin(workspace: Workspace) -> None:
    (workspace.folder / "pin").write_text("1234")
    (workspace.folder / "pin").chmod(0o600)
    (workspace.folder / "module.so").write_text("")
    key = "pkcs11:token=t;object=k?module-path=module.so&pin-source=file:pin"
    shown = effective(workspace.load(edit("planner.key", f'"{key}"')).config)
    folder = workspace.folder
    assert shown["identity"]["key"] == (
        f"pkcs11:token=t;object=k;type=private?module-path={folder}/module.so&pin-source=file:{folder}/pin"
    )
    assert "1234" not in json.dumps(shown)


def test_what_is_not_set_is_shown_so(workspace: Workspace) -> None:
    text = edit("health:\n  listen: 127.0.0.1:14021\n", "access_log: a.json\n")
    shown = effective(workspace.load(edit("    peer:", "    host: a.b\n    peer:", text)).config)
    assert shown["health"] is None
    assert shown["access_log"] == f"{workspace.folder}/a.json"
    assert shown["outbound"][0]["host"] == "a.b"


def test_a_rule_for_requests_and_the_same_rule_for_bytes_are_two_policies(workspace: Workspace) -> None:
    rule = edit("        methods: [GET, POST]\n        paths: [/mcp, /tools/**]\n", "")
    requests = workspace.load(rule).config
    connections = workspace.load(edit("http://127.0.0.1:8080", "tcp://127.0.0.1:8080", rule)).config
    assert policy_version(requests) != policy_version(connections)
    assert effective(connections)["inbound"][0]["forward"] == "tcp://127.0.0.1:8080"


def test_tunnels_are_shown(workspace: Workspace) -> None:
    text = edit("    hosts: [tools.internal]\n", "    protocol: tcp\n")
    shown = effective(workspace.load(text).config)
    assert shown["outbound"][0]["protocol"] == "tcp"
    assert (shown["limits"]["tunnel_idle_timeout"], shown["limits"]["tunnel_lifetime"]) == ("1h", "24h")


def test_the_policy_version_is_sixteen_hexadecimal_digits(workspace: Workspace) -> None:
    version = policy_version(workspace.load().config)
    assert len(version) == 16
    assert int(version, 16) >= 0


@pytest.mark.parametrize(
    "text",
    [
        VALID.replace("[GET, POST]", "[POST, GET]"),
        VALID.replace("[/mcp, /tools/**]", "\n          - /tools/**\n          - /mcp"),
        "# a comment\n" + VALID,
        edit("http://127.0.0.1:8080", "http://127.0.0.1:8081"),
        edit("tools.example.org:8443", "tools.example.org:8444"),
        edit("drain_timeout: 30s", "drain_timeout: 31s"),
        edit("[tools.internal]", "[Tools.Internal]"),
    ],
)
def test_what_decides_nothing_leaves_the_policy_version(workspace: Workspace, text: str) -> None:
    before = policy_version(workspace.load().config)
    assert policy_version(workspace.load(text).config) == before


@pytest.mark.parametrize(
    "text",
    [
        edit("[GET, POST]", "[GET]"),
        edit("[/mcp, /tools/**]", "[/mcp]"),
        edit("agent/planner/*", "agent/planner/**"),
        edit(f'["{PIN}"]', f'["{OTHER_PIN}"]'),
        edit("[tools.internal]", "[tools.internal, b]"),
        edit("    peer:", f"    pins: ['{PIN}']\n    peer:"),
        edit("    peer:", "    origins: ['https://a.b']\n    peer:"),
        edit("agent/tools/*", "agent/tools/1"),
        edit("127.0.0.1:14001", "127.0.0.1:14002"),
        edit("name: in", "name: in2"),
        edit("    peer:", "    uids: [1000]\n    peer:"),
        edit("127.0.0.1:14001", "unix:out.sock"),
        edit("    hosts: [tools.internal]\n", "    protocol: tcp\n"),
    ],
)
def test_what_decides_changes_the_policy_version(workspace: Workspace, text: str) -> None:
    before = policy_version(workspace.load().config)
    assert policy_version(workspace.load(text).config) != before


def test_the_order_of_entries_means_nothing(workspace: Workspace) -> None:
    inbound = VALID[VALID.index("  - name: in") : VALID.index("outbound:")]
    other = inbound.replace("name: in", "name: on").replace("8443", "8444")
    one = workspace.load(edit(inbound, inbound + other)).config
    two = workspace.load(edit(inbound, other + inbound)).config
    assert policy_version(one) == policy_version(two)


def test_canonical_json_is_sorted_ascii_without_blanks() -> None:
    assert canonical({"b": [1, "ä"], "a": {"d": None, "c": True}}) == b'{"a":{"c":true,"d":null},"b":[1,"\\u00e4"]}'


def test_the_policy_holds_rules_by_their_id(workspace: Workspace) -> None:
    assert set(policy(workspace.load().config)["inbound"]["in"]) == {"inbound.in.allow[0]"}

"""Outbound entries for ordinary HTTPS services: what they say, and what is a fault beside them."""

from __future__ import annotations

import pytest

from sidecar.config.effective import effective, policy, policy_version
from sidecar.config.faults import ConfigCode
from sidecar.config.values import Tls
from tests.support.configuration import PIN, VALID, Workspace, edit

BEFORE = VALID[VALID.index("    hosts: [tools") : VALID.index("admin:")]
ENTRY = "    connect: api.llm.example:443\n    tls: public\n"
PUBLIC = edit(BEFORE, ENTRY)
PASSTHROUGH = edit(BEFORE, ENTRY + "    passthrough: true\n")
TOKENS = """\
tokens:
  - {name: bound, kind: oauth2, issuer: "https://i.example", client_auth: tls_client_auth}
  - {name: free, kind: oauth2, issuer: "https://i.example", client_auth: tls_client_auth, bound: false}
  - {name: self, kind: self-signed, audience: "https://s.example"}
  - {name: key, kind: file, path: key}
"""


def with_keys(*lines: str, base: str = PUBLIC) -> str:
    return edit("    tls: public\n", "    tls: public\n" + "".join(f"    {line}\n" for line in lines), base)


def test_a_service_is_called_by_its_own_name(workspace: Workspace) -> None:
    (entry,) = workspace.load(PUBLIC).config.outbound
    assert (entry.tls, entry.peer, entry.passthrough, entry.unsafe_private_addresses) == (
        Tls.PUBLIC,
        None,
        False,
        False,
    )
    assert (entry.server_name, entry.host, entry.hosts) == ("api.llm.example", b"api.llm.example", {b"api.llm.example"})


@pytest.mark.parametrize(
    ("lines", "connect", "host", "server_name"),
    [
        ((), "api.llm.example:8443", b"api.llm.example:8443", "api.llm.example"),
        ((), "1.1.1.1:443", b"1.1.1.1", None),
        ((), '"[2606:4700::1111]:8443"', b"[2606:4700::1111]:8443", None),
        (("server_name: api.llm.example",), "1.1.1.1:443", b"api.llm.example", "api.llm.example"),
        (("server_name: api.llm.example",), "lb.example:444", b"api.llm.example:444", "api.llm.example"),
        (("host: other.example",), "api.llm.example:443", b"other.example", "api.llm.example"),
    ],
)
def test_the_name_follows_what_is_verified(
    workspace: Workspace, lines: tuple[str, ...], connect: str, host: bytes, server_name: str | None
) -> None:
    (entry,) = workspace.load(edit("api.llm.example:443", connect, with_keys(*lines))).config.outbound
    assert (entry.host, entry.server_name) == (host, server_name)
    assert entry.hosts == {host} or "host:" in "".join(lines)


def test_hosts_that_are_named_are_all_that_it_is_called(workspace: Workspace) -> None:
    (entry,) = workspace.load(with_keys("hosts: [llm]")).config.outbound
    assert (entry.hosts, entry.host) == ({b"llm"}, b"api.llm.example")


def test_what_may_be_asked_for_is_for_every_entry_with_requests(workspace: Workspace) -> None:
    lines = "    methods: [GET]\n    paths: [/v1/**]\n"
    for text in (edit("    peer:", lines + "    peer:"), with_keys("methods: [GET]", "paths: [/v1/**]")):
        (entry,) = workspace.load(text).config.outbound
        assert (entry.methods, [str(path) for path in entry.paths]) == ({b"GET"}, ["/v1/**"])


def test_without_peers_and_callers_no_trust_is_needed(workspace: Workspace) -> None:
    trust = "  trust:\n    example.org: ca.crt\n"
    inbound = VALID[VALID.index("inbound:") : VALID.index("outbound:")]
    loaded = workspace.load(edit(trust, "", edit(inbound, "", PUBLIC)))
    assert (dict(loaded.config.identity.trust), dict(loaded.material.bundles)) == ({}, {})
    fault = workspace.fault(edit(trust, "", PUBLIC))
    assert (fault.code, fault.key) == (ConfigCode.MISSING_KEY, "identity.trust")


FOR_PUBLIC = {
    "peer": with_keys("peer: spiffe://example.org/agent/tools/1"),
    "resumption": with_keys("resumption: never"),
    "protocol": with_keys("protocol: tcp"),
}


@pytest.mark.parametrize("key", FOR_PUBLIC)
def test_what_is_about_peers_is_a_fault(workspace: Workspace, key: str) -> None:
    fault = workspace.fault(FOR_PUBLIC[key])
    assert (fault.code, fault.key) == (ConfigCode.NOT_FOR_PUBLIC, f"outbound[0].{key}")
    assert fault.hint


@pytest.mark.parametrize("line", ["passthrough: true", "unsafe_private_addresses: false"])
def test_what_is_about_services_is_a_fault_at_a_peer(workspace: Workspace, line: str) -> None:
    fault = workspace.fault(edit("    peer:", f"    {line}\n    peer:"))
    assert (fault.code, fault.key) == (ConfigCode.ONLY_FOR_PUBLIC, f"outbound[0].{line.partition(':')[0]}")


@pytest.mark.parametrize("line", ["methods: [GET]", "paths: [/a]"])
def test_requests_are_nothing_to_bytes(workspace: Workspace, line: str) -> None:
    text = edit("    hosts: [tools.internal]\n", f"    protocol: tcp\n    {line}\n")
    assert workspace.fault(text).code is ConfigCode.NOT_FOR_TCP


@pytest.mark.parametrize(
    "line",
    [
        f'pins: ["{PIN}"]',
        "server_name: api.llm.example",
        "host: api.llm.example",
        "origins: [http://ui.internal]",
        "methods: [GET]",
        "paths: [/v1]",
        "token: key",
    ],
)
def test_what_nobody_sees_in_ciphertext_is_a_fault(workspace: Workspace, line: str) -> None:
    fault = workspace.fault(with_keys(line, base=PASSTHROUGH) + TOKENS)
    assert (fault.code, fault.key) == (ConfigCode.NOT_FOR_PASSTHROUGH, f"outbound[0].{line.partition(':')[0]}")
    assert "passthrough" in fault.hint


def test_passthrough_needs_a_name_to_compare(workspace: Workspace) -> None:
    text = edit("api.llm.example:443", "1.1.1.1:443", PASSTHROUGH)
    assert workspace.fault(text).code is ConfigCode.NOT_FOR_PASSTHROUGH
    (entry,) = workspace.load(with_keys("hosts: [api.llm.example]", base=text)).config.outbound
    assert entry.hosts == {b"api.llm.example"}


@pytest.mark.parametrize("host", ["1.1.1.1", '"1.1.1.1:8443"', '"[2606:4700::1]"', '"[2606:4700::1]:8443"'])
def test_an_address_is_no_name_that_an_agent_could_begin_tls_for(workspace: Workspace, host: str) -> None:
    fault = workspace.fault(with_keys(f"hosts: [api.llm.example, {host}]", base=PASSTHROUGH))
    assert (fault.code, fault.key) == (ConfigCode.NOT_FOR_PASSTHROUGH, "outbound[0].hosts[1]")
    assert workspace.load(with_keys(f"hosts: [api.llm.example, {host}]"))


@pytest.mark.threat(26)
@pytest.mark.parametrize(
    "connect", ["169.254.169.254:443", "127.0.0.1:443", "localhost:443", '"[::1]:443"', '"[::ffff:10.0.0.1]:443"']
)
def test_threat_26_an_address_of_our_own_network_has_to_be_accepted(workspace: Workspace, connect: str) -> None:
    text = edit("api.llm.example:443", connect, PUBLIC)
    fault = workspace.fault(text)
    assert (fault.code, fault.key) == (ConfigCode.PRIVATE_ADDRESS, "outbound[0].connect")
    assert "unsafe_private_addresses" in fault.hint
    assert workspace.load(with_keys("unsafe_private_addresses: true", base=text))


@pytest.mark.parametrize(
    ("token", "hint"),
    [("bound", "add bound: false to the source"), ("self", "use a source of kind oauth2, file or exec")],
)
def test_a_token_that_is_bound_to_our_certificate_is_a_fault(workspace: Workspace, token: str, hint: str) -> None:
    fault = workspace.fault(with_keys(f"token: {token}") + TOKENS)
    assert (fault.code, fault.key, fault.hint) == (ConfigCode.BOUND_TOKEN, "outbound[0].token", hint)
    assert workspace.load(edit("    peer:", f"    token: {token}\n    peer:") + TOKENS)


@pytest.mark.parametrize("token", ["free", "key"])
def test_any_other_token_is_fine(workspace: Workspace, token: str) -> None:
    (entry,) = workspace.load(with_keys(f"token: {token}", "token_header: X-Api-Key") + TOKENS).config.outbound
    assert (entry.token, entry.token_header, entry.token_scheme) == (token, b"X-Api-Key", b"")


def test_all_of_it_is_shown_and_decides(workspace: Workspace) -> None:
    lines = ("unsafe_private_addresses: true", "methods: [POST]", "paths: [/v1]")
    config = workspace.load(with_keys(*lines)).config
    shown = effective(config)["outbound"][0]
    assert (shown["tls"], shown["peer"], shown["host"], shown["resumption"]) == (
        "public",
        None,
        "api.llm.example",
        "never",
    )
    assert policy(config)["outbound"]["out"] == {
        "listen": "127.0.0.1:14001",
        "hosts": ["api.llm.example"],
        "origins": [],
        "pins": [],
        "tls": "public",
        "service": "api.llm.example",
        "unsafe_private_addresses": True,
        "methods": ["POST"],
        "paths": ["/v1"],
    }
    versions = {policy_version(workspace.load(text).config) for text in (VALID, PUBLIC, PASSTHROUGH, with_keys(*lines))}
    assert len(versions) == 4


def test_entries_for_peers_have_the_policy_that_they_always_had(workspace: Workspace) -> None:
    assert set(policy(workspace.load().config)["outbound"]["out"]) == {"listen", "hosts", "origins", "peer", "pins"}


SECOND = """\
  - name: second
    listen: 127.0.0.1:14001
    connect: api.llm.example:443
    tls: public
admin:
"""


def test_services_share_a_listener_by_their_own_names(workspace: Workspace) -> None:
    other = edit("api.llm.example:443", "other.example:443", SECOND)
    config = workspace.load(edit("admin:\n", other, PUBLIC)).config
    assert [entry.hosts for entry in config.outbound] == [{b"api.llm.example"}, {b"other.example"}]


@pytest.mark.parametrize("base", [PUBLIC, with_keys("hosts: [api.llm.example]"), PASSTHROUGH])
def test_two_entries_of_a_listener_are_not_for_one_service(workspace: Workspace, base: str) -> None:
    fault = workspace.fault(edit("admin:\n", SECOND, base))
    assert (fault.code, fault.key) == (ConfigCode.DUPLICATE_HOST, "outbound[1].connect")

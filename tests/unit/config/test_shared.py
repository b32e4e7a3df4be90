"""Outbound entries that share a listener."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from sidecar.config.faults import ConfigCode
from sidecar.config.values import Protocol
from tests.support.configuration import edit

if TYPE_CHECKING:
    from tests.support.configuration import Workspace

PEER = "    connect: 127.0.0.1:1\n    peer: spiffe://example.org/agent/x\n"


def second(*lines: str, listen: str = "127.0.0.1:14001", name: str = "second") -> str:
    more = "".join(f"    {line}\n" for line in lines)
    return f"  - name: {name}\n    listen: {listen}\n{PEER}{more}admin:\n"


def with_second(*lines: str, **parts: str) -> str:
    return edit("admin:\n", second(*lines, **parts))


def test_entries_with_names_of_their_own_share_a_listener(workspace: Workspace) -> None:
    config = workspace.load(with_second("hosts: [db.internal:5432]", "protocol: tcp")).config
    assert {entry.listen.port for entry in config.outbound} == {14001}
    assert [entry.hosts for entry in config.outbound] == [{b"tools.internal"}, {b"db.internal:5432"}]
    assert config.outbound[1].protocol is Protocol.TCP


def test_localhost_is_the_same_listener(workspace: Workspace) -> None:
    assert len(workspace.load(with_second("hosts: [a.internal]", listen="localhost:14001")).config.outbound) == 2


def test_a_tcp_entry_alone_may_have_hosts(workspace: Workspace) -> None:
    text = edit("    hosts:", "    protocol: tcp\n    hosts:")
    assert workspace.load(text).config.outbound[0].hosts == {b"tools.internal"}


@pytest.mark.parametrize(
    ("first", "other"),
    [
        ("tools.internal", "tools.internal"),
        ("tools.internal", "TOOLS.internal"),
        ("tools.internal", "tools.internal:80"),
        ("tools.internal:80", "tools.internal"),
        ("tools.internal:8080", "tools.internal:8080"),
        ('"[fd00::1]"', '"[fd00::1]:80"'),
    ],
)
def test_a_host_belongs_to_one_entry_of_a_listener(workspace: Workspace, first: str, other: str) -> None:
    text = with_second(f"hosts: [a.internal, {other}]").replace("hosts: [tools.internal]", f"hosts: [{first}]")
    fault = workspace.fault(text)
    assert (fault.code, fault.key) == (ConfigCode.DUPLICATE_HOST, "outbound[1].hosts[1]")
    assert fault.message.endswith("is outbound[0].hosts[0] on line 19 already, on the same listen")


@pytest.mark.parametrize(
    ("first", "other"),
    [("tools.internal", "tools.internal:8080"), ("tools.internal", "tools.internal:443"), ("a", "a.a")],
)
def test_hosts_that_differ_are_two(workspace: Workspace, first: str, other: str) -> None:
    text = with_second(f"hosts: [{other}]").replace("hosts: [tools.internal]", f"hosts: [{first}]")
    assert len(workspace.load(text).config.outbound) == 2


def test_the_same_host_twice_in_one_entry_in_two_spellings_is_no_fault(workspace: Workspace) -> None:
    workspace.load(with_second('hosts: [a.internal, "a.internal:80"]'))


def test_on_two_listeners_it_may_be_the_same(workspace: Workspace) -> None:
    workspace.load(with_second("hosts: [tools.internal]", listen="127.0.0.1:14002"))


@pytest.mark.parametrize("protocol", ["http", "tcp"])
def test_an_entry_that_nothing_could_reach_is_a_fault(workspace: Workspace, protocol: str) -> None:
    fault = workspace.fault(with_second(f"protocol: {protocol}"))
    assert (fault.code, fault.key) == (ConfigCode.NO_HOSTS, "outbound[1].listen")
    both = workspace.faults(with_second().replace("    hosts: [tools.internal]\n", ""))
    assert [(fault.code, fault.key) for fault in both] == [
        (ConfigCode.NO_HOSTS, "outbound[0].listen"),
        (ConfigCode.NO_HOSTS, "outbound[1].listen"),
    ]


def test_a_third_entry_is_compared_with_both(workspace: Workspace) -> None:
    text = edit(
        "admin:\n",
        second("hosts: [a.internal]").removesuffix("admin:\n")
        + second("hosts: [b, a.internal, tools.internal]", name="c"),
    )
    found = workspace.faults(text)
    assert [fault.key for fault in found] == ["outbound[2].hosts[1]", "outbound[2].hosts[2]"]


def test_entries_of_one_listener_say_the_same_of_it(workspace: Workspace) -> None:
    fault = workspace.fault(with_second("hosts: [a.internal]", "unsafe_plaintext_listen: true"))
    assert (fault.code, fault.key) == (ConfigCode.LISTEN_DISAGREES, "outbound[1].unsafe_plaintext_listen")
    text = with_second("hosts: [a.internal]", "unsafe_plaintext_listen: true")
    workspace.load(text.replace("    hosts: [tools", "    unsafe_plaintext_listen: true\n    hosts: [tools"))


@pytest.mark.parametrize("listen", ["0.0.0.0:14001", "127.0.0.1:8443", "127.0.0.1:14021"])
def test_a_listener_that_only_overlaps_is_a_fault_as_before(workspace: Workspace, listen: str) -> None:
    text = with_second("hosts: [a.internal]", "unsafe_plaintext_listen: true", listen=listen)
    assert ConfigCode.DUPLICATE_LISTEN in {fault.code for fault in workspace.faults(text)}


PUBLIC = "  - name: api\n    listen: 127.0.0.1:14001\n    tls: public\n    connect: api.example.com:443\n"


def test_an_ordinary_service_has_its_own_name(workspace: Workspace) -> None:
    config = workspace.load(edit("admin:\n", PUBLIC + "admin:\n")).config
    assert config.outbound[1].hosts == {b"api.example.com"}


def test_and_nobody_else_may_have_it(workspace: Workspace) -> None:
    text = edit("admin:\n", PUBLIC + "admin:\n").replace("[tools.internal]", '["api.example.com:80"]')
    fault = workspace.fault(text)
    assert (fault.code, fault.key) == (ConfigCode.DUPLICATE_HOST, "outbound[1].connect")


@pytest.mark.parametrize(("first", "other", "agree"), [("[1, 2]", "[2, 1]", True), ("[1]", "[1, 2]", False)])
def test_they_serve_the_same_users(workspace: Workspace, first: str, other: str, agree: bool) -> None:
    text = with_second("hosts: [a.internal]", f"uids: {other}")
    text = text.replace("    hosts: [tools", f"    uids: {first}\n    hosts: [tools")
    if agree:
        workspace.load(text)
    else:
        fault = workspace.fault(text)
        assert (fault.code, fault.key) == (ConfigCode.LISTEN_DISAGREES, "outbound[1].uids")


def test_a_unix_socket_may_be_shared_too(workspace: Workspace) -> None:
    text = with_second("hosts: [a.internal]").replace("127.0.0.1:14001", "unix:agent.sock")
    assert len({entry.listen for entry in workspace.load(text).config.outbound}) == 1

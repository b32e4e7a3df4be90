from __future__ import annotations

import pytest

from sidecar.config.faults import ConfigCode
from sidecar.config.values import Protocol
from sidecar.identity.pattern import IdPatternCode
from sidecar.identity.pins import PinCode
from sidecar.identity.spiffe import SpiffeIdCode
from sidecar.policy.paths import PatternCode
from sidecar.policy.routes import RouteCode
from tests.support.configuration import PIN, VALID, Workspace, edit, line_of

ALLOW = VALID[VALID.index("    allow:") : VALID.index("outbound:")]
CALLER = "      - caller: spiffe://example.org/agent/planner/*\n"
HOSTS = "    hosts: [tools.internal]\n"

#: Both entries as tunnels, with nothing about requests left.
TCP = edit("http://127.0.0.1:8080", "tcp://127.0.0.1:5432", edit(ALLOW, "    allow:\n" + CALLER))
TCP = edit(HOSTS, "    protocol: tcp\n", TCP)


def test_no_sni_for_an_ip_address(workspace: Workspace) -> None:
    assert workspace.load(edit("tools.example.org:8443", "10.0.0.5:8443")).config.outbound[0].server_name is None


def test_rules_are_named_by_their_place_unless_they_have_a_name(workspace: Workspace) -> None:
    rules = "    allow:\n" + "".join(
        f"      - caller: spiffe://example.org/agent/{n}\n" + (f"        name: rule-{n}\n" if n == "b" else "")
        for n in ("a", "b", "c")
    )
    ids = [rule.id for rule in workspace.load(edit(ALLOW, rules)).config.inbound[0].allow]
    assert ids == ["inbound.in.allow[0]", "rule-b", "inbound.in.allow[2]"]


def test_a_rule_that_says_no_more_allows_any_key_method_and_path(workspace: Workspace) -> None:
    (rule,) = workspace.load(edit(ALLOW, "    allow:\n" + CALLER)).config.inbound[0].allow
    assert (rule.pins, rule.methods, rule.paths) == (frozenset(), frozenset(), ())


def test_tunnels_are_entries_whose_protocol_is_tcp(workspace: Workspace) -> None:
    config = workspace.load(TCP).config
    (inbound,), (outbound,) = config.inbound, config.outbound
    assert (inbound.forward.protocol, str(inbound.forward)) == (Protocol.TCP, "tcp://127.0.0.1:5432")
    assert outbound.protocol is Protocol.TCP
    assert workspace.load().config.inbound[0].forward.protocol is Protocol.HTTP
    assert workspace.load().config.outbound[0].protocol is Protocol.HTTP


# What is wrong: (the variant of the file, code, key path, message)
BAD = {
    # default deny
    "allow missing": (edit(ALLOW, ""), ConfigCode.NO_CALLER, "inbound[0].allow", "no caller is named"),
    "allow empty": (edit(ALLOW, "    allow: []\n"), ConfigCode.NO_CALLER, "inbound[0].allow", "no caller is named"),
    "allow null": (edit(ALLOW, "    allow:\n"), ConfigCode.NO_CALLER, "inbound[0].allow", "no caller is named"),
    "caller missing": (
        edit(ALLOW, "    allow:\n      - methods: [GET]\n"),
        ConfigCode.NO_CALLER,
        "inbound[0].allow[0].caller",
        "no caller is named",
    ),
    "peer missing": (
        edit("    peer: spiffe://example.org/agent/tools/*\n", ""),
        ConfigCode.NO_PEER,
        "outbound[0].peer",
        "no peer is named",
    ),
    "peer null": (
        edit("    peer: spiffe://example.org/agent/tools/*\n", "    peer:\n"),
        ConfigCode.NO_PEER,
        "outbound[0].peer",
        "no peer is named",
    ),
    # names of callers and peers
    "wildcard trust domain": (
        edit("spiffe://example.org/agent/planner/*", "spiffe://*/agent/planner"),
        IdPatternCode.WILDCARD_TRUST_DOMAIN,
        "inbound[0].allow[0].caller",
        "the trust domain of a pattern is literal: 'spiffe://*/agent/planner'",
    ),
    "wildcard in the middle": (
        edit("spiffe://example.org/agent/tools/*", "spiffe://example.org/*/tools"),
        IdPatternCode.WILDCARD_NOT_LAST,
        "outbound[0].peer",
        "/* or /** stands at the end of a pattern, once: 'spiffe://example.org/*/tools'",
    ),
    "everybody of a trust domain": (
        edit("spiffe://example.org/agent/tools/*", "spiffe://example.org/**"),
        IdPatternCode.WILDCARD_WITHOUT_SEGMENT,
        "outbound[0].peer",
        "a wildcard stands only after a literal path segment",
    ),
    "upper case": (
        edit("spiffe://example.org/agent/tools/*", "SPIFFE://example.org/agent/tools"),
        SpiffeIdCode.WRONG_SCHEME,
        "outbound[0].peer",
        "a SPIFFE ID starts with spiffe:// in lower case, this is 'SPIFFE://example.org/agent/tools'",
    ),
    # pins
    "short pin": (
        edit(PIN, "sha256:abcd"),
        PinCode.WRONG_LENGTH,
        "inbound[0].allow[0].pins[0]",
        "a pin is 32 bytes, this is 3",
    ),
    "pin of another hash": (
        edit(PIN, "sha1:abcd"),
        PinCode.WRONG_PREFIX,
        "inbound[0].allow[0].pins[0]",
        "a pin starts with sha256:, this is 'sha1:abcd'",
    ),
    "the same pin twice": (
        edit(f'["{PIN}"]', f'["{PIN}", "{PIN}"]'),
        ConfigCode.DUPLICATE_ITEM,
        "inbound[0].allow[0].pins[1]",
        f'"{PIN}" stands twice in the list',
    ),
    # methods and paths
    "no method": (edit("[GET, POST]", "[]"), ConfigCode.EMPTY_LIST, "inbound[0].allow[0].methods", "the list is empty"),
    "no path": (
        edit("[/mcp, /tools/**]", "[]"),
        ConfigCode.EMPTY_LIST,
        "inbound[0].allow[0].paths",
        "the list is empty",
    ),
    "TRACE": (
        edit("[GET, POST]", "[TRACE]"),
        ConfigCode.BAD_METHOD,
        "inbound[0].allow[0].methods[0]",
        "TRACE is never forwarded: callers are answered 405",
    ),
    "a relative path": (
        edit("[/mcp, /tools/**]", "[mcp]"),
        PatternCode.PATTERN_RELATIVE,
        "inbound[0].allow[0].paths[0]",
        "the path 'mcp' does not begin with /",
    ),
    # plaintext
    "forward off loopback": (
        edit("http://127.0.0.1:8080", "http://10.0.0.5:8080"),
        ConfigCode.PLAINTEXT_FORWARD,
        "inbound[0].forward",
        "10.0.0.5 is not a loopback address: requests would cross the network in clear",
    ),
    "forward to a name": (
        edit("http://127.0.0.1:8080", "http://agent.internal:8080"),
        ConfigCode.PLAINTEXT_FORWARD,
        "inbound[0].forward",
        "agent.internal is not a loopback address: requests would cross the network in clear",
    ),
    "listen off loopback": (
        edit("127.0.0.1:14001", "0.0.0.0:14001"),
        ConfigCode.PLAINTEXT_LISTEN,
        "outbound[0].listen",
        "0.0.0.0 is not a loopback address: whoever reaches it would speak with our identity",
    ),
    "listen on IPv6 off loopback": (
        edit("127.0.0.1:14001", '"[::]:14001"'),
        ConfigCode.PLAINTEXT_LISTEN,
        "outbound[0].listen",
        ":: is not a loopback address: whoever reaches it would speak with our identity",
    ),
    "uids where nobody can tell": (
        edit("127.0.0.1:14001", "0.0.0.0:14001\n    unsafe_plaintext_listen: true\n    uids: [1000]"),
        ConfigCode.UIDS_UNKNOWN,
        "outbound[0].uids",
        "the user of a client on another machine is not known",
    ),
    "no uid": (
        edit("127.0.0.1:14001", "127.0.0.1:14001\n    uids: []"),
        ConfigCode.EMPTY_LIST,
        "outbound[0].uids",
        "the list is empty",
    ),
    "a user name": (
        edit("127.0.0.1:14001", "127.0.0.1:14001\n    uids: [agent]"),
        ConfigCode.BAD_NUMBER,
        "outbound[0].uids[0]",
        '"agent" is not a whole number',
    ),
    "uids of callers": (
        edit("    forward:", "    uids: [1000]\n    forward:"),
        ConfigCode.MISPLACED_KEY,
        "inbound[0].uids",
        "uids belongs to an outbound entry: an inbound one names its callers",
    ),
    # UNIX sockets
    "a listener on the administration socket": (
        edit("127.0.0.1:14001", "unix:admin.sock"),
        ConfigCode.DUPLICATE_LISTEN,
        "outbound[0].listen",
        "the administration socket is {folder}/admin.sock already",
    ),
    "two listeners on one socket": (
        edit("127.0.0.1:14021", "unix:out.sock", edit("127.0.0.1:14001", "unix:x/../out.sock")),
        ConfigCode.DUPLICATE_LISTEN,
        "health.listen",
        "outbound[0].listen on line 18 listens on unix:{folder}/out.sock already",
    ),
    "a forward to our own listener": (
        edit("http://127.0.0.1:8080", "http+unix:out.sock", edit("127.0.0.1:14001", "unix:out.sock")),
        ConfigCode.FORWARD_TO_SELF,
        "inbound[0].forward",
        "unix:{folder}/out.sock is this sidecar's own outbound[0].listen (line 18)",
    ),
    "a forward to the administration socket": (
        edit("http://127.0.0.1:8080", "http+unix:admin.sock"),
        ConfigCode.FORWARD_TO_SELF,
        "inbound[0].forward",
        "unix:{folder}/admin.sock is this sidecar's own administration socket",
    ),
    "a forward to the service with our key": (
        edit("http://127.0.0.1:8080", "http+unix:signer.sock", edit("planner.key", "signer:unix:signer.sock")),
        ConfigCode.FORWARD_TO_SELF,
        "inbound[0].forward",
        "unix:{folder}/signer.sock is this sidecar's own signer service",
    ),
    # hosts
    "wildcard host": (
        edit("[tools.internal]", '["*.internal"]'),
        RouteCode.HOST_WILDCARD,
        "outbound[0].hosts[0]",
        "the host '*.internal' has a wildcard",
    ),
    "no host": (edit("[tools.internal]", "[]"), ConfigCode.EMPTY_LIST, "outbound[0].hosts", "the list is empty"),
    "the same host twice": (
        edit("[tools.internal]", "[tools.internal, Tools.Internal]"),
        ConfigCode.DUPLICATE_ITEM,
        "outbound[0].hosts[1]",
        '"Tools.Internal" stands twice in the list',
    ),
    # tunnels have no requests
    "methods in a tunnel": (
        edit("/planner/*\n", "/planner/*\n        methods: [GET]\n", TCP),
        ConfigCode.NOT_FOR_TCP,
        "inbound[0].allow[0].methods",
        "forward is tcp://, where nobody looks for requests: methods could never be checked",
    ),
    "paths in a tunnel": (
        edit("/planner/*\n", "/planner/*\n        paths: [/mcp]\n", TCP),
        ConfigCode.NOT_FOR_TCP,
        "inbound[0].allow[0].paths",
        "forward is tcp://, where nobody looks for requests: paths could never be checked",
    ),
    "host in a tunnel": (
        edit("    protocol: tcp\n", "    protocol: tcp\n    host: a.b\n", TCP),
        ConfigCode.NOT_FOR_TCP,
        "outbound[0].host",
        "host is not used by protocol tcp: nobody looks for requests in its bytes",
    ),
    "origins in a tunnel": (
        edit("    protocol: tcp\n", "    protocol: tcp\n    origins: ['https://a.b']\n", TCP),
        ConfigCode.NOT_FOR_TCP,
        "outbound[0].origins",
        "origins is not used by protocol tcp: nobody looks for requests in its bytes",
    ),
    "tunnel off loopback": (
        edit("tcp://127.0.0.1:5432", "tcp://10.0.0.5:5432", TCP),
        ConfigCode.PLAINTEXT_FORWARD,
        "inbound[0].forward",
        "10.0.0.5 is not a loopback address: bytes would cross the network in clear",
    ),
    "another protocol": (
        edit("    peer:", "    protocol: grpc\n    peer:"),
        ConfigCode.BAD_CHOICE,
        "outbound[0].protocol",
        '"grpc" is not one of the choices',
    ),
}


@pytest.mark.parametrize("case", BAD)
def test_a_fault_is_named_with_its_place(workspace: Workspace, case: str) -> None:
    text, code, key, message = BAD[case]
    fault = workspace.fault(text)
    message = message.replace("{folder}", str(workspace.folder))
    assert (fault.code, fault.key, fault.message) == (code, key, message)
    assert fault.hint or code in {IdPatternCode.WILDCARD_NOT_LAST, SpiffeIdCode.WRONG_SCHEME}
    assert 0 < fault.line <= text.count("\n")


@pytest.mark.parametrize(
    ("case", "piece"),
    [
        ("peer missing", "  - name: out"),
        ("short pin", "pins:"),
        ("forward off loopback", "forward:"),
        ("allow empty", "allow:"),
    ],
)
def test_a_fault_has_the_line_of_its_key(workspace: Workspace, case: str, piece: str) -> None:
    text = BAD[case][0]
    assert workspace.fault(text).line == line_of(text, piece)


def test_every_condition_on_requests_in_a_tunnel_is_a_fault_of_its_own(workspace: Workspace) -> None:
    """Also where the list of rules has other faults: nothing waits for a second look."""
    broken = "      - caller: nonsense\n        methods: [GET]\n        paths: [/a]\n      - nonsense\n"
    faults = workspace.faults(edit(CALLER, CALLER + broken, TCP))
    codes = [(str(fault.code), fault.key) for fault in faults]
    assert ("not_for_tcp", "inbound[0].allow[1].methods") in codes
    assert ("not_for_tcp", "inbound[0].allow[1].paths") in codes
    assert len(codes) == 4


@pytest.mark.parametrize("allow", ["    allow: nonsense\n", "    allow:\n", ""])
def test_a_tunnel_without_a_list_of_rules_has_that_one_fault(workspace: Workspace, allow: str) -> None:
    assert workspace.fault(edit("    allow:\n" + CALLER, allow, TCP)).key == "inbound[0].allow"


def test_default_deny_says_what_to_do(workspace: Workspace) -> None:
    fault = workspace.fault(edit(ALLOW, "    allow: []\n"))
    assert fault.hint == "default deny: name at least one caller under allow"
    fault = workspace.fault(edit("    peer: spiffe://example.org/agent/tools/*\n", ""))
    assert fault.hint == "default deny: name the SPIFFE ID of the one peer this entry talks to"


@pytest.mark.threat(13)
@pytest.mark.parametrize(
    ("text", "key"),
    [
        (edit(f'["{PIN}"]', "[]"), "inbound[0].allow[0].pins"),
        (edit("    peer:", "    pins: []\n    peer:"), "outbound[0].pins"),
    ],
)
def test_threat_13_an_empty_list_of_pins_is_a_fault(workspace: Workspace, text: str, key: str) -> None:
    """Neither "no pin" nor "no key": whoever emptied the list has to say which."""
    fault = workspace.fault(text)
    assert (fault.code, fault.key) == (ConfigCode.NO_PINS, key)
    assert fault.message == "the list of pins is empty: it names no key"
    assert fault.hint == "name at least one pin, or remove the key to let chain and name decide"


@pytest.mark.threat(13)
def test_threat_13_pins_without_a_value_are_a_fault(workspace: Workspace) -> None:
    assert workspace.fault(edit("    peer:", "    pins:\n    peer:")).code is ConfigCode.NO_VALUE


@pytest.mark.parametrize(
    "text",
    [
        edit("http://127.0.0.1:8080", "http://10.0.0.5:8080\n    unsafe_plaintext_forward: true"),
        edit("127.0.0.1:14001", "10.0.0.5:14001\n    unsafe_plaintext_listen: true"),
        edit("http://127.0.0.1:8080", "http://localhost:8080"),
        edit("http://127.0.0.1:8080", "http://127.8.8.8:8080"),
        edit("http://127.0.0.1:8080", "http://[::1]:8080"),
        edit("127.0.0.1:8443", "0.0.0.0:8443"),
        edit("127.0.0.1:14021", "0.0.0.0:14021"),
    ],
)
def test_plaintext_stays_on_loopback_or_says_unsafe(workspace: Workspace, text: str) -> None:
    assert workspace.load(text)


@pytest.mark.parametrize("value", ["false", "yes", '"true"'])
def test_unsafe_is_said_by_the_word_true_alone(workspace: Workspace, value: str) -> None:
    text = edit("http://127.0.0.1:8080", f"http://10.0.0.5:8080\n    unsafe_plaintext_forward: {value}")
    assert workspace.fault(text).code in {ConfigCode.PLAINTEXT_FORWARD, ConfigCode.BAD_CHOICE}

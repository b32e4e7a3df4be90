"""The entries of the file: what callers reach through this sidecar, and what the agent reaches."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Final

from sidecar.config import addresses, forms, kinds, outbound_listen, outbound_public, outbound_token, proxy_protocol
from sidecar.config.faults import ConfigCode, Refused, below
from sidecar.config.schema import (
    REQUIRED,
    Absent,
    Key,
    Kind,
    Spot,
    Table,
    Values,
    later,
    listing,
    missing,
    read_table,
    some,
    text,
)
from sidecar.config.values import Inbound, Outbound, Protocol, Resumption, TcpAddress, Tls
from sidecar.config.yaml import Mapping, Sequence
from sidecar.identity.pattern import IdPattern
from sidecar.identity.pins import Pin
from sidecar.policy.paths import PathPattern
from sidecar.policy.rules import Rule

if TYPE_CHECKING:
    from sidecar.tokens.requirement import Requirement

NO_CALLER: Final = Absent(
    ConfigCode.NO_CALLER, "no caller is named", "default deny: name at least one caller under allow"
)
NO_PEER: Final = Absent(
    ConfigCode.NO_PEER, "no peer is named", "default deny: name the SPIFFE ID of the one peer this entry talks to"
)
NO_PINS: Final = Absent(
    ConfigCode.NO_PINS,
    "the list of pins is empty: it names no key",
    "name at least one pin, or remove the key to let chain and name decide",
)


PINS: Final = listing(
    text(Pin.parse, "pin (sha256:<base64>)", forms.matching("sha256:[A-Za-z0-9+/]{43}=")), empty=NO_PINS
)
PATTERN: Final = text(IdPattern.parse, "SPIFFE ID, or a pattern that ends in /* or /**", forms.starting("spiffe://"))

RESUMPTION: Final[Key[Resumption | None]] = Key(
    "resumption",
    kinds.choice(Resumption),
    None,
    "Whether TLS sessions of this entry are resumed. Absent: as `resumption` of the file says.",
)

# --- inbound

RULE_NAME: Final[Key[str | None]] = Key(
    "name", kinds.NAME, None, "What logs call the rule; otherwise `inbound.<entry>.allow[<n>]`. Unique in the file."
)
CALLER: Final = Key(
    "caller", PATTERN, REQUIRED, "Who may call: `/*` at the end is one segment, `/**` one or more.", absent=NO_CALLER
)
RULE_PINS: Final = Key(
    "pins", PINS, (), "The caller's key is one of these, in addition to chain and name. Absent: any key of that name."
)
METHODS: Final = Key(
    "methods", listing(kinds.METHOD, empty=some("any method")), (), "Absent: any method. Not for `forward: tcp://`."
)
PATHS: Final = Key(
    "paths",
    listing(text(PathPattern.parse, "path pattern", forms.starting("/")), empty=some("any path")),
    (),
    "`*` is one whole segment, `**` zero or more; compared byte for byte. Absent: any path. Not for `forward: tcp://`.",
)
RULE_TOKEN: Final[Key[Requirement | None]] = Key(
    "token",
    later("sidecar.config.token_rule", "READ", "section"),
    None,
    "What the token in `Authorization: Bearer` must say, see below. Absent: none is looked at. Not for "
    "`forward: tcp://`.",
)
ALLOW_RULE: Final = Table("allow", (RULE_NAME, CALLER, RULE_PINS, METHODS, PATHS, RULE_TOKEN))


def _rule(spot: Spot) -> Rule:
    values = read_table(spot, ALLOW_RULE)
    spot.ledger.lines[spot.key] = spot.line
    name, caller = values.get(RULE_NAME), values.get(CALLER)
    if name:
        spot.ledger.rule_names.append((name, values.spots["name"]))
    if caller:
        spot.ledger.patterns.append((caller, values.spots["caller"]))
    values.settle()
    return Rule(
        values[RULE_NAME] or "",  # a rule without a name is named by its entry
        values[CALLER],
        frozenset(values[RULE_PINS]),
        frozenset(values[METHODS]),
        values[PATHS],
        values[RULE_TOKEN],
    )


def _named(rule: Rule, otherwise: str) -> Rule:
    """Returns a rule that has a name, as has what it asks of a token."""
    name = rule.id or otherwise
    return replace(rule, id=name, token=replace(rule.token, key=f"{name}.token") if rule.token else None)


INBOUND_NAME: Final = Key("name", kinds.NAME, REQUIRED, "What logs and metrics call the entry. Unique among these.")
INBOUND_LISTEN: Final = Key(
    "listen",
    addresses.INBOUND_LISTEN,
    REQUIRED,
    "Where callers connect with mutual TLS 1.3. Any IP address of this machine; `localhost` means 127.0.0.1.",
)
FORWARD: Final = Key(
    "forward",
    addresses.FORWARD,
    REQUIRED,
    "Where what is permitted goes, in plaintext: a loopback address or a UNIX socket. `http` forwards requests "
    "(HTTP/1.1), each decided by itself; `tcp` forwards the bytes of a connection, decided once, when it begins.",
)
ALLOW: Final = Key(
    "allow",
    listing(Kind(_rule, "rule", ALLOW_RULE), empty=NO_CALLER, distinct=False),
    REQUIRED,
    "The callers, see below. Any rule that matches allows; the order means nothing; nobody else is let through.",
    absent=NO_CALLER,
)
UNSAFE_FORWARD: Final = Key(
    "unsafe_plaintext_forward",
    kinds.FLAG,
    False,
    "Lets `forward` leave this machine: what is permitted crosses a network in clear.",
)
INBOUND: Final = Table(
    "inbound",
    (INBOUND_NAME, INBOUND_LISTEN, FORWARD, proxy_protocol.PROXY_PROTOCOL, ALLOW, RESUMPTION, UNSAFE_FORWARD),
    {RULE_TOKEN.name: "a rule, below allow", "uids": "an outbound entry: an inbound one names its callers"},
)


def read_inbound(spot: Spot) -> Inbound:
    """Reads one inbound entry; raises Reported once its faults are in the list."""
    values = read_table(spot, INBOUND)
    name, listen, forward = values.get(INBOUND_NAME), values.get(INBOUND_LISTEN), values.get(FORWARD)
    spot.ledger.proves_peers = True
    if name:
        spot.ledger.names.append(("inbound", name, values.spots["name"]))
    if listen:
        spot.ledger.listens.append(("inbound", listen, values.spots["listen"]))
    if forward:
        spot.ledger.forwards.append((forward.address, values.spots["forward"]))
        address = forward.address
        if isinstance(address, TcpAddress) and not address.loopback and values.get(UNSAFE_FORWARD) is False:
            values.refuse(FORWARD, _off_loopback(address, forward.protocol))
        if forward.protocol is Protocol.TCP:
            _refuse_request_rules(values)
        proxy_protocol.check(values, forward)
    values.settle()
    rules = tuple(_named(rule, f"inbound.{values[INBOUND_NAME]}.allow[{n}]") for n, rule in enumerate(values[ALLOW]))
    return Inbound(
        values[INBOUND_NAME],
        values[INBOUND_LISTEN],
        values[FORWARD],
        rules,
        values[RESUMPTION],
        proxy_protocol=values[proxy_protocol.PROXY_PROTOCOL],
    )


def _refuse_request_rules(values: Values) -> None:
    """Refuses conditions on requests where there are none: nobody shall believe that they are checked."""
    allow = values.spots.get(ALLOW.name)
    rules = allow.items() if allow is not None and isinstance(allow.node, Sequence) else []
    for rule in rules:
        for name, place in rule.entries() if isinstance(rule.node, Mapping) else []:
            if name in {METHODS.name, PATHS.name, RULE_TOKEN.name}:
                values.complete = False
                place.refuse(
                    Refused(
                        ConfigCode.NOT_FOR_TCP,
                        f"forward is tcp://, where nobody looks for requests: {name} could never be checked",
                        hint="remove it, which lets the caller send anything, or forward to http://",
                    )
                )


def _off_loopback(address: TcpAddress, protocol: Protocol) -> Refused:
    carried = "requests" if protocol is Protocol.HTTP else "bytes"
    return Refused(
        ConfigCode.PLAINTEXT_FORWARD,
        f"{address.host} is not a loopback address: {carried} would cross the network in clear",
        hint="use 127.0.0.1 or a UNIX socket, or accept it with unsafe_plaintext_forward: true",
    )


# --- outbound


OUTBOUND_NAME: Final = Key("name", kinds.NAME, REQUIRED, "What logs and metrics call the entry. Unique among these.")
OUTBOUND_LISTEN: Final = Key(
    "listen",
    addresses.LISTEN,
    REQUIRED,
    "Where the agent connects, in plaintext: a loopback address (`localhost` means 127.0.0.1) or a UNIX socket. Several "
    "entries may share one.",
)
HOSTS: Final = Key(
    "hosts",
    listing(addresses.HOST, empty=some("then only the listen address and localhost are served")),
    (),
    "What the agent calls the peer, beside the listen address and `localhost`. No wildcard. Anything else is 403. "
    "Needed where entries share a `listen`; where a `protocol: tcp` entry has its own, nobody looks at it. With "
    "`tls: public`, absent: the service's own name.",
)
CONNECT: Final = Key(
    "connect",
    addresses.CONNECT,
    REQUIRED,
    "Where the peer's sidecar listens, or the service: DNS name or IP address, and port; or the UNIX socket of what leads "
    "to the peer.",
)
PEER: Final[Key[IdPattern | None]] = Key(
    "peer",
    PATTERN,
    None,
    "Required, but for `tls: public`. Who must answer there, proven by chain and name before anything is sent: `/*` and "
    "`/**` as in `caller`.",
    absent=NO_PEER,
)
OUTBOUND_PINS: Final = Key(
    "pins", PINS, (), "The peer's key is one of these, in addition to chain and name. Absent: any key of that name."
)
OUTBOUND_METHODS: Final = Key(
    "methods", METHODS.kind, (), "What the agent's requests may be. Absent: any method. Not for `protocol: tcp`."
)
OUTBOUND_PATHS: Final = Key(
    "paths",
    PATHS.kind,
    (),
    "What they may ask for, as in `allow`. Absent: any path, and the peer decides. Not for `protocol: tcp`.",
)
PROTOCOL: Final = Key(
    "protocol",
    kinds.choice(Protocol),
    Protocol.HTTP,
    "What the agent speaks: HTTP/1.1, or `tcp` for bytes that are passed on as they are. Then whoever can connect to "
    "`listen` speaks to the peer, web pages included.",
)
SERVER_NAME: Final[Key[str | None]] = Key(
    "server_name",
    addresses.SERVER_NAME,
    None,
    "The SNI to send, and with `tls: public` the name to verify. Absent: the DNS name in `connect`; no SNI for an address.",
)
HOST: Final[Key[bytes | None]] = Key(
    "host",
    addresses.HOST,
    None,
    "The `Host` to send. Absent: as the agent sent it; with `tls: public` the service's own name. Not for "
    "`protocol: tcp`.",
)
ORIGINS: Final = Key(
    "origins",
    listing(addresses.ORIGIN, empty=some("then no web page may send requests")),
    (),
    "Web origins whose pages may send requests here. A request of any other page is 403. Not for `protocol: tcp`.",
)
OUTBOUND: Final = Table(
    "outbound",
    (
        OUTBOUND_NAME,
        OUTBOUND_LISTEN,
        outbound_listen.UIDS,
        HOSTS,
        CONNECT,
        outbound_public.TLS,
        PEER,
        OUTBOUND_PINS,
        OUTBOUND_METHODS,
        OUTBOUND_PATHS,
        PROTOCOL,
        SERVER_NAME,
        HOST,
        ORIGINS,
        RESUMPTION,
        outbound_token.TOKEN,
        outbound_token.TOKEN_HEADER,
        outbound_public.PASSTHROUGH,
        outbound_public.UNSAFE_ADDRESSES,
        outbound_listen.UNSAFE_LISTEN,
    ),
    rules=outbound_public.RULES,
)


def read_outbound(spot: Spot) -> Outbound:
    """Reads one outbound entry; raises Reported once its faults are in the list."""
    values = read_table(spot, OUTBOUND)
    name, listen, peer = values.get(OUTBOUND_NAME), values.get(OUTBOUND_LISTEN), values.get(PEER)
    if name:
        spot.ledger.names.append(("outbound", name, values.spots["name"]))
    if peer:
        spot.ledger.patterns.append((peer, values.spots["peer"]))
    if listen:
        spot.ledger.listens.append(("outbound", listen, values.spots["listen"]))
        spot.ledger.outbound.append((listen, values))
        if isinstance(listen, TcpAddress) and not listen.loopback:
            outbound_listen.check_far(values, listen, OUTBOUND_LISTEN)
    if values.get(outbound_public.TLS) is Tls.MUTUAL:
        _require_peer(spot, values)
        if values.get(PROTOCOL) is Protocol.TCP:
            _refuse_request_keys(values)
    outbound_token.check(values)
    outbound_public.check(
        values, values.get(CONNECT), values.get(PROTOCOL), values.get(outbound_token.TOKEN), values.get(HOSTS)
    )
    values.settle()
    return _outbound(values)


def _require_peer(spot: Spot, values: Values) -> None:
    spot.ledger.proves_peers = True
    place = dict(spot.entries()).get(PEER.name)
    if place is None or place.empty:
        missing(place or spot, PEER, below(spot.key, PEER.name))
        values.complete = False


def _outbound(values: Values) -> Outbound:
    connect, tls = values[CONNECT], values[outbound_public.TLS]
    token_header, token_scheme = values[outbound_token.TOKEN_HEADER]
    server_name = values[SERVER_NAME] or connect.name
    hosts, host = frozenset(values[HOSTS]), values[HOST]
    if tls is Tls.PUBLIC and isinstance(connect, TcpAddress):  # nothing else is accepted
        own = outbound_public.authority(connect, server_name)
        hosts, host = hosts or frozenset((own,)), host or own
    return Outbound(
        name=values[OUTBOUND_NAME],
        listen=values[OUTBOUND_LISTEN],
        connect=connect,
        peer=values[PEER],
        pins=frozenset(values[OUTBOUND_PINS]),
        hosts=hosts,
        server_name=server_name,
        host=host,
        origins=frozenset(values[ORIGINS]),
        protocol=values[PROTOCOL],
        resumption=values[RESUMPTION],
        token=values[outbound_token.TOKEN],
        token_header=token_header,
        token_scheme=token_scheme,
        tls=tls,
        passthrough=values[outbound_public.PASSTHROUGH],
        unsafe_private_addresses=values[outbound_public.UNSAFE_ADDRESSES],
        methods=frozenset(values[OUTBOUND_METHODS]),
        paths=values[OUTBOUND_PATHS],
        uids=frozenset(values[outbound_listen.UIDS]),
    )


def _refuse_request_keys(values: Values) -> None:
    """Refuses what is about requests where there are none."""
    keys = (HOST, ORIGINS, OUTBOUND_METHODS, OUTBOUND_PATHS, outbound_token.TOKEN, outbound_token.TOKEN_HEADER)
    for key in keys:
        if key.name in values.spots:
            refused = Refused(
                ConfigCode.NOT_FOR_TCP,
                f"{key.name} is not used by protocol tcp: nobody looks for requests in its bytes",
                hint="remove it, or use protocol: http",
            )
            values.refuse(key, refused)


READ_INBOUND: Final = Kind(read_inbound, "entry", INBOUND)
READ_OUTBOUND: Final = Kind(read_outbound, "entry", OUTBOUND)

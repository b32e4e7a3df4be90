"""Turns one checked configuration into services: everything that a reload replaces, built before anything is touched."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING

from sidecar.app.outbound import Requests, Tunnels, by_listen, front_of, keep_pool, service_at
from sidecar.app.tokens import TokenParts, check_of, helpers_of, make_lanes
from sidecar.config.effective import policy_version
from sidecar.config.values import Protocol, Resumption, Tls, UnixAddress
from sidecar.http.limits import HttpLimits
from sidecar.policy.table import Table
from sidecar.proxy import proxy_protocol
from sidecar.proxy.dialler import Dialler
from sidecar.proxy.inbound import InboundService
from sidecar.proxy.outbound import TlsDestination
from sidecar.proxy.pool import PlainDestination, Pool
from sidecar.proxy.service import Self
from sidecar.proxy.target import TcpTarget, UnixTarget
from sidecar.proxy.tunnel_service import InboundTunnels, Wanted, Way
from sidecar.tls.contexts import HTTP_ALPN, NO_ALPN, Credentials, client_context, server_context
from sidecar.tls.expectation import expect_peer

if TYPE_CHECKING:
    from collections.abc import Hashable

    from sidecar.app.listening import Place
    from sidecar.app.outbound import Reached
    from sidecar.app.own_key import OwnKey
    from sidecar.app.public import Roots
    from sidecar.config.load import Loaded
    from sidecar.config.values import Address, Inbound, Outbound
    from sidecar.limits import Limits
    from sidecar.proxy.connection import Entry
    from sidecar.proxy.hub import Hub
    from sidecar.proxy.pool import Destination
    from sidecar.proxy.target import Target
    from sidecar.tls.contexts import TlsContext


#: What logs and metrics call what fits no entry at the listener for the agent of `sidecar exec`: no entry has this name.
AGENT = "agent_listener"


@dataclass(frozen=True, slots=True)
class Generation:
    """Everything that belongs to one configuration.

    ``pools``, and the ``destinations`` of tunnels, are keyed by all that a connection of theirs depends on; ``diallers`` by
    the entry whose connections they count.
    """

    loaded: Loaded
    own: Self
    key: OwnKey
    policy_version: str
    services: dict[Place, Entry] = field(default_factory=dict)
    pools: dict[Hashable, Pool] = field(default_factory=dict)
    destinations: dict[Hashable, Destination] = field(default_factory=dict)
    diallers: dict[Hashable, Dialler] = field(default_factory=dict)
    #: What each outbound entry is, by its name, wherever it is reached.
    outbound: dict[str, Reached] = field(default_factory=dict)
    tokens: TokenParts = field(default_factory=TokenParts)
    #: What ordinary HTTPS services are verified by: one, or none where there are no such entries.
    roots: list[Roots] = field(default_factory=list)


def http_limits(limits: Limits) -> HttpLimits:
    """The parser's share of the limits."""
    return HttpLimits(head_bytes=limits.head_bytes, target_bytes=limits.target_bytes, fields=limits.fields)


def build(hub: Hub, loaded: Loaded, key: OwnKey, previous: Generation | None) -> Generation:
    """Builds the services of a configuration; keeps whatever of ``previous`` has every input unchanged.

    Raises ConfigurationError where OpenSSL does not take the identity.
    """
    svid = loaded.material.svid
    own = Self(svid, str(svid.id), str(svid.pin), key.protection)
    generation = Generation(loaded, own, key, policy_version(loaded.config))
    kept = previous or generation
    for entry in loaded.config.inbound:
        place: Place = ("inbound", entry.listen)
        make = _inbound if entry.forward.protocol is Protocol.HTTP else _inbound_tunnels
        generation.services[place] = make(hub, generation, entry, kept)
    for entry_out in loaded.config.outbound:
        generation.outbound[entry_out.name] = _reached(hub, generation, entry_out, kept)
    for listen, names in by_listen(loaded.config.outbound).items():
        generation.services["outbound", listen] = service_at(generation, listen, names)
    if loaded.config.agent is not None and generation.outbound:
        agents = front_of(generation, AGENT, generation.outbound, ())
        generation.services["outbound", loaded.config.agent] = agents
    generation.tokens.helpers = helpers_of(hub, generation)
    return generation


def target_of(address: Address) -> Target:
    """Returns where connections to an address are made to."""
    return UnixTarget(address.path) if isinstance(address, UnixAddress) else TcpTarget(address.host, address.port)


def _credentials(generation: Generation) -> Credentials:
    return Credentials(generation.loaded.material.chain_pem, generation.key.private_key)


def _resumes(generation: Generation, entry: Inbound | Outbound) -> bool:
    return generation.loaded.config.resumption_of(entry) is Resumption.ALLOW


def _reached(hub: Hub, generation: Generation, entry: Outbound, kept: Generation) -> Reached:
    if entry.tls is Tls.PUBLIC:
        from sidecar.app.public import reached  # noqa: PLC0415 - for configurations with such entries alone

        return reached(hub, generation, entry, kept)
    reach = _outbound if entry.protocol is Protocol.HTTP else _outbound_tunnels
    return reach(hub, generation, entry, kept)


# --- requests


def _inbound(hub: Hub, generation: Generation, entry: Inbound, kept: Generation) -> Entry:
    target = entry.forward.address
    key = ("inbound", entry.name, target)
    pool = kept.pools.get(key) or Pool(PlainDestination(target_of(target), hub), hub)
    generation.pools[key] = pool
    table = Table.compile(entry.allow, generation.policy_version)
    tls, tokens = _server_context(generation, entry, HTTP_ALPN), check_of(hub, generation, entry, kept)
    return InboundService(hub, entry.name, generation.own, tls, table, pool, tokens)


def _outbound(hub: Hub, generation: Generation, entry: Outbound, kept: Generation) -> Requests:
    make = partial(_tls_destination, hub, generation, entry, HTTP_ALPN)
    pool = keep_pool(hub, generation, kept, _outbound_key(generation, entry), make)
    return Requests(hub, entry, make_lanes(hub, generation, entry, pool, _route(generation, entry), kept))


# --- tunnels


def _inbound_tunnels(hub: Hub, generation: Generation, entry: Inbound, kept: Generation) -> Entry:
    target = entry.forward.address
    where = PlainDestination(target_of(target), hub)
    preface = proxy_protocol.preface if entry.proxy_protocol else None
    way = Way(where, _dialler(hub, generation, ("inbound", entry.name), kept), target, preface)
    table = Table.compile(entry.allow, generation.policy_version)
    return InboundTunnels(hub, entry.name, generation.own, _server_context(generation, entry, NO_ALPN), table, way)


def _outbound_tunnels(hub: Hub, generation: Generation, entry: Outbound, kept: Generation) -> Tunnels:
    key = _outbound_key(generation, entry)
    where = kept.destinations.get(key) or _tls_destination(hub, generation, entry, NO_ALPN)
    generation.destinations[key] = where
    dialler = _dialler(hub, generation, ("outbound", entry.name), kept)
    way = Way(where, dialler, (entry.connect, entry.server_name))
    wanted = Wanted(expect_peer(entry.named_peer, entry.pins), entry.named_peer.trust_domain)
    return Tunnels(hub, entry, way, wanted)


def _dialler(hub: Hub, generation: Generation, key: tuple[str, str], kept: Generation) -> Dialler:
    generation.diallers[key] = dialler = kept.diallers.get(key) or Dialler(hub)
    return dialler


# --- TLS


def _server_context(generation: Generation, entry: Inbound, alpn: tuple[str, ...]) -> TlsContext:
    # Each listener and each reload has its own context, so no ticket is good across either (CVE-2025-23419).
    bundles, resumes = generation.loaded.material.bundles, _resumes(generation, entry)
    return server_context(_credentials(generation), bundles, alpn, resumption=resumes)


def _outbound_key(generation: Generation, entry: Outbound) -> Hashable:
    """All that a connection of an outbound entry depends on."""
    return (_route(generation, entry), generation.key, generation.loaded.material.chain_pem)


def _route(generation: Generation, entry: Outbound) -> Hashable:
    """The same, our own certificate and its key aside."""
    bundle = generation.loaded.material.bundles[entry.named_peer.trust_domain]
    who = (entry.connect, entry.server_name, str(entry.peer), entry.pins)
    return ("outbound", entry.name, entry.protocol, _resumes(generation, entry), *who, bundle.fingerprint)


def _tls_destination(hub: Hub, generation: Generation, entry: Outbound, alpn: tuple[str, ...]) -> TlsDestination:
    bundles, domain = generation.loaded.material.bundles, entry.named_peer.trust_domain
    expect, resumes = expect_peer(entry.named_peer, entry.pins), _resumes(generation, entry)
    tls = client_context(_credentials(generation), bundles, domain, expect, alpn, resumption=resumes)
    where, not_after = target_of(entry.connect), generation.own.svid.not_after
    return TlsDestination(where, entry.server_name, tls, hub, not_after=not_after)

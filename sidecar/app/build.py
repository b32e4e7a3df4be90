"""Turns one checked configuration into services: everything that a reload replaces, built before anything is touched."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from sidecar.config.effective import policy_version
from sidecar.http.limits import HttpLimits
from sidecar.policy.routes import Route, RouteTable, listen_hosts
from sidecar.policy.table import Table
from sidecar.proxy.inbound import InboundService
from sidecar.proxy.outbound import OutboundService, TlsDestination
from sidecar.proxy.pool import PlainDestination, Pool
from sidecar.proxy.service import Self
from sidecar.tls.contexts import Credentials, client_context, server_context
from sidecar.tls.expectation import expect_peer

if TYPE_CHECKING:
    from collections.abc import Hashable

    from sidecar.config.load import Loaded
    from sidecar.config.values import Inbound, Outbound
    from sidecar.limits import Limits
    from sidecar.proxy.hub import Hub
    from sidecar.proxy.service import Service

#: Where a listener stands and which way it faces: what has to stay for its socket to stay.
Place = tuple[str, str, int]


@dataclass(frozen=True, slots=True)
class Generation:
    """Everything that belongs to one configuration. ``pools`` are keyed by all that a connection in them depends on."""

    loaded: Loaded
    own: Self
    policy_version: str
    services: dict[Place, Service] = field(default_factory=dict)
    pools: dict[Hashable, Pool] = field(default_factory=dict)


def http_limits(limits: Limits) -> HttpLimits:
    """The parser's share of the limits."""
    return HttpLimits(head_bytes=limits.head_bytes, target_bytes=limits.target_bytes, fields=limits.fields)


def build(hub: Hub, loaded: Loaded, previous: Generation | None) -> Generation:
    """Builds the services of a configuration; keeps the pools of ``previous`` whose every input is unchanged.

    Raises ConfigurationError where OpenSSL does not take the identity.
    """
    svid = loaded.material.svid
    own = Self(svid, str(svid.id), str(svid.pin), loaded.material.protection)
    generation = Generation(loaded, own, policy_version(loaded.config))
    kept = {} if previous is None else previous.pools
    for entry in loaded.config.inbound:
        place = ("inbound", entry.listen.host, entry.listen.port)
        generation.services[place] = _inbound(hub, generation, entry, kept)
    for outbound in loaded.config.outbound:
        place = ("outbound", outbound.listen.host, outbound.listen.port)
        generation.services[place] = _outbound(hub, generation, outbound, kept)
    return generation


def _credentials(loaded: Loaded) -> Credentials:
    return Credentials(loaded.material.chain_pem, loaded.material.key_pem)


def _inbound(hub: Hub, generation: Generation, entry: Inbound, kept: dict[Hashable, Pool]) -> InboundService:
    loaded = generation.loaded
    # Each listener and each reload has its own context, so no ticket is good across either (CVE-2025-23419).
    tls = server_context(_credentials(loaded), loaded.material.bundles)
    target = entry.forward.address
    key = ("inbound", entry.name, target)
    pool = kept.get(key) or Pool(PlainDestination(target.host, target.port, hub), hub)
    generation.pools[key] = pool
    table = Table.compile(entry.allow, generation.policy_version)
    return InboundService(hub, entry.name, generation.own, tls, table, pool)


def _outbound(hub: Hub, generation: Generation, entry: Outbound, kept: dict[Hashable, Pool]) -> OutboundService:
    loaded = generation.loaded
    domain = entry.peer.trust_domain
    credentials = _credentials(loaded)
    bundle = loaded.material.bundles[domain]
    key = (
        "outbound",
        entry.name,
        entry.connect,
        entry.server_name,
        str(entry.peer),
        entry.pins,
        credentials.certificate_pem,
        bundle.fingerprint,
    )
    pool = kept.get(key)
    if pool is None:
        tls = client_context(credentials, loaded.material.bundles, domain, expect_peer(entry.peer, entry.pins))
        destination = TlsDestination(entry.connect.host, entry.connect.port, entry.server_name, tls, hub)
        pool = Pool(destination, hub)
    generation.pools[key] = pool
    route = Route(
        rule=f"outbound.{entry.name}",
        listen=listen_hosts(entry.listen.host, entry.listen.port),
        hosts=entry.hosts,
        origins=entry.origins,
    )
    routes = RouteTable(route, generation.policy_version)
    return OutboundService(hub, entry.name, generation.own, routes, pool, entry.host)

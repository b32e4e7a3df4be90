"""Makes what leads to ordinary HTTPS services: for configurations with such entries alone, since it loads their parts."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, NamedTuple

from sidecar.app.outbound import Requests, keep_pool, own_hosts
from sidecar.app.tokens import make_lanes
from sidecar.policy.routes import ConnectionRoute, Route, RouteTable, connect_names
from sidecar.proxy.clients import own_and
from sidecar.proxy.dialler import Dialler
from sidecar.proxy.passthrough import CiphertextDestination, CiphertextDoor
from sidecar.proxy.public_target import PublicTarget
from sidecar.proxy.site import SiteDestination, SiteService
from sidecar.proxy.tunnel_service import OutboundTunnels, Way
from sidecar.tls.site import SiteContext, roots_version, site_tls

if TYPE_CHECKING:
    from collections.abc import Collection, Hashable

    from sidecar.app.build import Generation
    from sidecar.config.values import Address, Outbound
    from sidecar.proxy.agent_service import AgentService
    from sidecar.proxy.connection import Entry
    from sidecar.proxy.hub import Hub
    from sidecar.tls.contexts import BareContext


class Roots(NamedTuple):
    """The system's roots as one configuration found them, and OpenSSL's part of all connections that trust them."""

    version: Hashable
    tls: BareContext


class Ciphertext(NamedTuple):
    """What an entry is that passes the agent's own TLS on."""

    hub: Hub
    entry: Outbound
    way: Way

    def alone(self, generation: Generation, listen: Address) -> Entry:
        """Makes the service of a listener that has no other entry."""
        return self._door(generation, self.entry.hosts, own_hosts(listen), self.entry.uids)

    def behind(self, generation: Generation, hosts: frozenset[bytes], uids: Collection[int]) -> AgentService:
        """Makes the service for one of several entries: CONNECT to one of ``hosts`` leads to it."""
        return self._door(generation, hosts, frozenset(), uids)

    def _door(
        self, generation: Generation, hosts: frozenset[bytes], listen: frozenset[bytes], uids: Collection[int]
    ) -> CiphertextDoor:
        name, version = self.entry.name, generation.policy_version
        route, reached_by = ConnectionRoute(f"outbound.{name}", version), connect_names(hosts)
        tunnels = OutboundTunnels(
            self.hub, name, generation.own, route, self.way, None, own_and(uids), connects=reached_by
        )
        return CiphertextDoor(RouteTable(Route(rule=route.rule, listen=listen, hosts=hosts), version), tunnels)


def reached(hub: Hub, generation: Generation, entry: Outbound, kept: Generation) -> Requests | Ciphertext:
    """Makes what an entry is, or keeps what of it depends on nothing that has changed: our own identity is no part of it."""
    target = PublicTarget(entry.service.host, entry.service.port, hub, anywhere=entry.unsafe_private_addresses)
    where = (entry.service, entry.unsafe_private_addresses)
    if entry.passthrough:
        dialler_key = ("outbound", entry.name)
        generation.diallers[dialler_key] = dialler = kept.diallers.get(dialler_key) or Dialler(hub)
        return Ciphertext(hub, entry, Way(CiphertextDestination(target, hub), dialler, where))
    roots = _roots(generation, kept)
    key = ("public", entry.name, *where, entry.server_name, entry.pins, roots.version)
    pool = keep_pool(hub, generation, kept, key, partial(_destination, hub, roots, entry, target))
    return Requests(hub, entry, make_lanes(hub, generation, entry, pool, key, kept), SiteService)


def _destination(hub: Hub, roots: Roots, entry: Outbound, target: PublicTarget) -> SiteDestination:
    name = entry.server_name or entry.service.host
    return SiteDestination(target, name, SiteContext(roots.tls, name, entry.pins), hub)


def _roots(generation: Generation, kept: Generation) -> Roots:
    """Returns the roots of this configuration: read once, and not again by a reload that finds them unchanged."""
    if not generation.roots:
        version = roots_version()
        known = [roots for roots in kept.roots if roots.version == version]
        generation.roots[:] = known or [Roots(version, site_tls())]
    return generation.roots[0]

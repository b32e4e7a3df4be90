"""The entries that carry connections, of either direction: for configurations with such entries alone."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from sidecar.app.build import server_tls, target_of
from sidecar.app.outbound import outbound_key, route_of, tls_destination
from sidecar.policy.routes import ConnectionRoute, RouteTable, connect_names
from sidecar.policy.table import Table
from sidecar.proxy.clients import own_and
from sidecar.proxy.dialler import Dialler
from sidecar.proxy.pool import PlainDestination
from sidecar.proxy.tunnel_service import InboundTunnels, OutboundTunnels, Wanted, Way
from sidecar.tls.contexts import NO_ALPN
from sidecar.tls.expectation import expect_peer

if TYPE_CHECKING:
    from collections.abc import Callable, Collection

    from sidecar.app.build import Generation
    from sidecar.config.values import Address, Inbound, Outbound
    from sidecar.proxy.agent_service import AgentService
    from sidecar.proxy.connection import Entry
    from sidecar.proxy.hub import Hub
    from sidecar.proxy.tunnel import Tunnel


class Tunnels(NamedTuple):
    """What an entry is that carries connections."""

    hub: Hub
    entry: Outbound
    way: Way
    wanted: Wanted

    def alone(self, generation: Generation, listen: Address) -> Entry:  # noqa: ARG002 - nobody names it there
        """Makes the service of a listener that has no other entry: every connection becomes a tunnel."""
        return self._service(generation, self.entry.hosts, self.entry.uids)

    def behind(self, generation: Generation, hosts: frozenset[bytes], uids: Collection[int]) -> AgentService:
        """Makes the service for one of several entries: CONNECT to one of ``hosts`` becomes a tunnel."""
        from sidecar.proxy.connect_tunnel import TunnelDoor  # noqa: PLC0415 - where the listener has other entries too

        table = RouteTable(route_of(self.entry, hosts), generation.policy_version)
        return TunnelDoor(table, self._service(generation, hosts, uids))

    def _service(self, generation: Generation, hosts: frozenset[bytes], uids: Collection[int]) -> OutboundTunnels:
        name = self.entry.name
        route = ConnectionRoute(f"outbound.{name}", generation.policy_version)
        reached = connect_names(hosts)
        return OutboundTunnels(
            self.hub, name, generation.own, route, self.way, self.wanted, own_and(uids), connects=reached
        )


def inbound(hub: Hub, generation: Generation, entry: Inbound, kept: Generation) -> Entry:
    """Makes the service of an inbound entry."""
    target = entry.forward.address
    where = PlainDestination(target_of(target), hub)
    way = Way(where, _dialler(hub, generation, ("inbound", entry.name), kept), target, _preface(entry))
    table = Table.compile(entry.allow, generation.policy_version)
    return InboundTunnels(hub, entry.name, generation.own, server_tls(generation, entry, NO_ALPN), table, way)


def _preface(entry: Inbound) -> Callable[[Tunnel], bytes] | None:
    if not entry.proxy_protocol:
        return None
    from sidecar.proxy.proxy_protocol import preface  # noqa: PLC0415 - for entries that ask for it

    return preface


def outbound(hub: Hub, generation: Generation, entry: Outbound, kept: Generation) -> Tunnels:
    """Makes what an outbound entry is."""
    key = outbound_key(generation, entry)
    where = kept.destinations.get(key) or tls_destination(hub, generation, entry, NO_ALPN)
    generation.destinations[key] = where
    dialler = _dialler(hub, generation, ("outbound", entry.name), kept)
    way = Way(where, dialler, (entry.connect, entry.server_name))
    wanted = Wanted(expect_peer(entry.named_peer, entry.pins), entry.named_peer.trust_domain)
    return Tunnels(hub, entry, way, wanted)


def _dialler(hub: Hub, generation: Generation, key: tuple[str, str], kept: Generation) -> Dialler:
    generation.diallers[key] = dialler = kept.diallers.get(key) or Dialler(hub)
    return dialler

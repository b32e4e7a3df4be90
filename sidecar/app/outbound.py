"""The outbound entries of a configuration as services: each at its own listener, several at one, or all at a further one.

What an entry is (its connections, its tokens) is made once for a configuration, by `build`; the services here only say by
which names it is reached where. So one entry may stand behind several listeners.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple, TypeAlias

from sidecar.config.values import UnixAddress
from sidecar.policy.routes import SOCKET_HOSTS, ConnectionRoute, Route, RouteTable, connect_names, listen_hosts
from sidecar.proxy.agent_service import TunnelDoor
from sidecar.proxy.clients import own_and
from sidecar.proxy.front import Front
from sidecar.proxy.outbound import OutboundService
from sidecar.proxy.pool import Pool
from sidecar.proxy.tunnel_service import OutboundTunnels

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Hashable, Iterable

    from sidecar.app.build import Generation
    from sidecar.app.public import Ciphertext
    from sidecar.config.values import Address, Outbound
    from sidecar.proxy.agent_service import AgentService
    from sidecar.proxy.connection import Entry
    from sidecar.proxy.hub import Hub
    from sidecar.proxy.lane import Lanes
    from sidecar.proxy.pool import Destination
    from sidecar.proxy.tunnel_service import Wanted, Way


class Requests(NamedTuple):
    """What an entry is that carries requests."""

    hub: Hub
    entry: Outbound
    lanes: Lanes
    #: What of them it takes, and how; all are made alike.
    kind: type[OutboundService] = OutboundService

    def alone(self, generation: Generation, listen: Address) -> Entry:
        """Makes the service of a listener that has no other entry: it is reached by the listener's own names too."""
        return self._service(generation, self.entry.hosts, own_hosts(listen), self.entry.uids)

    def behind(self, generation: Generation, hosts: frozenset[bytes], uids: Collection[int]) -> AgentService:
        """Makes the service for one of several entries, reached by ``hosts``."""
        return self._service(generation, hosts, frozenset(), uids)

    def _service(
        self, generation: Generation, hosts: frozenset[bytes], listen: frozenset[bytes], uids: Collection[int]
    ) -> OutboundService:
        entry = self.entry
        table = RouteTable(route_of(entry, hosts, listen), generation.policy_version)
        return self.kind(self.hub, entry.name, generation.own, table, self.lanes, entry.host, own_and(uids))


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
        table = RouteTable(route_of(self.entry, hosts), generation.policy_version)
        return TunnelDoor(table, self._service(generation, hosts, uids))

    def _service(self, generation: Generation, hosts: frozenset[bytes], uids: Collection[int]) -> OutboundTunnels:
        name = self.entry.name
        route = ConnectionRoute(f"outbound.{name}", generation.policy_version)
        reached = connect_names(hosts)
        return OutboundTunnels(
            self.hub, name, generation.own, route, self.way, self.wanted, own_and(uids), connects=reached
        )


Reached: TypeAlias = "Requests | Tunnels | Ciphertext"


def own_hosts(listen: Address) -> frozenset[bytes]:
    """Returns the values of ``Host`` that mean a listener itself."""
    return SOCKET_HOSTS if isinstance(listen, UnixAddress) else listen_hosts(listen.host, listen.port)


def keep_pool(
    hub: Hub, generation: Generation, kept: Generation, key: Hashable, make: Callable[[], Destination]
) -> Pool:
    """Returns the pool of connections that depend on ``key`` alone: the one that there was, or a new one."""
    pool = kept.pools.get(key)
    if pool is None or pool.retired:  # a lane that was replaced may be named again
        pool = Pool(make(), hub)
    generation.pools[key] = pool
    return pool


def route_of(entry: Outbound, hosts: frozenset[bytes], listen: frozenset[bytes] = frozenset()) -> Route:
    """Returns what decides about the requests of an entry where it is reached by ``hosts`` and ``listen``."""
    return Route(
        rule=f"outbound.{entry.name}",
        listen=listen,
        hosts=hosts,
        origins=entry.origins,
        paths=entry.paths,
        methods=entry.methods,
    )


def by_listen(entries: Iterable[Outbound]) -> dict[Address, list[str]]:
    """Returns the names of the entries of each listener, in the order of the file."""
    found: dict[Address, list[str]] = {}
    for entry in entries:
        found.setdefault(entry.listen, []).append(entry.name)
    return found


def service_at(generation: Generation, listen: Address, names: list[str]) -> Entry:
    """Makes the service of a listener: its one entry's own, or that of several."""
    if len(names) == 1:
        return generation.outbound[names[0]].alone(generation, listen)
    return front_of(generation, str(listen), names, generation.outbound[names[0]].entry.uids)


def front_of(generation: Generation, name: str, entries: Iterable[str], uids: Collection[int]) -> Front:
    """Makes the service of a listener for any of the entries, also those of other listeners.

    Each is reached by its ``hosts``, or, where it has none, by its own name. ``name`` is what the log calls requests that
    fit none of them, ``uids`` are the users that are served beside our own.
    """
    found = []
    for each in entries:
        reached = generation.outbound[each]
        hosts = reached.entry.hosts or frozenset((each.encode("ascii"),))
        found.append(reached.behind(generation, hosts, uids))
    return Front(name, found)

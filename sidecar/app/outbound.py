"""The outbound entries of a configuration as services: each at its own listener, several at one, or all at a further one.

What an entry is (its connections, its tokens) is made once for a configuration, by `build`; the services here only say by
which names it is reached where. So one entry may stand behind several listeners.
"""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, NamedTuple, TypeAlias

from sidecar.app.build import credentials_of, resumes, target_of
from sidecar.app.tokens import make_lanes
from sidecar.config.values import Protocol, Tls, UnixAddress
from sidecar.policy.routes import SOCKET_HOSTS, Route, RouteTable, listen_hosts
from sidecar.proxy.clients import own_and
from sidecar.proxy.outbound import OutboundService, TlsDestination
from sidecar.proxy.pool import Pool
from sidecar.tls.contexts import HTTP_ALPN, client_context
from sidecar.tls.expectation import expect_peer

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Hashable, Iterable

    from sidecar.app.build import Generation
    from sidecar.app.public import Ciphertext
    from sidecar.app.tunnels import Tunnels
    from sidecar.config.values import Address, Outbound
    from sidecar.proxy.agent_service import AgentService
    from sidecar.proxy.connection import Entry
    from sidecar.proxy.front import Front
    from sidecar.proxy.hub import Hub
    from sidecar.proxy.lane import Lanes
    from sidecar.proxy.pool import Destination


#: What logs and metrics call what fits no entry at the listener for the agent of `sidecar exec`: no entry has this name.
AGENT = "agent_listener"


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


Reached: TypeAlias = "Requests | Tunnels | Ciphertext"


def add_services(hub: Hub, generation: Generation, kept: Generation) -> None:
    """Makes all entries of a configuration, and the services of the listeners where they are reached."""
    config = generation.loaded.config
    for entry in config.outbound:
        generation.outbound[entry.name] = _reached(hub, generation, entry, kept)
    for listen, names in by_listen(config.outbound).items():
        generation.services["outbound", listen] = service_at(hub, generation, listen, names)
    if config.agent is not None:
        generation.services["outbound", config.agent] = front_of(hub, generation, AGENT, generation.outbound, ())


def _reached(hub: Hub, generation: Generation, entry: Outbound, kept: Generation) -> Reached:
    if entry.tls is Tls.PUBLIC:
        from sidecar.app.public import reached  # noqa: PLC0415 - for configurations with such entries alone

        return reached(hub, generation, entry, kept)
    if entry.protocol is Protocol.TCP:
        from sidecar.app.tunnels import outbound  # noqa: PLC0415 - likewise

        return outbound(hub, generation, entry, kept)
    make = partial(tls_destination, hub, generation, entry, HTTP_ALPN)
    pool = keep_pool(hub, generation, kept, outbound_key(generation, entry), make)
    return Requests(hub, entry, make_lanes(hub, generation, entry, pool, _route(generation, entry), kept))


def outbound_key(generation: Generation, entry: Outbound) -> Hashable:
    """Returns all that a connection of an outbound entry depends on."""
    return (_route(generation, entry), generation.key, generation.loaded.material.chain_pem)


def _route(generation: Generation, entry: Outbound) -> Hashable:
    """The same, our own certificate and its key aside."""
    bundle = generation.loaded.material.bundles[entry.named_peer.trust_domain]
    who = (entry.connect, entry.server_name, str(entry.peer), entry.pins)
    return ("outbound", entry.name, entry.protocol, resumes(generation, entry), *who, bundle.fingerprint)


def tls_destination(hub: Hub, generation: Generation, entry: Outbound, alpn: tuple[str, ...]) -> TlsDestination:
    """Makes the named peer of an entry, as its connections reach and prove it."""
    bundles, domain = generation.loaded.material.bundles, entry.named_peer.trust_domain
    expect, resumption = expect_peer(entry.named_peer, entry.pins), resumes(generation, entry)
    tls = client_context(credentials_of(generation), bundles, domain, expect, alpn, resumption=resumption)
    where, not_after = target_of(entry.connect), generation.own.svid.not_after
    return TlsDestination(where, entry.server_name, tls, hub, not_after=not_after)


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


def service_at(hub: Hub, generation: Generation, listen: Address, names: list[str]) -> Entry:
    """Makes the service of a listener: its one entry's own, or that of several."""
    if len(names) == 1:
        return generation.outbound[names[0]].alone(generation, listen)
    return front_of(hub, generation, str(listen), names, generation.outbound[names[0]].entry.uids)


def front_of(hub: Hub, generation: Generation, name: str, entries: Iterable[str], uids: Collection[int]) -> Front:
    """Makes the service of a listener for any of the entries, also those of other listeners.

    Each is reached by its ``hosts``, or, where it has none, by its own name. ``name`` is what the log calls requests that
    fit none of them, ``uids`` are the users that are served beside our own.
    """
    from sidecar.proxy.front import Front  # noqa: PLC0415 - where several share a listener

    found = []
    for each in entries:
        reached = generation.outbound[each]
        hosts = reached.entry.hosts or frozenset((each.encode("ascii"),))
        found.append(reached.behind(generation, hosts, uids))
    return Front(hub, name, generation.own, generation.policy_version, found, own_and(uids))

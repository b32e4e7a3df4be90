"""Turns one checked configuration into services: everything that a reload replaces, built before anything is touched."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from sidecar.app.tokens import TokenParts, check_of, helpers_of
from sidecar.config.effective import policy_version
from sidecar.config.values import Protocol, Resumption, UnixAddress
from sidecar.http.limits import HttpLimits
from sidecar.policy.table import Table
from sidecar.proxy.inbound import InboundService
from sidecar.proxy.pool import PlainDestination, Pool
from sidecar.proxy.service import Self
from sidecar.proxy.target import TcpTarget, UnixTarget
from sidecar.tls.contexts import HTTP_ALPN, Credentials, server_context

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
    from sidecar.proxy.dialler import Dialler
    from sidecar.proxy.hub import Hub
    from sidecar.proxy.pool import Destination
    from sidecar.proxy.target import Target
    from sidecar.tls.contexts import TlsContext


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
        make = _requests if entry.forward.protocol is Protocol.HTTP else _tunnels
        generation.services[place] = make(hub, generation, entry, kept)
    if loaded.config.outbound or loaded.config.agent is not None:
        from sidecar.app.outbound import add_services  # noqa: PLC0415 - for configurations with such entries alone

        add_services(hub, generation, kept)
    generation.tokens.helpers = helpers_of(hub, generation)
    return generation


def target_of(address: Address) -> Target:
    """Returns where connections to an address are made to."""
    return UnixTarget(address.path) if isinstance(address, UnixAddress) else TcpTarget(address.host, address.port)


def credentials_of(generation: Generation) -> Credentials:
    """Returns what we show of ourselves."""
    return Credentials(generation.loaded.material.chain_pem, generation.key.private_key)


def resumes(generation: Generation, entry: Inbound | Outbound) -> bool:
    """Says whether TLS sessions of an entry are resumed."""
    return generation.loaded.config.resumption_of(entry) is Resumption.ALLOW


def _requests(hub: Hub, generation: Generation, entry: Inbound, kept: Generation) -> Entry:
    target = entry.forward.address
    key = ("inbound", entry.name, target)
    pool = kept.pools.get(key) or Pool(PlainDestination(target_of(target), hub), hub)
    generation.pools[key] = pool
    table = Table.compile(entry.allow, generation.policy_version)
    tls, tokens = server_tls(generation, entry, HTTP_ALPN), check_of(hub, generation, entry, kept)
    return InboundService(hub, entry.name, generation.own, tls, table, pool, tokens)


def server_tls(generation: Generation, entry: Inbound, alpn: tuple[str, ...]) -> TlsContext:
    """Makes the TLS of an inbound entry: each listener and each reload has its own, so no ticket is good across either.

    (CVE-2025-23419.)
    """
    bundles = generation.loaded.material.bundles
    return server_context(credentials_of(generation), bundles, alpn, resumption=resumes(generation, entry))


def _tunnels(hub: Hub, generation: Generation, entry: Inbound, kept: Generation) -> Entry:
    from sidecar.app.tunnels import inbound  # noqa: PLC0415 - for configurations with such entries alone

    return inbound(hub, generation, entry, kept)

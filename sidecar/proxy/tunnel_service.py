"""The two kinds of entries whose connections become tunnels: who may have one, and where it leads."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Protocol

from sidecar.errors import SidecarError
from sidecar.policy.decision import Denial, Permit
from sidecar.proxy.clients import own_and
from sidecar.proxy.connection import Entry, Kind
from sidecar.proxy.context import agent_context, caller_context
from sidecar.proxy.failure import ProxyCode
from sidecar.proxy.stream import Stream
from sidecar.proxy.tls_stream import TlsStream
from sidecar.proxy.tunnel import Tunnel
from sidecar.proxy.tunnel_account import TunnelCounters
from sidecar.telemetry.record import Context
from sidecar.tls.engine import TlsEngine

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Hashable
    from enum import StrEnum

    from sidecar.identity.spiffe import TrustDomain
    from sidecar.policy.routes import ConnectionRoute
    from sidecar.policy.table import Table
    from sidecar.proxy.dialler import Dialler
    from sidecar.proxy.hub import Hub
    from sidecar.proxy.listener import Listener
    from sidecar.proxy.pool import Destination
    from sidecar.proxy.service import Self
    from sidecar.proxy.tunnel import DownLeg
    from sidecar.tls.contexts import Expectation, TlsContext


@dataclass(frozen=True, slots=True)
class Way:
    """Where the tunnels of an entry lead, and who dials. Tunnels with equal ``place`` lead to the same address.

    ``preface`` makes what the upstream is told before the first byte of the other end.
    """

    destination: Destination
    dialler: Dialler
    place: Hashable
    preface: Callable[[Tunnel], bytes] | None = None


@dataclass(frozen=True, slots=True)
class Wanted:
    """Which peer an outbound entry wants: the check of one that is proven, and its trust domain."""

    expect: Expectation
    domain: TrustDomain


class TunnelService(Entry, Protocol):
    """The face of both."""

    way: Way
    counters: TunnelCounters

    def decide(self, tunnel: Tunnel, decision_id: str) -> Permit | Denial:
        """Decides whether a connection becomes a tunnel."""

    def review(self, tunnel: Tunnel, distrusted: Collection[TrustDomain], decision_id: str) -> Permit | StrEnum:
        """Decides about a tunnel that another configuration permitted; returns why not, or the new permit."""

    def contexts(self, tunnel: Tunnel) -> tuple[Context, ...]:
        """Says who spoke to whom, for the log."""


class InboundTunnels:
    """An inbound entry that forwards connections: each caller is proven and named once, when its handshake is done."""

    kind: ClassVar[Kind] = Kind.TCP
    direction: ClassVar[str] = "inbound"
    closed_by_drain: ClassVar[bool] = True
    secure: ClassVar[bool] = True
    several: ClassVar[bool] = False
    uids = None

    def __init__(self, hub: Hub, name: str, own: Self, tls: TlsContext, table: Table, way: Way) -> None:
        self.hub = hub
        self.name = name
        self.own = own
        self.tls = tls
        self.table = table
        self.policy_version = table.version
        self.way = way
        self.counters = TunnelCounters(hub.metrics, self.direction, name)

    def connection(self, listener: Listener[Any]) -> Tunnel:
        """Makes a tunnel."""
        return Tunnel(listener)

    def stream(self, user: DownLeg) -> Stream:
        """Makes a TLS stream, server side, for whichever service its listener has when the handshake begins."""
        listener = user.owner.listener
        return TlsStream(user, self.hub, lambda: _engine(listener.service), self.hub.limits.handshake_timeout)

    def engine(self) -> tuple[TlsContext, TlsEngine]:
        """Makes the engine of a connection. A context whose memory is full makes room for its successor first."""
        if self.tls.full:
            self.tls = self.tls.successor()
        return self.tls, TlsEngine(self.tls)

    def decide(self, tunnel: Tunnel, decision_id: str) -> Permit | Denial:
        """Decides by the allow rules that name the caller."""
        if tunnel.peer is None:
            raise RuntimeError("an inbound connection without a proven peer reached a decision")
        rules = self.table.for_peer(tunnel.peer)
        return rules.decide_connection(decision_id=decision_id, now=self.hub.clock.wall())

    def review(self, tunnel: Tunnel, distrusted: Collection[TrustDomain], decision_id: str) -> Permit | StrEnum:
        """Decides again: by the rules, the bundle that the caller was proven by, and the address that it reached."""
        if tunnel.peer is not None and tunnel.peer.id.trust_domain in distrusted:
            return ProxyCode.TRUST_CHANGED
        if self.way.place != tunnel.service.way.place:
            return ProxyCode.ENTRY_CHANGED
        verdict = self.decide(tunnel, decision_id)
        return verdict.reason if isinstance(verdict, Denial) else verdict

    def contexts(self, tunnel: Tunnel) -> tuple[Context, ...]:
        """Says which caller spoke to the agent."""
        return (caller_context(self, tunnel.own, tunnel, self.way.destination.text),)


class OutboundTunnels:
    """An outbound entry that carries connections: whoever can connect to its listener speaks to the one named peer.

    There is no request in which a browser could say that a web page sent it. What a page can send to a port is what a
    browser lets it: HTTP. A peer that speaks another protocol, or checks what it is told, is not moved by that.
    """

    kind: ClassVar[Kind] = Kind.TCP
    direction: ClassVar[str] = "outbound"
    closed_by_drain: ClassVar[bool] = False
    secure: ClassVar[bool] = False
    several: ClassVar[bool] = False

    def __init__(
        self,
        hub: Hub,
        name: str,
        own: Self,
        route: ConnectionRoute,
        way: Way,
        wanted: Wanted | None,
        uids: frozenset[int] | None = None,
        connects: frozenset[bytes] = frozenset(),
    ) -> None:
        """``uids`` are the users whose processes are served: our own unless it says otherwise.

        ``connects`` are the authorities of CONNECT that lead here, where the listener has other entries too. ``wanted``
        is None where nobody is proven here: the bytes are the agent's own TLS.
        """
        self.hub = hub
        self.name = name
        self.own = own
        self.route = route
        self.policy_version = route.version
        self.way = way
        self.wanted = wanted
        self.uids = own_and(()) if uids is None else uids
        self.connects = connects
        self.counters = TunnelCounters(hub.metrics, self.direction, name)
        self._unreached = Context.of(dst_addr=way.destination.text)

    def connection(self, listener: Listener[Any]) -> Tunnel:
        """Makes a tunnel."""
        return Tunnel(listener)

    def stream(self, user: DownLeg) -> Stream:
        """Makes a plaintext stream."""
        return Stream(user, self.hub)

    def tunnels_at(self, authority: bytes) -> OutboundTunnels | None:
        """Returns itself for a tunnel that CONNECT has begun, when the listener had other entries too."""
        return self if authority in self.connects else None

    def decide(self, tunnel: Tunnel, decision_id: str) -> Permit:  # noqa: ARG002 - nothing is known of it
        """Permits: the entry names the peer, and that peer is proven before a byte is sent."""
        return self.route.decide_connection(decision_id=decision_id)

    def review(self, tunnel: Tunnel, distrusted: Collection[TrustDomain], decision_id: str) -> Permit | StrEnum:
        """Decides again: by the peer that was proven, its bundle, and the address that was dialled."""
        peer, wanted = tunnel.remote_peer, self.wanted
        if wanted is not None and (wanted.domain if peer is None else peer.id.trust_domain) in distrusted:
            return ProxyCode.TRUST_CHANGED
        if self.way.place != tunnel.service.way.place:
            return ProxyCode.ENTRY_CHANGED
        if peer is not None and wanted is not None:
            try:
                wanted.expect(peer)
            except SidecarError as error:
                return error.code
        return self.decide(tunnel, decision_id)

    def contexts(self, tunnel: Tunnel) -> tuple[Context, ...]:
        """Says that we spoke to the peer; who that is stands there once it was proven."""
        up = tunnel.up
        proven = None if up is None else up.service.way.destination.context(up.stream)
        called = Context.of(dst_name=tunnel.dst_name)
        return (agent_context(self, tunnel.own, tunnel), proven or self._unreached, called)


def _engine(service: Entry) -> tuple[TlsContext, TlsEngine]:
    if not isinstance(service, InboundTunnels):
        raise TypeError("an inbound listener was given another kind of service")
    return service.engine()

"""Outbound: the agent's plaintext requests go to one named peer, proven by chain, name and pin before anything is sent."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, ClassVar

from sidecar.http.fields import fold
from sidecar.policy.decision import Permit
from sidecar.proxy.agent_service import AgentService, OnConnect
from sidecar.proxy.connect import Connect
from sidecar.proxy.secured import SecuredDestination
from sidecar.proxy.service import Self, Wait, head_bytes
from sidecar.proxy.stream import NEVER
from sidecar.proxy.tls_stream import TlsStream
from sidecar.telemetry.record import Context
from sidecar.tls.engine import TlsEngine

if TYPE_CHECKING:
    from sidecar.identity.peer import Peer
    from sidecar.policy.decision import Denial
    from sidecar.policy.routes import RouteTable
    from sidecar.proxy.exchange import Exchange
    from sidecar.proxy.hub import Hub
    from sidecar.proxy.lane import Lanes
    from sidecar.proxy.pool import Destination
    from sidecar.proxy.stream import Stream
    from sidecar.proxy.target import Target
    from sidecar.tls.contexts import TlsContext
    from sidecar.tokens.lease import Lease


class TlsDestination(SecuredDestination):
    """The named peer of an outbound entry; resumes TLS sessions where the peer offers them."""

    def __init__(
        self, target: Target, server_name: str | None, context: TlsContext, hub: Hub, *, not_after: float = NEVER
    ) -> None:
        """``not_after``: the end of our own certificate, in seconds since the epoch."""
        super().__init__(target, hub)
        self._server_name = server_name
        self._context = context
        self._not_after = not_after

    def _engine(self) -> tuple[TlsContext, TlsEngine]:
        if self._context.full:
            self._context = self._context.successor()
        context = self._context
        return context, TlsEngine(context, server_name=self._server_name, session=context.sessions.take(self.text))

    def context(self, stream: Stream) -> Context | None:
        """Says who was proven at the other end, for the log."""
        peer = stream.peer
        if peer is None:
            return None
        return Context.of(dst_identity=str(peer.id), dst_addr=self.text, cert_serial=peer.serial)

    def not_after(self, stream: Stream) -> float:
        """The earlier end of our own chain and the proven peer's."""
        return self._not_after if stream.peer is None else min(self._not_after, stream.peer.not_after)

    def replaces(self, before: Destination) -> bool:
        """The same address, called by the same name."""
        if not isinstance(before, TlsDestination):
            return False
        return (self.text, self._server_name) == (before.text, before._server_name)  # noqa: SLF001 - one of its own kind

    def check(self, peer: Peer | None) -> None:
        """Holds the peer to the name and the pins that are asked for now. Raises VerificationError."""
        if peer is not None:
            self._context.check(peer)

    def settled(self, stream: Stream) -> None:
        """Keeps the session of a connection that has been read from: TLS 1.3 tickets come after the handshake."""
        if isinstance(stream, TlsStream) and stream.context is self._context:
            self._context.sessions.put(self.text, stream.engine.session())


class OutboundService(AgentService):
    """One outbound entry as of one configuration, where it carries requests."""

    connecting: ClassVar[type[Exchange]] = Connect
    on_connect: ClassVar[OnConnect] = OnConnect.BIND

    def __init__(
        self,
        hub: Hub,
        name: str,
        own: Self,
        routes: RouteTable,
        lanes: Lanes,
        host: bytes | None,
        uids: frozenset[int] | None = None,
    ) -> None:
        """``uids`` are the users whose processes are served: our own unless it says otherwise."""
        # The connections of the pool are made with the certificate in force.
        pool = lanes.present.pool
        super().__init__(hub, name, own, routes, pool, leads_to=pool.destination.text, uids=uids)
        self.lanes = lanes
        self.host = host
        lease = lanes.present.lease
        # The agent's own value of the field that we set is removed in any case: also where no token could be had.
        self.strip = frozenset() if lease is None else frozenset((fold(lease.field.name.lower()),))

    def authorise(self, exchange: Exchange, decision_id: str) -> Permit | Denial | Wait:
        """Decides whether this entry takes the request at all, and where it goes with which token."""
        head = exchange.head
        page = exchange.facts.page
        bound = exchange.down.bound
        routes = self.routes if bound is None else bound.routes(self)
        verdict = routes.route(head.method, head.authority, head.host, head.path, page, decision_id=decision_id)
        if not isinstance(verdict, Permit) or exchange.credential is not None:
            return verdict
        lanes = self.lanes
        lane = lanes.present if lanes.before is None else lanes.choose()
        exchange.pool = lane.pool
        if lane.lease is None:
            return verdict
        exchange.credential = lane.lease.current()
        return verdict if exchange.credential is not None else Wait(partial(_obtain, exchange, lane.lease), verdict)

    def rejected(self, exchange: Exchange) -> bool:
        """Drops the token that came back with a 401; says whether another may do better."""
        credential = exchange.credential
        leases = [lane.lease for lane in (self.lanes.present, self.lanes.before) if lane and lane.pool is exchange.pool]
        return any(lease.reject(credential) for lease in leases if lease is not None and credential is not None)

    def outgoing(self, exchange: Exchange) -> bytes:
        """Writes the head for the peer; ``Host`` is as received unless the entry overrides it."""
        credential = exchange.credential
        if credential is None and self.strip:
            raise RuntimeError("a request without its token reached the upstream")
        return head_bytes(exchange, b"" if credential is None else credential.line, self.host, self.strip)


async def _obtain(exchange: Exchange, lease: Lease) -> None:
    """Gets a request its token, of the lane that was chosen for it. Raises SourceError."""
    exchange.credential = await lease.obtain()

"""Outbound: the agent's plaintext requests go to one named peer, proven by chain, name and pin before anything is sent."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, ClassVar

from sidecar.http.fields import fold
from sidecar.policy.decision import Permit
from sidecar.proxy.clients import own_and
from sidecar.proxy.connection import Kind
from sidecar.proxy.context import agent_context
from sidecar.proxy.counters import Counters
from sidecar.proxy.service import Self, Wait, head_bytes
from sidecar.proxy.stream import NEVER, Stream
from sidecar.proxy.tls_stream import TlsStream
from sidecar.telemetry.encode import asked
from sidecar.telemetry.record import Context
from sidecar.telemetry.text import quoted
from sidecar.tls.engine import TlsEngine

if TYPE_CHECKING:
    from sidecar.identity.peer import Peer
    from sidecar.policy.decision import Denial
    from sidecar.policy.routes import RouteTable
    from sidecar.proxy.downstream import Downstream
    from sidecar.proxy.exchange import Exchange
    from sidecar.proxy.hub import Hub
    from sidecar.proxy.lane import Lanes
    from sidecar.proxy.pool import Destination, Pool
    from sidecar.proxy.stream import StreamUser
    from sidecar.proxy.target import Target
    from sidecar.tls.contexts import TlsContext
    from sidecar.tokens.lease import Lease


class _Memo:
    """What the log says of one connection from the agent."""

    __slots__ = ("context", "host", "method", "path", "peer", "service", "told")

    def __init__(self, service: OutboundService, context: Context) -> None:
        self.service = service
        self.context = context
        #: What the log says of the last request, and of which.
        self.told = self.peer = ""
        self.method = self.path = self.host = b""


class TlsDestination:
    """The named peer of an outbound entry; resumes TLS sessions where the peer offers them."""

    def __init__(
        self, target: Target, server_name: str | None, context: TlsContext, hub: Hub, *, not_after: float = NEVER
    ) -> None:
        """``not_after``: the end of our own certificate, in seconds since the epoch."""
        self.text = target.text
        self._target = target
        self._server_name = server_name
        self._context = context
        self._hub = hub
        self._not_after = not_after

    async def open(self, stream: Stream) -> None:
        """Connects to the one target."""
        await self._target.open(self._hub.loop, stream)

    def stream(self, user: StreamUser) -> Stream:
        """Makes a TLS stream, client side."""
        return TlsStream(user, self._hub, self._engine, self._hub.limits.connect_timeout)

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


class OutboundService:
    """One outbound entry as of one configuration."""

    kind: ClassVar[Kind] = Kind.HTTP
    direction: ClassVar[str] = "outbound"
    closed_by_drain: ClassVar[bool] = False
    secure: ClassVar[bool] = False

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
        self.hub = hub
        self.name = name
        self.own = own
        self.routes = routes
        self.policy_version = routes.version
        self.lanes = lanes
        #: The connections that are made with the certificate in force.
        self.pool: Pool = lanes.present.pool
        self.counters = Counters(hub.metrics, self.direction, name)
        self.host = host
        self.uids = own_and(()) if uids is None else uids
        lease = lanes.present.lease
        # The agent's own value of the field that we set is removed in any case: also where no token could be had.
        self.strip = frozenset() if lease is None else frozenset((fold(lease.field.name.lower()),))
        self._unreached = Context.of(dst_addr=self.pool.destination.text)

    def stream(self, user: Downstream) -> Stream:
        """Makes a plaintext stream."""
        return Stream(user, self.hub)

    def authorise(self, exchange: Exchange, decision_id: str) -> Permit | Denial | Wait:
        """Decides whether this entry takes the request at all, and where it goes with which token."""
        head = exchange.head
        page = exchange.facts.page
        verdict = self.routes.route(head.method, head.authority, head.host, head.path, page, decision_id=decision_id)
        if not isinstance(verdict, Permit) or exchange.credential is not None:
            return verdict
        lanes = self.lanes
        lane = lanes.present if lanes.before is None else lanes.choose()
        exchange.pool = lane.pool
        if lane.lease is None:
            return verdict
        exchange.credential = lane.lease.current()
        return verdict if exchange.credential is not None else Wait(partial(_obtain, exchange, lane.lease), verdict)

    def decide_again(self, exchange: Exchange, decision_id: str) -> Permit | Denial:
        """Decides by the request alone: its token stays the one that it went with."""
        head, page = exchange.head, exchange.facts.page
        return self.routes.route(head.method, head.authority, head.host, head.path, page, decision_id=decision_id)

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

    def told(self, exchange: Exchange) -> str:
        """Says that we asked the peer for what; who that is stands there once it was proven."""
        memo, head = self._memo(exchange.down), exchange.head
        peer = (exchange.upstream_context or self._unreached).json
        if memo.path != head.path or memo.method != head.method or memo.host != head.host or memo.peer != peer:
            memo.path, memo.method, memo.host, memo.peer = head.path, head.method, head.host, peer
            name = f',"dst.name":{quoted(head.host)}'
            memo.told = memo.context.json + peer + name + asked(head.method, head.path)
        return memo.told

    def context(self, connection: Downstream) -> Context:
        """Says which agent connection this is, and that we speak for it."""
        return self._memo(connection).context

    def _memo(self, connection: Downstream) -> _Memo:
        memo = connection.memo
        if isinstance(memo, _Memo) and memo.service is self:
            return memo
        connection.memo = memo = _Memo(self, agent_context(self, self.own, connection))
        return memo


async def _obtain(exchange: Exchange, lease: Lease) -> None:
    """Gets a request its token, of the lane that was chosen for it. Raises SourceError."""
    exchange.credential = await lease.obtain()

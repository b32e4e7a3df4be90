"""What all services share that take the agent's requests, and what CONNECT does at each of them.

`outbound.OutboundService` sends requests to its peer. `connect_tunnel.TunnelDoor` has no requests: CONNECT is the way into
the tunnels of its entry. `front.Front` stands before several of them, and answers itself what none of them takes.
"""

from __future__ import annotations

from enum import Enum, auto
from typing import TYPE_CHECKING, Any, ClassVar

from sidecar.proxy.clients import own_and
from sidecar.proxy.connection import Kind
from sidecar.proxy.context import agent_context
from sidecar.proxy.counters import Counters
from sidecar.proxy.downstream import Downstream
from sidecar.proxy.exchange import Exchange
from sidecar.proxy.pool import Pool
from sidecar.proxy.stream import Stream
from sidecar.telemetry.encode import asked
from sidecar.telemetry.record import Context
from sidecar.telemetry.text import quoted

if TYPE_CHECKING:
    from sidecar.identity.peer import Peer
    from sidecar.policy.decision import Denial, Permit
    from sidecar.policy.routes import RouteTable
    from sidecar.proxy.bound import Bound
    from sidecar.proxy.hub import Hub
    from sidecar.proxy.listener import Listener
    from sidecar.proxy.pool import Destination
    from sidecar.proxy.service import Self, Wait
    from sidecar.proxy.stream import StreamUser
    from sidecar.proxy.tunnel_service import OutboundTunnels


class OnConnect(Enum):
    """What a CONNECT that an entry permits becomes; `connect.Connect` has one branch for each."""

    REFUSE = auto()  # 405, whatever it names
    BIND = auto()  # 200, and the connection goes on as HTTP/1.1 that is bound to the entry
    TUNNEL = auto()  # dialled, 200, and the connection goes on as a tunnel: `TunnelDoor.tunnel`


class _Memo:
    """What the log says of one connection from the agent."""

    __slots__ = ("context", "host", "method", "path", "peer", "service", "told")

    def __init__(self, service: AgentService, context: Context) -> None:
        self.service = service
        self.context = context
        #: What the log says of the last request, and of which.
        self.told = self.peer = ""
        self.method = self.path = self.host = b""


class AgentService:
    """The agent's side of one outbound entry as of one configuration; itself it forwards nothing.

    ``leads_to`` is where that is, for the log.
    """

    kind: ClassVar[Kind] = Kind.HTTP
    direction: ClassVar[str] = "outbound"
    closed_by_drain: ClassVar[bool] = False
    secure: ClassVar[bool] = False
    several: ClassVar[bool] = False
    #: Goes with `on_connect`: `connect.Connect` for anything but REFUSE.
    connecting: ClassVar[type[Exchange]] = Exchange
    on_connect: ClassVar[OnConnect] = OnConnect.REFUSE
    #: What the log calls the other end; None for what the agent called it.
    called: bytes | None = None

    def __init__(
        self,
        hub: Hub,
        name: str,
        own: Self,
        routes: RouteTable,
        pool: Pool,
        *,
        leads_to: str | None = None,
        uids: frozenset[int] | None = None,
    ) -> None:
        """``uids`` are the users whose processes are served: our own unless it says otherwise."""
        self.hub = hub
        self.name = name
        self.own = own
        self.routes = routes
        self.policy_version = routes.version
        self.pool = pool
        self.uids = own_and(()) if uids is None else uids
        self.counters = Counters(hub.metrics, self.direction, name)
        self.strip: frozenset[bytes] = frozenset()
        self._unreached = Context.of(dst_addr=leads_to)

    # -- what a connection asks -----------------------------------------------------------------------------------

    def connection(self, listener: Listener[Any]) -> Downstream:
        """Makes one that carries requests."""
        return Downstream(listener)

    def stream(self, user: StreamUser) -> Stream:
        """Makes a plaintext stream."""
        return Stream(user, self.hub)

    def holds(self, bound: Bound) -> bool:
        """Says whether a connection that CONNECT has bound may go on here."""
        return (
            self.on_connect is OnConnect.BIND and bound.entry == self.name and bound.authority in self.routes.connects
        )

    def tunnels_at(self, authority: bytes) -> OutboundTunnels | None:  # noqa: ARG002 - the others look
        """Returns the tunnels that a CONNECT to ``authority`` leads into; None where it leads into none."""
        return None

    # -- what a request asks --------------------------------------------------------------------------------------

    def connect(self, exchange: Exchange, decision_id: str) -> Permit | Denial:
        """Decides a CONNECT. Only asked where `on_connect` is something else than REFUSE."""
        return self.routes.connect(exchange.head.authority, exchange.facts.page, decision_id=decision_id)

    def authorise(self, exchange: Exchange, decision_id: str) -> Permit | Denial | Wait:
        """Decides a request by the names of the entry."""
        return self.decide_again(exchange, decision_id)

    def decide_again(self, exchange: Exchange, decision_id: str) -> Permit | Denial:
        """Decides by the request alone: its token stays the one that it went with."""
        head, page, bound = exchange.head, exchange.facts.page, exchange.down.bound
        routes = self.routes if bound is None else bound.routes(self)
        return routes.route(head.method, head.authority, head.host, head.path, page, decision_id=decision_id)

    def rejected(self, exchange: Exchange) -> bool:  # noqa: ARG002 - nothing of ours went along
        """Says no."""
        return False

    def outgoing(self, exchange: Exchange) -> bytes:  # noqa: ARG002 - the face of those that forward
        """Nothing goes on from here. Raises RuntimeError."""
        raise RuntimeError(f"a request was permitted where nothing is forwarded ({self.name})")

    # -- what the log asks ----------------------------------------------------------------------------------------

    def told(self, exchange: Exchange) -> str:
        """Says that we asked the peer for what; who that is stands there once it was proven."""
        memo, head = self._memo(exchange.down), exchange.head
        peer = (exchange.upstream_context or self._unreached).json
        if memo.path != head.path or memo.method != head.method or memo.host != head.host or memo.peer != peer:
            memo.path, memo.method, memo.host, memo.peer = head.path, head.method, head.host, peer
            name = f',"dst.name":{quoted(self.called or head.host)}'
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


class _Nowhere:
    """The destination of what has none: not even a defect can send anything there."""

    text = ""

    async def open(self, stream: Stream) -> None:  # noqa: ARG002 - see above
        """Raises RuntimeError."""
        raise RuntimeError("a connection was to be made where nothing is forwarded")

    def stream(self, user: StreamUser) -> Stream:  # noqa: ARG002 - see above
        """Raises RuntimeError."""
        raise RuntimeError("a connection was to be made where nothing is forwarded")

    def context(self, stream: Stream) -> Context | None:  # noqa: ARG002 - see above
        """There is nobody."""
        return None

    def not_after(self, stream: Stream) -> float:  # noqa: ARG002 - see above
        """It never began."""
        return 0.0

    def replaces(self, before: Destination) -> bool:  # noqa: ARG002 - see above
        """Says no."""
        return False

    def check(self, peer: Peer | None) -> None:
        """There is nobody to check."""

    def settled(self, stream: Stream) -> None:
        """There is nothing to learn."""


def nowhere(hub: Hub) -> Pool:
    """Makes a pool that never has a connection."""
    return Pool(_Nowhere(), hub)

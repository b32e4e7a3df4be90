"""Inbound: mutual TLS ends here, callers are proven and named, and their requests go to the agent in plaintext."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar

from sidecar.http.xfcc import identity_block
from sidecar.policy.decision import Permit
from sidecar.proxy.connection import Kind
from sidecar.proxy.context import caller_context
from sidecar.proxy.counters import Counters
from sidecar.proxy.downstream import Downstream
from sidecar.proxy.exchange import Exchange
from sidecar.proxy.service import Self, Wait, head_bytes
from sidecar.proxy.tls_stream import TlsStream
from sidecar.telemetry.encode import asked
from sidecar.tls.engine import TlsEngine
from sidecar.tokens.outcome import KeysWanted

if TYPE_CHECKING:
    from sidecar.policy.decision import Denial
    from sidecar.policy.table import PeerRules, Table
    from sidecar.proxy.hub import Hub
    from sidecar.proxy.inbound_tokens import Asker, TokenCheck
    from sidecar.proxy.listener import Listener
    from sidecar.proxy.pool import Pool
    from sidecar.proxy.service import Service
    from sidecar.proxy.stream import Stream
    from sidecar.telemetry.record import Context
    from sidecar.tls.contexts import TlsContext


class _Memo:
    """What one connection needs again and again: its peer's rules, and the identity headers that name it."""

    __slots__ = ("asker", "context", "identity", "method", "path", "rules", "service", "told")

    def __init__(self, service: InboundService, rules: PeerRules, identity: bytes, context: Context) -> None:
        self.service = service
        self.rules = rules
        self.identity = identity
        self.context = context
        #: What decided about the token of the last request.
        self.asker: Asker | None = None
        #: What the log says of the last request, and of which.
        self.told = ""
        self.method = self.path = b""


class InboundService:
    """One inbound entry as of one configuration."""

    kind: ClassVar[Kind] = Kind.HTTP
    direction: ClassVar[str] = "inbound"
    closed_by_drain: ClassVar[bool] = True
    secure: ClassVar[bool] = True
    several: ClassVar[bool] = False
    connecting: ClassVar[type[Exchange]] = Exchange
    uids = None

    def __init__(
        self,
        hub: Hub,
        name: str,
        own: Self,
        tls: TlsContext,
        table: Table,
        pool: Pool,
        tokens: TokenCheck | None = None,
    ) -> None:
        """``tokens`` is needed where a rule of the table asks for a token."""
        self.hub = hub
        self.name = name
        self.own = own
        self.tls = tls
        self.table = table
        self.policy_version = table.version
        self.pool = pool
        self.tokens = tokens
        self.strip = frozenset() if tokens is None else tokens.strip
        self.counters = Counters(hub.metrics, self.direction, name)

    def connection(self, listener: Listener[Any]) -> Downstream:
        """Makes one that carries requests."""
        return Downstream(listener)

    def stream(self, user: Downstream) -> Stream:
        """Makes a TLS stream, server side, for whichever service its listener has when the handshake begins."""
        return TlsStream(user, self.hub, lambda: _engine(user.listener.service), self.hub.limits.handshake_timeout)

    def engine(self) -> tuple[TlsContext, TlsEngine]:
        """Makes the engine of a connection. A context whose memory is full makes room for its successor first."""
        if self.tls.full:
            self.tls = self.tls.successor()
        return self.tls, TlsEngine(self.tls)

    def authorise(self, exchange: Exchange, decision_id: str) -> Permit | Denial | Wait:
        """Decides by the allow rules that name the caller; the rules are found once for a connection and policy."""
        head, now = exchange.head, self.hub.clock.wall()
        memo = self._memo(exchange.down)
        if self.tokens is None:
            verdict = memo.rules.decide(head.method, head.path, decision_id=decision_id, now=now)
        else:
            memo.asker = ask = self.tokens.asker(exchange, now, memo.asker)
            verdict = memo.rules.decide(head.method, head.path, decision_id=decision_id, now=now, ask=ask)
        if isinstance(verdict, KeysWanted):
            if self.tokens is None:
                raise RuntimeError("keys are wanted where no token is asked for")
            return Wait(self.tokens.keys_of(verdict.issuer))
        return verdict

    def decide_again(self, exchange: Exchange, decision_id: str) -> Permit | Denial | None:
        """Decides the same request by the rules, and its token, as of now."""
        verdict = self.authorise(exchange, decision_id)
        return None if isinstance(verdict, Wait) else verdict

    def rejected(self, exchange: Exchange) -> bool:  # noqa: ARG002 - the agent's 401 is the caller's to read
        """Says no: nothing of ours went along."""
        return False

    def outgoing(self, exchange: Exchange) -> bytes:
        """Writes the head for the agent, with the caller's proven identity in it."""
        identity = self._memo(exchange.down).identity
        if self.tokens is None:
            return head_bytes(exchange, identity)
        verdict = exchange.verdict
        extra, strip = self.tokens.forwarded(verdict.admitted if isinstance(verdict, Permit) else None)
        return head_bytes(exchange, identity + extra, strip=strip)

    def told(self, exchange: Exchange) -> str:
        """Says which caller asked the agent for what."""
        memo, head = self._memo(exchange.down), exchange.head
        if memo.path != head.path or memo.method != head.method:
            memo.path, memo.method = head.path, head.method
            memo.told = memo.context.json + asked(head.method, head.path)
        return memo.told

    def context(self, connection: Downstream) -> Context:
        """Says who is at the other end of a connection; its peer may not be proven."""
        if connection.peer is not None:
            return self._memo(connection).context
        return caller_context(self, self.own, connection, self.pool.destination.text)

    def _memo(self, connection: Downstream) -> _Memo:
        memo = connection.memo
        if isinstance(memo, _Memo) and memo.service is self:
            return memo
        peer = connection.peer
        if peer is None:
            raise RuntimeError("an inbound connection without a proven peer reached a decision")
        context = caller_context(self, self.own, connection, self.pool.destination.text)
        identity = identity_block(self.own.name, peer.leaf_sha256, str(peer.id))
        connection.memo = memo = _Memo(self, self.table.for_peer(peer), identity, context)
        return memo


def _engine(service: Service) -> tuple[TlsContext, TlsEngine]:
    if not isinstance(service, InboundService):
        raise TypeError("an inbound listener was given another kind of service")
    return service.engine()

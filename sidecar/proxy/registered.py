"""A downstream connection that carries requests, as the registry has it: listed, reviewed, let go of, and growing old."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import TYPE_CHECKING, Any, ClassVar, cast

from sidecar.proxy import account
from sidecar.proxy.failure import HandshakeOutdatedError, ProxyCode
from sidecar.proxy.lifetime import Age, Lifetime
from sidecar.proxy.stream import NEVER, State
from sidecar.telemetry.record import Event

if TYPE_CHECKING:
    from collections.abc import Collection

    from sidecar.http.messages import RequestHead
    from sidecar.identity.peer import Peer
    from sidecar.identity.spiffe import TrustDomain
    from sidecar.proxy.bound import Bound
    from sidecar.proxy.connection import Kind
    from sidecar.proxy.exchange import Exchange
    from sidecar.proxy.front import Front
    from sidecar.proxy.hub import Hub
    from sidecar.proxy.listener import Listener
    from sidecar.proxy.service import Service
    from sidecar.proxy.stream import Stream


class Registered(ABC):
    """What the registry asks of such a connection. `sidecar.proxy.downstream.Downstream` is the only kind there is."""

    # Set by whoever is one, as in `sidecar.proxy.ending`.
    kind: ClassVar[Kind]
    listener: Listener[Service]
    hub: Hub
    peer: Peer | None
    stream: Stream
    exchange: Exchange | None
    started: float
    requests: int
    retiring: bool
    outdated: ProxyCode | None
    lifetime: Lifetime
    #: The http entry that a CONNECT has bound it to; None on any other connection.
    bound: Bound | None

    @property
    def service(self) -> Service:
        """What its requests have in common: the entry it is bound to, or whatever its listener has."""
        return self.listener.service if self.bound is None else self.service_for(None)

    def service_for(self, head: RequestHead | None) -> Service:
        """Returns the service in force that a request is for; on a connection that is bound all are for the same."""
        service = self.listener.service
        return cast("Front", service).pick(head, self.bound) if service.several else service

    def note_long_lived(self, now: float) -> None:
        """Writes the ``open`` line of an exchange that lives for long, or ends one that has lived for too long."""
        exchange = self.exchange
        first, self.started = self.started, NEVER
        if exchange is None:
            return
        if now >= exchange.started + self.hub.limits.total_timeout:
            exchange.fail(ProxyCode.TOTAL_TIMEOUT)
            return
        self.started = self.hub.started_long_ago(exchange.started)
        if first == exchange.started and exchange.verdict is not None:
            account.exchanged(self.hub, exchange, Event.OPEN)

    def retire(self) -> None:
        """Takes no further request: an idle connection closes now, a busy one after its response."""
        self.retiring = True
        if self.exchange is None:
            self.stream.close()

    def review(self, distrusted: Collection[TrustDomain]) -> None:
        """Finishes what is in flight, where the entry is gone or another one, or the caller's bundle has changed."""
        if self.exchange is not None and self.started != self.exchange.started:
            self.started = self.hub.started_long_ago(self.exchange.started)  # the limit may be another one
        code = self._outdated(distrusted)
        if code is None:
            return
        self.outdated = code
        if self.stream.state is State.OPENING:
            self.listener.refused(self, HandshakeOutdatedError(code))
        self.retire()

    def _outdated(self, distrusted: Collection[TrustDomain]) -> ProxyCode | None:
        listener = self.listener
        if listener.stopped:
            return ProxyCode.ENTRY_REMOVED
        if listener.service.kind is not self.kind:
            return ProxyCode.ENTRY_CHANGED
        if self.bound is not None and not self.bound.stands(listener.service):
            return ProxyCode.ENTRY_REMOVED  # another entry may have the name now: that is not what was asked for
        if not listener.serves(self):
            return ProxyCode.UID_NOT_ALLOWED
        if not distrusted or not listener.service.secure:
            return None
        # Who is still in a handshake is being proven by the old bundles: it has to begin again.
        trusted = self.peer is not None and self.peer.id.trust_domain not in distrusted
        return None if trusted else ProxyCode.TRUST_CHANGED

    def give_up(self, code: ProxyCode) -> None:  # noqa: ARG002 - its exchange logs that the connection was lost
        """Ends at once."""
        self.stream.abort()

    def details(self) -> dict[str, Any]:
        """Says what only a connection with requests has."""
        shown: dict[str, Any] = {
            "requests": self.requests,
            "policy.version": self.listener.service.policy_version,
            "busy": self.exchange is not None,
        }
        if self.bound is not None:
            shown["dst.name"] = self.bound.authority.decode("ascii")
        if self.exchange is not None and self.exchange.verdict is not None:
            shown["decision.id"] = self.exchange.verdict.decision_id
        return shown

    # -- its age --------------------------------------------------------------------------------------------------

    def begin_life(self) -> None:
        """It was accepted: from now on its time runs, no longer than our own certificate, which it is about to show."""
        service = self.listener.service
        self.lifetime = Lifetime(self.hub, service.own.svid.not_after if service.secure else NEVER)

    def grow_old(self) -> None:
        """Looks at how old it is: in its last tenth it takes no further request, and then it ends."""
        age = self.lifetime.look(self.stream)
        if age is Age.LAST:
            # An idle one is not closed for that: a request may be on its way, and its answer says so in good time.
            self.retiring = True
        elif age is Age.OVER:
            self._outlived()

    def _outlived(self) -> None:
        exchange = self.exchange
        if exchange is None:
            self.note_closed(self.lifetime.code)
            self.retire()
            return
        exchange.cancel(self.lifetime.hit())
        self.cut(exchange)

    @abstractmethod
    def note_closed(self, code: ProxyCode) -> None:
        """Writes that a limit ends it, and no request with it."""

    @abstractmethod
    def cut(self, exchange: Exchange) -> None:
        """Ends a response that cannot be finished, so that the peer can tell (RFC 9112 8)."""

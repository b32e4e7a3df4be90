"""A WebSocket: what a request becomes when its upstream answers 101, until both connections have ended.

Decided, authorised and logged as the request that it began as; from then on bytes, carried by the two ends of a tunnel
(`sidecar.proxy.splice`). It takes the place of the connection that it came over in the registry: a reload decides it anew,
and whatever ends a connection that carries requests ends it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar

from sidecar.errors import SidecarError
from sidecar.http.fields import forward_response
from sidecar.http.messages import Framing
from sidecar.http.websocket import UPGRADE
from sidecar.policy.decision import Denial
from sidecar.proxy import account
from sidecar.proxy.connection import Kind
from sidecar.proxy.failure import UPSTREAM_NAMES, ProxyCode
from sidecar.proxy.lifetime import Age, Lifetime
from sidecar.proxy.splice import Leg
from sidecar.proxy.stream import NEVER, Expiry
from sidecar.telemetry.record import Event
from sidecar.tokens.codes import TokenCode

if TYPE_CHECKING:
    from collections.abc import Collection
    from enum import StrEnum

    from sidecar.http.messages import ResponseHead
    from sidecar.identity.spiffe import TrustDomain
    from sidecar.proxy.exchange import Exchange
    from sidecar.proxy.service import Service
    from sidecar.proxy.stream import Stream
    from sidecar.proxy.upstream import Upstream

#: How often silence is looked for, in seconds: what ``stream_idle_timeout`` may be late by.
LOOK_SECONDS = 10.0


def switch(exchange: Exchange, head: ResponseHead, behind: bytes) -> None:
    """Makes a WebSocket of an exchange whose upstream agrees to it; ``behind`` came with that answer.

    What came in between, a drain or a reload, counts as if it had come a moment later: then there is none.
    """
    hub, service = exchange.down.hub, exchange.service
    if exchange.upstream is None:
        return
    made = WebSocket(exchange, exchange.upstream)
    if hub.draining and service.closed_by_drain:
        exchange.fail(ProxyCode.DRAINING)
        return
    reason = exchange.down.outdated or made.objection(())
    if reason is not None:
        exchange.fail(ProxyCode.UPSTREAM_GONE, reason)
        return
    made.begin(head, behind)


class _End(Leg):
    """One of the two connections, with what limits it."""

    owner: WebSocket

    def __init__(self, owner: WebSocket, stream: Stream, lifetime: Lifetime) -> None:
        super().__init__(owner)
        self.stream = stream
        self.lifetime = lifetime
        self._mark = 0

    def take_over(self) -> None:
        """Takes the stream from whoever spoke HTTP on it."""
        stream = self.stream
        stream.user = self
        stream.read_deadline = stream.write_deadline = NEVER
        if stream.writing_paused:
            self._arm()

    def connected(self) -> None:
        """It is long ago, as are the next two: the stream was open when it was taken over."""

    opened = connected

    def failed(self, error: SidecarError) -> None:
        """See above."""

    def writable(self, *, yes: bool) -> None:
        """Slows the other end down to what this one takes, and gives this one its time to take it."""
        super().writable(yes=yes)
        if yes:
            self.stream.write_deadline = NEVER
        else:
            self._arm()

    def expired(self, which: Expiry) -> None:
        """Looks at the limit whose time has come."""
        if which is Expiry.READ:
            self.owner.look()
        elif which is Expiry.AGE:
            if self.lifetime.look(self.stream) is Age.OVER:
                self.owner.give_up(self.lifetime.hit())
        elif self.stream.delivered - self._mark >= self.owner.hub.limits.min_rate * self.owner.hub.limits.stall_timeout:
            self._arm()
        else:
            self.owner.stalled(self)

    def _arm(self) -> None:
        self._mark = self.stream.delivered
        self.stream.write_deadline = self.owner.hub.clock.monotonic() + self.owner.hub.limits.stall_timeout


class WebSocket:
    """A connection of the registry, instead of the one that its request came over. Owns both ends."""

    kind: ClassVar[Kind] = Kind.HTTP

    def __init__(self, exchange: Exchange, upstream: Upstream) -> None:
        down = exchange.down
        self.exchange = exchange
        self.listener = down.listener
        self.hub = down.hub
        self.peer = down.peer
        #: The proven peer of an outbound entry.
        self.remote_peer = upstream.stream.peer
        self.requests = down.requests
        self.started = down.started
        self.error: StrEnum | None = None
        self._own = exchange.service.own
        #: Where it leads, as of when that was dialled: it counts there until its connection is gone.
        self._pool = upstream.pool
        self._upstream = upstream
        self._down = _End(self, down.stream, down.lifetime)
        self._up = _End(self, upstream.stream, upstream.lifetime)
        self._complete = False  # both ends have ended as they should
        self._over = False
        self._moved = 0  # what had moved when the limits were last looked at
        self._moved_at = 0.0

    @property
    def service(self) -> Service:
        """The entry that permits it."""
        return self.exchange.service

    @property
    def stream(self) -> Stream:
        """The stream to the downstream peer."""
        return self._down.stream

    def begin(self, head: ResponseHead, behind: bytes) -> None:
        """Passes the answer on, and joins both ends; what either sent too early goes first."""
        exchange, down, up = self.exchange, self._down, self._up
        ahead = exchange.down.let_go()
        exchange.upstream = self._upstream.exchange = None
        exchange.status, exchange.response_started = head.status, True
        down.stream.send(forward_response(head, Framing.NONE, UPGRADE))
        down.stream.flush()
        self.hub.connections.add(self)
        for end, held in ((down, ahead), (up, behind)):
            end.take_over()
            if held:
                end.received(held)
        self._moved_at = self.hub.clock.monotonic()
        self._arm(self._moved_at)
        down.join(up)

    # -- what the ends say ----------------------------------------------------------------------------------------

    def both_done(self) -> None:
        """Both directions have ended: what lies unsent is flushed, then the connections close."""
        self._complete = True
        for end in (self._down, self._up):
            end.stream.close()

    def broken(self, leg: Leg) -> None:
        """An end broke off inside TLS: the other one is reset."""
        self._fail(ProxyCode.CLIENT_TRUNCATED if leg is self._down else ProxyCode.UPSTREAM_TRUNCATED)
        if leg.other is not None:
            leg.other.stream.reset()

    def lost(self, leg: Leg) -> None:
        """A connection is gone; without both it is over."""
        if leg is self._up:
            self._pool.forget(self._upstream)
        cause = leg.stream.cause
        if cause is not None:  # what it was sent at last was not all taken
            self._fail(UPSTREAM_NAMES.get(cause, cause) if leg is self._up else cause)
        if self.error is None and not self._complete:
            self.give_up(ProxyCode.CLIENT_RESET if leg is self._down else ProxyCode.UPSTREAM_RESET)
        if self._down.gone and self._up.gone and not self._over:
            self._over = True
            self._end()

    def look(self) -> None:
        """Looks for silence."""
        now = self.hub.clock.monotonic()
        moved = self._down.taken + self._up.taken + self._down.stream.delivered + self._up.stream.delivered
        if moved != self._moved:
            self._moved, self._moved_at = moved, now
        if now >= self._moved_at + self.hub.limits.stream_idle_timeout:
            self.give_up(ProxyCode.STREAM_IDLE)
        else:
            self._arm(now)

    def stalled(self, end: _End) -> None:
        """An end does not take what it is sent."""
        self.give_up(ProxyCode.CLIENT_STALLED if end is self._down else ProxyCode.UPSTREAM_STALLED)

    # -- what the registry asks for -------------------------------------------------------------------------------

    def note_long_lived(self, now: float) -> None:
        """Writes the ``open`` line, or ends what has lived for too long: as of a request, since it is one."""
        first, since = self.started, self.exchange.started
        self.started = NEVER
        if now >= since + self.hub.limits.total_timeout:
            self.give_up(ProxyCode.TOTAL_TIMEOUT)
            return
        self.started = self.hub.started_long_ago(since)
        if first == since:
            self._account(Event.OPEN)

    def retire(self) -> None:
        """Goes on: a drain gives it the time that it gives everything in flight."""

    def review(self, distrusted: Collection[TrustDomain]) -> None:
        """Decides anew by what is in force; ends what is no longer permitted."""
        if self.error is not None:
            return
        if self.started != self.exchange.started:
            self.started = self.hub.started_long_ago(self.exchange.started)  # the limit may be another one
        reason = self.objection(distrusted)
        if reason is not None:
            self.give_up(reason)

    def objection(self, distrusted: Collection[TrustDomain]) -> StrEnum | None:
        """What speaks against it by the configuration in force; None: nothing, and that is by what it goes on."""
        listener, before = self.listener, self.exchange.down
        service = before.service_for(self.exchange.head)
        if listener.stopped and not self.hub.draining:
            return ProxyCode.ENTRY_REMOVED
        if before.bound is not None and not before.bound.stands(listener.service):
            return ProxyCode.ENTRY_REMOVED
        if not listener.serves(before):
            return ProxyCode.UID_NOT_ALLOWED
        if service is self.exchange.service and not distrusted:
            return None
        if service.kind is not Kind.HTTP or service.own.svid.id != self._own.svid.id:
            return ProxyCode.ENTRY_CHANGED
        peers = [peer for peer in (self.peer, self.remote_peer) if peer is not None]
        if any(peer.id.trust_domain in distrusted for peer in peers):
            return ProxyCode.TRUST_CHANGED
        return self._objection_of(service)

    def _objection_of(self, service: Service) -> StrEnum | None:
        where = service.pool.destination
        if not where.replaces(self._pool.destination):
            return ProxyCode.ENTRY_CHANGED
        try:
            where.check(self.remote_peer)
        except SidecarError as error:
            return error.code
        verdict = service.decide_again(self.exchange, self.exchange.decision_id)
        if verdict is None:
            return TokenCode.ISSUER_UNAVAILABLE
        if isinstance(verdict, Denial):
            return verdict.reason
        self.exchange.service, self.exchange.verdict = service, verdict
        return None

    def give_up(self, code: StrEnum) -> None:
        """Ends at once, by resets: neither end can take that for the end of what was sent."""
        self._fail(code)
        self._down.stream.reset()
        self._up.stream.reset()

    def details(self) -> dict[str, Any]:
        """Says what it has carried, and by which decision."""
        return {
            "requests": self.requests,
            "policy.version": self.exchange.service.policy_version,
            "busy": True,
            "websocket": True,
            "bytes_sent": self._up.taken,
            "bytes_received": self._down.taken,
            "decision.id": self.exchange.decision_id,
        }

    # -- inside -----------------------------------------------------------------------------------------------------

    def _arm(self, now: float) -> None:
        silent = self._moved_at + self.hub.limits.stream_idle_timeout
        self._down.stream.read_deadline = min(now + LOOK_SECONDS, silent)

    def _fail(self, code: StrEnum) -> None:
        if self.error is None:
            self.error = code

    def _account(self, event: Event) -> None:
        exchange = self.exchange
        exchange.bytes_sent, exchange.bytes_received = self._up.taken, self._down.taken
        account.exchanged(self.hub, exchange, event)

    def _end(self) -> None:
        self.started = NEVER
        self.listener.lost(self)
        self.exchange.error = self.error
        self._account(Event.REQUEST)
        self._down.forget()
        self._up.forget()

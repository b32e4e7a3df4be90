"""One tunnel: a downstream connection that is decided once, dialled for, and then carried as bytes until it ends.

Accepted, proven (inbound), decided, dialled with the permit, joined (`splice`); from then on it lives until both ends
have ended, one of them breaks, a limit is met, or a reload no longer permits it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar

from sidecar.policy.decision import Denial, Permit
from sidecar.proxy import tunnel_account
from sidecar.proxy.connection import Kind
from sidecar.proxy.failure import UPSTREAM_NAMES, DialError, HandshakeOutdatedError, ProxyCode
from sidecar.proxy.hub import OPEN_SECONDS
from sidecar.proxy.splice import Leg
from sidecar.proxy.stream import NEVER, State, Stream
from sidecar.tasks import spawn

if TYPE_CHECKING:
    import asyncio
    from collections.abc import Collection
    from enum import StrEnum

    from sidecar.errors import SidecarError
    from sidecar.identity.peer import Peer
    from sidecar.identity.spiffe import TrustDomain
    from sidecar.proxy.hub import Hub
    from sidecar.proxy.listener import Listener
    from sidecar.proxy.tunnel_service import TunnelService

#: How often the limits of a tunnel are looked at, in seconds: what its idle time and a changed wall clock may be late by.
LOOK_SECONDS = 10.0


class DownLeg(Leg):
    """The end towards the downstream peer."""

    owner: Tunnel

    def __init__(self, tunnel: Tunnel, stream: Stream | None) -> None:
        super().__init__(tunnel)
        self.stream = stream or tunnel.listener.stream(self)

    def connected(self) -> None:
        """There is a connection: from here on it is in the registry, unless it is one too many."""
        self.owner.connected()

    def opened(self) -> None:
        """The connection stands; an inbound peer is proven."""
        self.owner.opened()

    def failed(self, error: SidecarError) -> None:
        """The handshake was refused: logged once, counted, closed by the stream."""
        self.owner.listener.refused(self.owner, error)


class UpLeg(Leg):
    """The end towards the upstream."""

    owner: Tunnel

    def __init__(self, tunnel: Tunnel) -> None:
        super().__init__(tunnel)
        #: The entry that was in force when it was dialled.
        self.service = tunnel.service
        self.ready: asyncio.Future[None] = tunnel.hub.loop.create_future()
        self.stream = self.service.way.destination.stream(self)

    def connected(self) -> None:
        """There is a connection, and its peer perhaps still to be proven."""
        self.owner.up = self

    def opened(self) -> None:
        """The connection is made and, over TLS, its peer proven."""
        if not self.ready.done():
            self.ready.set_result(None)
            self.owner.stands(self)

    def failed(self, error: SidecarError) -> None:
        """The TLS handshake failed; nothing was sent."""
        if not self.ready.done():
            self.ready.set_exception(error)

    def lost(self) -> None:
        """The connection is gone."""
        if not self.ready.done():
            self.ready.set_exception(ConnectionResetError())
        super().lost()


class Tunnel:
    """A connection of the registry; owns the two ends.

    ``service`` is the entry that permits it now, ``verdict`` its decision, ``error`` why it did not end well.
    """

    kind: ClassVar[Kind] = Kind.TCP
    #: What the downstream peer called the upstream, where it said so before the tunnel began.
    dst_name: str | None = None

    def __init__(
        self, listener: Listener[Any], service: TunnelService | None = None, stream: Stream | None = None
    ) -> None:
        """``service`` and ``stream`` are the listener's, where they are not given."""
        self.listener = listener
        self.hub: Hub = listener.hub
        self.service: TunnelService = service or listener.service
        #: The identity that its handshakes show, whatever a reload brings.
        self.own = self.service.own
        self.peer: Peer | None = None
        self.started = NEVER
        #: Monotonic time of the decision.
        self.since = 0.0
        self.verdict: Permit | Denial | None = None
        self.error: StrEnum | None = None
        self.up: UpLeg | None = None
        self.down = DownLeg(self, stream)
        self.counted = tunnel_account.Counted()
        self._dial: asyncio.Task[None] | None = None
        self._complete = False  # both ends have ended as they should
        self._over = False
        self._not_after = NEVER  # wall clock: the earliest end of a certificate that the tunnel rests on
        self._moved = 0  # what had moved when the limits were last looked at
        self._moved_at = 0.0

    @property
    def stream(self) -> Stream:
        """The downstream stream."""
        return self.down.stream

    @property
    def decision_id(self) -> str:
        """Names the decision; empty where there is none yet."""
        return "" if self.verdict is None else self.verdict.decision_id

    @property
    def remote_peer(self) -> Peer | None:
        """Who was proven by TLS at either end: the caller inbound, the upstream peer outbound."""
        return self.peer or (self.up.stream.peer if self.up is not None else None)

    # -- the way to a tunnel ------------------------------------------------------------------------------------

    def connected(self) -> None:
        """Enters the registry; the identity of this moment is the one that the handshake shows."""
        self.service = self.listener.service
        self.listener.connected(self)
        self.own = self.service.own
        self._not_after = self.own.svid.not_after

    def opened(self) -> None:
        """Decides, and dials or turns away."""
        hub = self.hub
        excess = self.listener.opened(self)
        self.service = service = self.listener.service
        self.decided(hub.clock.monotonic())
        if excess is not None:
            self._turn_away(excess)
            return
        if hub.access_log.full:
            self._turn_away(ProxyCode.LOG_FULL)
            return
        if hub.draining and service.closed_by_drain:
            self._turn_away(ProxyCode.DRAINING)
            return
        self.verdict = verdict = service.decide(self, hub.ids.next())
        if isinstance(verdict, Denial):
            self._turn_away(verdict.reason)
            return
        break_with_us(self.stream)
        self.dial()

    def decided(self, now: float) -> None:
        """Begins its time."""
        self.started = self.since = self._moved_at = now

    def dial(self) -> None:
        """Dials with its permit, which there has to be."""
        if isinstance(self.verdict, Permit):
            self._dial = spawn(self._dial_up(self.verdict), name="dial", on_error=self._dial_broke)

    async def _dial_up(self, permit: Permit) -> None:
        up = UpLeg(self)
        way = up.service.way
        try:
            await way.dialler.dial(permit, way.destination, up)
        except DialError as error:
            self._dial = None
            self.hub.messages.warning(str(error), listener=up.service.name, code=str(error.cause))
            self._not_reached(error)
        finally:
            if self.up is not up:
                up.part()  # it never had a connection
        self._dial = None

    def stands(self, up: UpLeg) -> None:
        """The upstream is there: joins both ends."""
        if self.error is not None:
            up.stream.reset()
            return
        if self.service is not up.service:
            # A reload came while we dialled: who was proven since is looked at by what is in force now.
            self.review(())
            if self.error is not None:
                return
        peer = self.remote_peer
        if peer is not None:
            self._not_after = min(self._not_after, peer.not_after)
        self._arm(self.hub.clock.monotonic())
        break_with_us(up.stream)
        preface = self.service.way.preface
        if preface is not None:
            up.stream.write(preface(self))
        self._joins(up)

    def _joins(self, up: UpLeg) -> None:
        self.down.join(up)

    def _not_reached(self, error: DialError) -> None:
        """There will be no upstream."""
        self.give_up(error.cause)

    def _turn_away(self, reason: StrEnum) -> None:
        """Ends a connection that gets no tunnel, so that nobody takes it for one that carried nothing."""
        self.started = NEVER
        self.down.part()
        if self.service.secure:
            self.stream.cut()  # without close_notify
        else:
            self.stream.reset()
        tunnel_account.turned_away(self, reason)

    def _dial_broke(self, where: str, error: BaseException) -> None:
        self.hub.loop.call_exception_handler({"message": "a dial failed", "exception": error, "where": where})
        self.give_up(ProxyCode.INTERNAL)

    # -- what the ends say --------------------------------------------------------------------------------------

    def both_done(self) -> None:
        """Both directions have ended: what lies unsent is flushed, then the connections close."""
        self._complete = True
        for leg in (self.down, self.up):
            if leg is not None:
                leg.stream.abortive(yes=False)
                leg.stream.close()

    def broken(self, leg: Leg) -> None:
        """An end broke off inside TLS: the other one is reset."""
        self._fail(ProxyCode.CLIENT_TRUNCATED if leg is self.down else ProxyCode.UPSTREAM_TRUNCATED)
        if leg.other is not None:
            leg.other.stream.reset()

    def lost(self, leg: Leg) -> None:
        """A connection is gone; without both its ends a tunnel is over."""
        up = self.up
        if leg is up:
            up.service.way.dialler.forget(up)
        if leg.stream.cause is not None:
            # What it was sent at last was not all taken, although both directions had ended.
            self._fail(UPSTREAM_NAMES.get(leg.stream.cause, leg.stream.cause) if leg is up else leg.stream.cause)
        joined = self.down.other is not None
        untold = self.error is None and not self._complete
        if untold and (joined or leg is self.down):  # a lost dial is told by who dials
            self.give_up(ProxyCode.CLIENT_RESET if leg is self.down else ProxyCode.UPSTREAM_RESET)
        if self.down.gone and (up is None or up.gone) and not self._over:
            self._over = True
            self._end()

    def look(self) -> None:
        """Looks at the limits."""
        hub, limits = self.hub, self.hub.limits
        now = hub.clock.monotonic()
        self.counted.add(self)
        moved = self._movement()
        if moved != self._moved:
            self._moved, self._moved_at = moved, now
        if hub.clock.wall() > self._not_after:
            self.hub.metrics.limit_hits_total.labels("certificate_expired").inc()
            self.give_up(ProxyCode.CERTIFICATE_EXPIRED)
        elif now >= self.since + limits.tunnel_lifetime:
            self.give_up(ProxyCode.TUNNEL_LIFETIME)
        elif now >= self._moved_at + limits.tunnel_idle_timeout:
            self.give_up(ProxyCode.TUNNEL_IDLE)
        else:
            self._arm(now)

    # -- what the registry asks for -----------------------------------------------------------------------------

    def note_long_lived(self, now: float) -> None:
        """Writes the ``open`` line, when it is due."""
        if now < self.started + OPEN_SECONDS:
            return
        self.started = NEVER
        tunnel_account.opened(self)

    def retire(self) -> None:
        """Lets go of a connection that is still in its handshake; a tunnel goes on."""
        if self.verdict is None:
            self.stream.close()

    def review(self, distrusted: Collection[TrustDomain]) -> None:
        """Decides anew by what is in force; ends what is no longer permitted."""
        service = self._in_force()
        if isinstance(service, ProxyCode):
            self.give_up(service)
        elif not self.listener.serves(self):
            self.give_up(ProxyCode.UID_NOT_ALLOWED)
        elif self.verdict is None:
            if distrusted and self.service.secure:
                self.give_up(ProxyCode.TRUST_CHANGED)  # it is being proven by the old bundles
        elif isinstance(self.verdict, Permit) and self.error is None:
            self._decide_again(service, self.verdict, distrusted)

    def _in_force(self) -> TunnelService | ProxyCode:
        """Returns the entry that it belongs to by now, or why there is none."""
        listener = self.listener
        if listener.stopped and not self.hub.draining:
            return ProxyCode.ENTRY_REMOVED
        service: TunnelService = listener.service
        return service if service.kind is Kind.TCP else ProxyCode.ENTRY_CHANGED

    def _decide_again(self, service: TunnelService, permit: Permit, distrusted: Collection[TrustDomain]) -> None:
        if service.own.svid.id != self.own.svid.id:
            self.give_up(ProxyCode.ENTRY_CHANGED)  # we are somebody else now; a renewed certificate is still us
            return
        verdict = service.review(self, distrusted, permit.decision_id)
        if isinstance(verdict, Permit):
            self.service, self.verdict = service, verdict
        else:
            self.give_up(verdict)

    def give_up(self, code: StrEnum) -> None:
        """Ends at once: both ends are reset, and neither can take that for the end of what was sent."""
        if self.stream.state is State.OPENING and isinstance(code, ProxyCode):
            self.listener.refused(self, HandshakeOutdatedError(code))
        self._fail(code)
        self.stream.reset()
        if self.up is not None:
            self.up.stream.reset()

    def details(self) -> dict[str, Any]:
        """Says what the tunnel has carried, and by which decision."""
        sent, received = self.counts()
        shown: dict[str, Any] = {"bytes_sent": sent, "bytes_received": received}
        if self.verdict is not None:
            shown |= {"decision.id": self.verdict.decision_id, "policy.version": self.verdict.policy_version}
        if isinstance(self.verdict, Permit):
            shown["decision.rule"] = self.verdict.rule
        if self.up is not None and self.up.stream.peer is not None:
            shown["dst.identity"] = str(self.up.stream.peer.id)
        return shown

    def counts(self) -> tuple[int, int]:
        """Bytes sent and received, seen from the downstream side."""
        return self.up.taken if self.up is not None else 0, self.down.taken

    # -- inside -------------------------------------------------------------------------------------------------

    def _movement(self) -> int:
        """A number that changes when a byte moves, into us or out of us."""
        up = self.up
        far = 0 if up is None else up.taken + up.stream.delivered
        return far + self.down.taken + self.stream.delivered

    def _arm(self, now: float) -> None:
        limits = self.hub.limits
        ends = self.since + limits.tunnel_lifetime
        idles = self._moved_at + limits.tunnel_idle_timeout
        expires = now + self._not_after - self.hub.clock.wall()
        self.stream.read_deadline = min(now + LOOK_SECONDS, ends, idles, expires)

    def _fail(self, code: StrEnum) -> None:
        """Notes why, the first time, and stops dialling."""
        if self.error is None:
            self.error = code
        dial, self._dial = self._dial, None
        if dial is not None:
            dial.cancel()

    def _end(self) -> None:
        self.started = NEVER
        self.listener.lost(self)
        if self.up is not None and self._complete:
            self.up.service.way.destination.settled(self.up.stream)
        if isinstance(self.verdict, Permit):
            tunnel_account.ended(self)
        self.down.forget()
        if self.up is not None:
            self.up.forget()


def break_with_us(stream: Stream) -> None:
    """Makes the end of this process no end of a tunnel: in plaintext it would look like one, over TLS it lacks a word."""
    if stream.peer is None:
        stream.abortive(yes=True)

"""A stream over TLS: pumps bytes between a transport and the TLS engine, under a deadline for the handshake."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from sidecar.errors import SidecarError
from sidecar.identity.peer import Role
from sidecar.proxy.failure import (
    HandshakeLimitError,
    HandshakeQueueError,
    HandshakeTimeoutError,
    ProxyCode,
    SigningLateError,
)
from sidecar.proxy.stream import NEVER, Expiry, State, Stream
from sidecar.threads import Job
from sidecar.tls.failure import SigningFailedError, TlsError

if TYPE_CHECKING:
    from sidecar.proxy.hub import Hub
    from sidecar.proxy.stream import StreamUser
    from sidecar.tls.contexts import Proving
    from sidecar.tls.engine import TlsEngine


#: What may lie unsent towards a peer before it is cut off. Data stops long before, by the high-water mark; this is for
#: answers that TLS itself gives, for example to key updates (RFC 8446 4.6.3), which a peer can ask for without reading.
UNSENT_BYTES = 1024 * 1024

#: What a peer may send without data in it: key updates, each of which costs us as much as a small request (RFC 8446
#: 4.6.3). A read with data pays for as much as a record can be padded to (RFC 8446 5.4), and more with more data.
DRY_BYTES = 64 * 1024
DRY_SHARE = 64
PADDED_BYTES = 17 * 1024

#: What may be held aside while a step runs in a thread before the peer has to wait: more than any ClientHello has, so that
#: its end is seen at once, and so little that one more read fits into `sidecar.tls.engine.HELD_BYTES`.
STEP_BYTES = 64 * 1024

#: Makes the engine of a connection, and names the context that it belongs to.
Maker = Callable[[], "tuple[Proving, TlsEngine]"]


def _made() -> tuple[Proving, TlsEngine]:
    raise RuntimeError("a connection has one TLS engine")


# As in `stream`.
_OPENING, _OPEN, _LINGERING = State.OPENING, State.OPEN, State.LINGERING


class TlsStream(Stream):
    """Either end of a mutual-TLS connection; which one is the engine's business."""

    context: Proving
    engine: TlsEngine

    def __init__(self, user: StreamUser, hub: Hub, make: Maker, limit: float) -> None:
        """``limit`` is the time that the handshake may take, in seconds.

        ``make`` is called when the connection stands, in the turn of the loop in which it enters the registry: so a
        reload either finds it there or is over, and no handshake is begun with what is no longer in force.
        """
        super().__init__(user, hub)
        self._make = make
        self._limit = limit
        self._dry = 0
        self._begun = 0.0
        self._shaking = False  # the handshake is under way; ours to count down when it ends, however it ends
        self._told_end = False
        #: The step that a thread is at, where our key is in a device; nobody else touches the engine meanwhile.
        self._job: Job[None] | None = None
        self._more = False  # something came during that step
        self._stepping = False  # at least one such step was made

    # -- what the event loop calls ----------------------------------------------------------------------------------

    def data_received(self, data: bytes) -> None:
        """Feeds the engine; hands decrypted data to the user, or drives the handshake."""
        state = self.state
        if state is _OPEN:
            self._dry += len(data)
            try:
                self._took(self.engine.take(data))
            except TlsError as error:
                self._broken(error)
        elif state is _OPENING:
            self.engine.receive(data)
            self._step()
        elif state is _LINGERING:
            self._discard(len(data))

    def eof_received(self) -> bool:
        """Tells a clean end (close_notify came) from a truncated one."""
        self._peer_done = True
        if self.state is _OPENING:
            self.engine.receive_eof()
            if self._hopeless:
                self._refuse(self.engine.cut_short())
            else:
                self._step()
        elif self.state is _OPEN:
            self.engine.receive_eof()
            self._read()
        elif self.state is _LINGERING:
            self._close_transport()
        return True

    def connection_lost(self, exc: BaseException | None) -> None:
        """Gives the handshake's place back before the end is passed on."""
        if self.state is _OPENING and self._shaking:
            # Reset by the peer in the middle of its handshake: refused like one that ended politely.
            self.engine.receive_eof()
            if self.context.blocking:
                self._refuse(self.engine.cut_short())
            else:
                self._step()
        self._shaken("closed")
        super().connection_lost(exc)

    # -- what the user calls ----------------------------------------------------------------------------------------

    def write(self, data: bytes) -> None:
        """Encrypts and writes at once, for whoever has nothing gathered; not for after ``finish``."""
        transport = self._transport
        if self.state is _OPEN and transport is not None:
            engine = self.engine
            engine.write(data)
            records = engine.to_send()
            if records:
                self.written += len(records)
                transport.write(records)

    # -- the handshake ------------------------------------------------------------------------------------------------

    def _begin(self) -> None:
        try:
            self.context, self.engine = self._make()
            self._make = _made  # it may know the user
        except SidecarError as error:
            self.user.failed(error)
            self.abort()
            return
        self._shaking = True
        if self.context.role is Role.SERVER:
            # Ours towards an upstream are bounded by `upstream_connections`, and must not keep callers out.
            self._take_place()
        self._begun = self.hub.clock.monotonic()
        self.read_deadline = self._begun + self._limit
        # The first step needs no signature: a caller has said nothing yet, and our own ClientHello is signed by nobody.
        self._stepped()

    def give_way(self) -> None:
        """Ends a handshake for another one's sake."""
        self._refuse(HandshakeLimitError())
        self.abort()

    def _take_place(self) -> None:
        """Takes a place among the handshakes. The oldest gives way: whoever just sits there must not keep others out."""
        waiting = self.hub.handshaking
        if len(waiting) >= self.hub.limits.handshakes:
            oldest = next(iter(waiting))
            oldest.give_way()
        waiting[self] = None

    def _step(self) -> None:
        """Goes on with the handshake: here, or in a thread where a device with our key may take its time."""
        if not self.context.blocking:
            self._stepped()
        elif self._job is not None:
            self._more = True
            self.pause_reading()
        else:
            self._begin_step()

    def _begin_step(self) -> None:
        hub, answered = self.hub, self._answered
        self._job = Job(self.engine.work, self._worked, late=self._late)
        if self.engine.held > STEP_BYTES:
            self.pause_reading()  # the rest waits in the kernel, and a good caller's data are no flood
        # A signature that was made is not thrown away: only what has cost nothing yet is turned away. And what only has
        # to be ended does not queue behind others' signatures.
        ending = answered and self.context.role is Role.SERVER
        workers = hub.last_steps if ending else hub.steps[self.context.role]
        if not workers.submit(self._job, bounded=not answered):
            self._refuse(HandshakeQueueError())
            self.abort()

    @property
    def _answered(self) -> bool:
        """Whether a step has come as far as to cost something: a caller's hello was answered, or we have a server's."""
        return self._stepping and (self.context.role is Role.CLIENT or self.engine.answered)

    @property
    def _hopeless(self) -> bool:
        """Whether a caller that has ended did so before it got anything from us: it can never answer that, so we spare it.

        RFC 8446 2: a client's Finished comes after the server's.
        """
        waits = self._job is not None and self.context.role is Role.SERVER
        return waits and not self.engine.answered

    def _worked(self, _: object) -> None:
        """A thread has made its step, and lets go of the engine."""
        self._job = None
        self._stepping = True
        more, self._more = self._more, False
        self.resume_reading()
        if self.state is _OPENING:
            self._stepped()
            if more and self.state is _OPENING:
                self._step()

    def _late(self) -> None:
        """The device with our key does not answer: the thread is lost until it does, the peer need not wait."""
        self._refuse(SigningLateError())

    def _stepped(self) -> None:
        try:
            done = self.engine.handshake(self.hub.clock.wall())
        except SidecarError as error:
            self._refuse(error)
            return
        self._send_records()
        if not done:
            return
        self.state = _OPEN
        self.read_deadline = NEVER
        self.peer = self.engine.peer
        self._shaken("ok")
        self.user.opened()
        if self.state is _OPEN:
            self._read()

    def _refuse(self, error: SidecarError) -> None:
        """Ends a handshake: an alert of OpenSSL's is flushed, a refusal of our own sends nothing more."""
        if isinstance(error, (TlsError, SigningFailedError)) and error.alert_sent:
            self._send_records()
        self._shaken(str(error.code))
        self.user.failed(error)
        self._linger()

    def _shaken(self, result: str) -> None:
        """Counts the end of the handshake, once."""
        if not self._shaking:
            return
        self._shaking = False
        if self._job is not None:
            self._job.give_up()
            self._job = None
        self.hub.handshaking.pop(self, None)
        metrics = self.hub.metrics
        engine = self.engine
        metrics.handshakes_total.labels(str(self.context.role), result, "true" if engine.resumed else "false").inc()
        if result == "ok":
            metrics.handshake_duration_seconds.observe(self.hub.clock.monotonic() - self._begun)

    # -- data -----------------------------------------------------------------------------------------------------------

    def _read(self) -> None:
        try:
            self._took(self.engine.read())
        except TlsError as error:
            self._broken(error)

    def _took(self, data: bytes) -> None:
        """Hands decrypted data on, and sees to what TLS itself wants."""
        engine = self.engine
        if data:
            dry = self._dry - PADDED_BYTES - DRY_SHARE * len(data)
            self._dry = dry if dry > 0 else 0  # noqa: FURB136 - a call less for each record
            self.user.received(data)
        if engine.outgoing.pending:
            self._send_records()
        if self._dry > DRY_BYTES or (self.writing_paused and self.unsent > UNSENT_BYTES):
            self.cut_off(ProxyCode.LIMIT_TLS_RECORDS)
            return
        if engine.ended and not self._told_end and self.state is _OPEN:
            if not (engine.eof or engine.truncated):
                engine.read()  # raises what came behind the data
            self._told_end = True
            self.user.ended(clean=engine.eof)

    def _send_records(self) -> None:
        records = self.engine.to_send()
        state = self.state
        # Once our side has ended nothing more may follow: an answer to a key update, say.
        if records and self._transport is not None and (state is _OPEN or state is _OPENING) and not self.finished:
            self.written += len(records)
            self._transport.write(records)

    def _broken(self, error: TlsError) -> None:
        # After the handshake the peer broke the protocol (a bad record, a forbidden message): OpenSSL's alert goes out.
        if error.alert_sent:
            self._send_records()
        if not self._told_end:
            self._told_end = True
            self.user.ended(clean=False)
        if self.state is _OPEN:
            self._linger()

    def _finish(self) -> None:
        # No FIN: the peer's direction is a TLS connection still, and some take a FIN for the end of both (RFC 8446 6.1).
        self.engine.close_write()
        self._send_records()

    def _farewell(self) -> None:
        self.engine.close()
        self._send_records()

    def _expired(self, which: Expiry) -> None:
        if self.state is _OPENING:
            self._refuse(HandshakeTimeoutError())
        else:
            super()._expired(which)

"""One connection from a downstream peer: the server side of HTTP/1.1, one exchange at a time."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar, cast

from sidecar.http.errors import HttpError
from sidecar.http.messages import TargetForm
from sidecar.http.receiver import RequestReceiver
from sidecar.http.write import error_response
from sidecar.proxy import account
from sidecar.proxy.connection import Kind
from sidecar.proxy.exchange import Exchange
from sidecar.proxy.failure import ProxyCode
from sidecar.proxy.hits import limit_of
from sidecar.proxy.registered import Registered
from sidecar.proxy.stream import NEVER, Expiry, State, Stream
from sidecar.telemetry.record import Event

if TYPE_CHECKING:
    from sidecar.errors import SidecarError
    from sidecar.http.messages import Field, RequestHead
    from sidecar.identity.peer import Peer
    from sidecar.proxy.bound import Bound
    from sidecar.proxy.front import Front
    from sidecar.proxy.hub import Hub
    from sidecar.proxy.listener import Listener
    from sidecar.proxy.service import Service

#: Requests of one connection that are taken, where one read brought many, before others get their turn.
BURST = 64
#: Pipelined bytes that are held while an earlier request is answered; beyond it reading stops.
HELD_BYTES = 64 * 1024

# Looking a member up on its Enum is dear where it happens for every request.
_REQUEST = Event.REQUEST
_OPEN = State.OPEN
_AUTHORITY = TargetForm.AUTHORITY


class Downstream(Registered):
    """Reads requests, starts exchanges, and keeps the connection's time limits.

    ``peer`` is the proven caller of an inbound connection and None on an outbound listener.
    """

    kind: ClassVar[Kind] = Kind.HTTP

    def __init__(self, listener: Listener[Service]) -> None:
        self.listener = listener
        self.hub: Hub = listener.hub
        self.peer: Peer | None = None
        self.exchange: Exchange | None = None
        self.keep_alive = True
        self.retiring = False
        #: Why a reload has ended what its requests were decided by; None as long as none has.
        self.outdated: ProxyCode | None = None
        self.requests = 0
        #: Monotonic time from which the present exchange counts as long-lived; infinite when there is none.
        self.started = NEVER
        #: What a service keeps per connection (matching rules, identity headers), with the service it belongs to.
        self.memo: object = None
        #: The http entry that a CONNECT has bound it to; None on any other connection.
        self.bound: Bound | None = None
        self.stream: Stream = listener.stream(self)
        self._receiver = RequestReceiver(self, self.hub.http_limits, secure=listener.service.secure)
        self._in_head = False
        #: The next request waits: for the peer to read its answers, or for others to have their turn.
        self._gated = False
        self._burst = 0
        self._mark = 0
        self._write_mark = 0

    @property
    def remote(self) -> str:
        """The peer's address as text."""
        return self.stream.remote

    # -- what the stream calls ------------------------------------------------------------------------------------

    def connected(self) -> None:
        """There is a connection: from here on it is in the registry, unless it is one too many."""
        self.listener.connected(self)
        self.begin_life()

    def opened(self) -> None:
        """The connection stands; an inbound peer is proven."""
        excess = self.listener.opened(self)
        if excess is not None:
            self.listener.one_too_many(self, excess)
            self.stream.close()
            return
        if self.peer is not None:
            self.lifetime.rest_on(self.peer.not_after)
        self.stream.read_deadline = self.hub.clock.monotonic() + self.hub.limits.idle_timeout
        self.grow_old()

    def failed(self, error: SidecarError) -> None:
        """The handshake was refused: logged once, counted, closed by the stream."""
        self.listener.refused(self, error)

    def received(self, data: bytes) -> None:
        """Feeds the receiver and lets go what that produced, in either direction."""
        if not self._gated and self.exchange is None:
            self._burst = 0
        try:
            self._receiver.feed(data)
        except HttpError as error:
            self._malformed(error)
        except Exception as error:  # noqa: BLE001 - a defect of ours ends this connection and is told
            self._broken(error)
            return
        self._after_feed()

    def ended(self, *, clean: bool) -> None:  # noqa: ARG002 - an end is an end, whether or not it was said politely
        """The peer sends no more: whatever it still waits for is cancelled."""
        exchange = self.exchange
        if exchange is not None:
            exchange.cancel(ProxyCode.CLIENT_CLOSED)
            self.cut(exchange)
            return
        try:
            self._receiver.eof()
        except HttpError as error:
            self._reject(error.status, error.code)
        else:
            self.stream.close()

    def lost(self) -> None:
        """The connection is gone."""
        cause = self.stream.cause
        if cause is not None and self.exchange is None and limit_of(cause):
            self.note_closed(cause)
        self._abandon(cause or ProxyCode.CLIENT_CLOSED)
        self._receiver.release()
        self.listener.lost(self)

    def writable(self, *, yes: bool) -> None:
        """Slows the upstream down to what the peer takes, and gives a stalled peer its time."""
        exchange = self.exchange
        upstream = None if exchange is None else exchange.upstream
        if yes:
            self.stream.write_deadline = NEVER
            if upstream is not None:
                upstream.stream.resume_reading()
            self._go_on()
            return
        self._arm_write()
        if upstream is not None:
            upstream.stream.pause_reading()

    def expired(self, which: Expiry) -> None:
        """A time limit has passed."""
        if which is Expiry.AGE:
            self.grow_old()
        elif which is Expiry.WRITE:
            self._slow_reader()
        elif self.exchange is not None:
            self._slow_sender(self.exchange)
        elif self._in_head:
            self._reject(408, ProxyCode.HEAD_TIMEOUT)
        else:
            self.note_closed(ProxyCode.IDLE_TIMEOUT)
            self.stream.close()

    # -- what the receiver calls ----------------------------------------------------------------------------------

    def on_request(self, head: RequestHead) -> None:
        """Starts the exchange of a request."""
        exchange = self._begin(head)
        self.stream.read_deadline = exchange.started + self.hub.limits.stall_timeout
        exchange.start()

    def on_whole(self, head: RequestHead, body: bytes) -> None:
        """Starts the exchange of a request that is complete."""
        exchange = self._begin(head)
        self.stream.read_deadline = NEVER
        exchange.start()
        if self.exchange is exchange:
            if body:
                exchange.on_data(body)
            exchange.on_whole_end()

    def on_data(self, data: bytes) -> None:
        """Passes body bytes on."""
        if self.exchange is not None:
            self.exchange.on_data(data)

    def on_end(self, trailers: list[Field]) -> None:
        """The request is complete; from here on only the upstream's time runs."""
        if self.exchange is not None:
            self.stream.read_deadline = NEVER
            self.exchange.on_end(trailers)

    # -- what an exchange calls -----------------------------------------------------------------------------------

    def may_stay(self) -> bool:
        """Says whether the connection may take another request after this one."""
        return self.keep_alive and not self.retiring and not self.hub.draining

    def exchange_over(self, exchange: Exchange) -> None:
        """Accounts for an exchange and goes on to the next request, or closes."""
        if self.exchange is not exchange:
            return
        self._over(exchange)
        if not (self.may_stay() and exchange.request_done):
            self._receiver.stop()
            self.stream.close()
        elif self.stream.writing_paused:
            # Whoever asks and asks and does not read the answers gets no more of them than fit in the buffer.
            self._wait()
        elif self._burst >= BURST:
            # Whoever asks a thousand times in one segment is answered, but not before everybody else.
            self._wait()
            self.hub.loop.call_soon(self._go_on)
        else:
            self._advance()

    def go_inside(self, exchange: Exchange, bound: Bound) -> None:
        """Accounts for a CONNECT that was answered 200; what comes from now on is inside."""
        self.bound = bound
        self._over(exchange)
        if not bound.begins_tls(self, self._receiver.ahead):
            self._advance()

    def let_go(self) -> bytes:
        """Leaves the connection, and its place in the registry, to a WebSocket or a tunnel; returns what came too early."""
        self.stream.flush()
        self.exchange = None
        self.started = NEVER
        self.hub.connections.discard(self)
        return self._receiver.surrender()

    def cut(self, exchange: Exchange) -> None:
        """Ends a response that cannot be finished, so that the peer can tell (RFC 9112 8)."""
        self.keep_alive = False
        self.exchange = None
        self.started = NEVER
        self._receiver.stop()
        if exchange.delimited:
            self.stream.cut()
        else:
            self.stream.reset()
        self._account(exchange)

    def resume_for_request(self) -> None:
        """Reads on after the upstream has caught up."""
        if self.stream.reading_paused and self._receiver.held <= HELD_BYTES:
            self.stream.resume_reading()

    def note_closed(self, code: ProxyCode) -> None:
        """Writes that a limit ends it, and no request with it."""
        if self.listener.service.kind is self.kind:  # else a reload is about to end it anyway
            account.closed(self.hub, self.service, self, code)

    # -- inside ---------------------------------------------------------------------------------------------------

    def _begin(self, head: RequestHead) -> Exchange:
        opens = head.form is _AUTHORITY and self.bound is None
        if not opens:  # a CONNECT asks for a connection: the requests inside count, and no second one passes
            self.requests += 1
            if self.requests >= self.hub.limits.requests_per_connection:
                self.keep_alive = False
        self._burst += 1
        self._in_head = False
        self._mark = 0
        service = self.listener.service
        if service.several:
            service = cast("Front", service).pick(head, self.bound)
        make = service.connecting if opens else Exchange
        self.exchange = exchange = make(self, service, head)
        self.started = exchange.started
        return exchange

    def _over(self, exchange: Exchange) -> None:
        self.exchange = None
        self.started = NEVER
        self._account(exchange)

    def _wait(self) -> None:
        self._gated = True
        self.stream.read_deadline = NEVER
        self._after_feed()

    def _go_on(self) -> None:
        if self._gated and not self.stream.writing_paused:
            self._gated = False
            self._burst = 0
            self._advance()

    def _advance(self) -> None:
        """Lets the next request begin, which may be there already."""
        stream = self.stream
        if stream.state is not _OPEN:
            self._receiver.stop()
            return
        stream.read_deadline = self.hub.clock.monotonic() + self.hub.limits.idle_timeout
        if stream.reading_paused:
            stream.resume_reading()
        try:
            self._receiver.next()
        except HttpError as error:
            self._malformed(error)
        except Exception as error:  # noqa: BLE001 - as in `received`; the caller is another connection's reader
            self._broken(error)
            return
        if stream.gathered or not self._receiver.idle:
            self._after_feed()

    def _after_feed(self) -> None:
        stream, receiver = self.stream, self._receiver
        if stream.gathered:
            stream.flush()
        exchange = self.exchange
        if exchange is None:
            if receiver.in_head and not self._in_head:
                self._in_head = True
                stream.read_deadline = self.hub.clock.monotonic() + self.hub.limits.head_timeout
        elif exchange.upstream is not None:
            exchange.upstream.stream.flush()
        if receiver.held > HELD_BYTES:
            stream.pause_reading()

    def _broken(self, error: Exception) -> None:
        """Something that nobody expected: this connection ends, the others do not notice."""
        self.stream.abort()
        context = {"message": "a connection failed", "exception": error, "where": "downstream"}
        self.hub.loop.call_exception_handler(context)
        self._abandon(ProxyCode.INTERNAL)

    def _abandon(self, code: ProxyCode) -> None:
        """Gives up whatever was going on; nothing can be answered any more."""
        self.keep_alive = False
        self._receiver.stop()
        exchange, self.exchange = self.exchange, None
        self.started = NEVER
        if exchange is not None:
            exchange.cancel(code)
            self._account(exchange)

    def _account(self, exchange: Exchange) -> None:
        if not self.keep_alive and exchange.error is None:
            self._note_last(exchange)
        try:
            account.exchanged(self.hub, exchange, _REQUEST)
        except Exception as error:  # noqa: BLE001 - as in `received`
            self._broken(error)

    def _note_last(self, exchange: Exchange) -> None:
        if self.requests >= self.hub.limits.requests_per_connection:
            exchange.error = ProxyCode.LAST_REQUEST

    def _malformed(self, error: HttpError) -> None:
        exchange = self.exchange
        if exchange is not None:
            # Inside a body: what was forwarded cannot be taken back, so the upstream connection dies with it.
            self.keep_alive = False
            exchange.reject_body(error)
            return
        self._reject(error.status, error.code)

    def _reject(self, status: int, code: object) -> None:
        """Answers what never became a request, and closes."""
        self.keep_alive = False
        self._receiver.stop()
        self.stream.send(error_response(status, b'{"error":"%b"}' % str(code).encode(), close=True))
        self.listener.rejected(self, status, str(code))
        self.stream.close()

    def _arm_write(self) -> None:
        self._write_mark = self.stream.delivered
        self.stream.write_deadline = self.hub.clock.monotonic() + self.hub.limits.stall_timeout

    def _slow_reader(self) -> None:
        limits = self.hub.limits
        if self.stream.delivered - self._write_mark >= limits.min_rate * limits.stall_timeout:
            self._arm_write()
            return
        self.stream.reset()
        self._abandon(ProxyCode.CLIENT_STALLED)

    def _slow_sender(self, exchange: Exchange) -> None:
        limits = self.hub.limits
        now = self.hub.clock.monotonic()
        progress = exchange.bytes_received - self._mark
        early = exchange.uninvited and exchange.upstream is None  # nobody is there yet who could ask for the body
        if early or self.stream.reading_paused or progress >= limits.min_rate * limits.stall_timeout:
            self._mark = exchange.bytes_received
            self.stream.read_deadline = now + limits.stall_timeout
            return
        self.keep_alive = False
        if exchange.uninvited:
            exchange.fail(ProxyCode.UPSTREAM_TIMEOUT)
            return
        exchange.fail(ProxyCode.CLIENT_STALLED)

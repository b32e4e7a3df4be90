"""One connection to an upstream: sends one request at a time and reads its response."""

from __future__ import annotations

import select
from typing import TYPE_CHECKING

from sidecar.http.errors import HttpError
from sidecar.http.response_receiver import ResponseReceiver
from sidecar.proxy import hits
from sidecar.proxy.failure import CutOffError, OwnCertificateError, ProxyCode
from sidecar.proxy.lifetime import Age, Lifetime
from sidecar.proxy.stream import NEVER, Expiry, State, Stream

if TYPE_CHECKING:
    import asyncio

    from sidecar.errors import SidecarError
    from sidecar.http.messages import Field, ResponseHead
    from sidecar.proxy.exchange import Exchange
    from sidecar.proxy.hub import Hub
    from sidecar.proxy.pool import Pool
    from sidecar.telemetry.record import Context

# Looking a member up on its Enum is dear where it happens for every request.
_OPEN = State.OPEN

#: RFC 9110 6.4.1: responses that have no body, whatever they say.
BODILESS = frozenset({204, 304})


class Upstream:
    """The client side of HTTP/1.1 on one stream; belongs to one pool and serves one exchange at a time."""

    def __init__(self, pool: Pool, ready: asyncio.Future[None]) -> None:
        self.pool = pool
        self.hub: Hub = pool.hub
        self.exchange: Exchange | None = None
        #: Whether it has served a request before: the destination has learnt from it (`Destination.settled`).
        self.settled = False
        #: Its last tenth has begun: it takes no further request.
        self.aged = False
        self.context: Context | None = None
        self.stream: Stream = pool.destination.stream(self)
        self._ready = ready
        self._receiver = ResponseReceiver(self, self.hub.http_limits)
        self._answered = False  # the response of the current exchange is complete
        self._doubtful = False  # that response leaves a doubt about where the next one begins
        self._poll = select.poll()
        self._received = 0
        self._mark = 0
        self._write_mark = 0

    # -- the life of an exchange --------------------------------------------------------------------------------

    def begin(self, exchange: Exchange, method: bytes, key: bytes | None = None) -> None:
        """Takes an exchange; its request is then sent through ``stream``. ``key``: it asks for a WebSocket."""
        self.exchange = exchange
        self._answered = self._doubtful = False
        self._received = 0
        self.stream.read_deadline = NEVER
        self._receiver.expect(method, key)

    def await_answer(self, now: float) -> None:
        """The request is complete: from now on (monotonic time) the upstream's time runs."""
        if not self._answered:
            self.stream.read_deadline = now + self.hub.limits.upstream_timeout

    def usable(self) -> bool:
        """Says whether it may take a request: no bytes nobody asked for, nor a goodbye, lie in the kernel unseen."""
        return not (self.stream.closed or self._poll.poll(0))

    def drop(self) -> None:
        """Ends the connection at once; the exchange has already been told or does not want to know."""
        self.exchange = None
        self._receiver.stop()
        self.pool.forget(self)
        if self.stream.state is not State.LINGERING:  # an alert of ours may be on its way
            self.stream.abort()

    # -- what the stream calls ----------------------------------------------------------------------------------

    def connected(self) -> None:
        """There is a connection, and its peer perhaps still to be proven: nothing to do yet."""

    def opened(self) -> None:
        """The connection is made and, over TLS, its peer proven."""
        self.context = self.pool.destination.context(self.stream)
        self.lifetime = Lifetime(self.hub, self.pool.destination.not_after(self.stream))
        over = self.lifetime.look(self.stream) is Age.OVER
        self._poll.register(self.stream.fileno, select.POLLIN)
        if self._ready.done():
            return
        if over:
            self._ready.set_exception(OwnCertificateError())
        else:
            self._ready.set_result(None)

    def failed(self, error: SidecarError) -> None:
        """The TLS handshake failed; nothing of any request was sent."""
        if not self._ready.done():
            self._ready.set_exception(error)

    def received(self, data: bytes) -> None:
        """Reads response bytes; passes them on and, at the end of the response, the exchange."""
        exchange = self.exchange
        if exchange is None:
            # Nothing was asked: an idle connection that became readable is never used again (RFC 9112 9.3).
            self.drop()
            return
        self._received += len(data)
        try:
            self._receiver.feed(data)
        except HttpError as error:
            if not self._answered:
                self._fail(ProxyCode.UPSTREAM_BAD_RESPONSE, error)
                return
            # The response was whole; what follows it belongs to nobody and goes nowhere.
        except Exception:
            self._fail(ProxyCode.INTERNAL)
            raise  # the event loop tells whoever listens for the unexpected
        exchange.flush_downstream()
        if self._answered and self.exchange is exchange:
            self._settle(exchange)

    def ended(self, *, clean: bool) -> None:
        """The upstream will send no more."""
        exchange = self.exchange
        if exchange is None:
            self.drop()
            return
        try:
            self._receiver.eof(clean=clean)
        except HttpError as error:
            self._fail(ProxyCode.UPSTREAM_TRUNCATED if exchange.response_started else ProxyCode.UPSTREAM_RESET, error)
            return
        exchange.flush_downstream()
        if self.exchange is not exchange:
            return
        if self._answered:
            self._settle(exchange)
        else:
            self._fail(ProxyCode.UPSTREAM_RESET)

    def lost(self) -> None:
        """The connection is gone."""
        cause, exchange = self.stream.cause, self.exchange
        self.pool.forget(self)
        if not self._ready.done():
            self._ready.set_exception(ConnectionResetError())
        if exchange is None:
            hits.count(self.hub.metrics, cause)
        elif cause is not None:
            self._fail(ProxyCode.UPSTREAM_BAD_RESPONSE, CutOffError(cause))  # counted with the line of its request
        else:
            self._fail(ProxyCode.UPSTREAM_TRUNCATED if exchange.response_started else ProxyCode.UPSTREAM_RESET)
        self._receiver.release()

    def writable(self, *, yes: bool) -> None:
        """Slows the downstream peer down to what the upstream takes."""
        if yes:
            self.stream.write_deadline = NEVER
        else:
            self._arm_write()
        if self.exchange is not None:
            self.exchange.upstream_writable(yes=yes)

    def expired(self, which: Expiry) -> None:
        """A time limit has passed."""
        exchange = self.exchange
        if which is Expiry.AGE:
            self._grow_old()
        elif exchange is None:
            # Counted and not logged: nobody notices the end of a spare connection.
            self.hub.metrics.limit_hits_total.labels("upstream_idle_timeout").inc()
            self.pool.forget(self)
            self.stream.close()
        elif which is Expiry.WRITE:
            self._slow_reader()
        elif not exchange.response_started:
            self._fail(ProxyCode.UPSTREAM_TIMEOUT)
        elif self.stream.reading_paused or self._received != self._mark:
            self._mark = self._received
            self.stream.read_deadline = self.hub.clock.monotonic() + self.hub.limits.stream_idle_timeout
        else:
            self._fail(ProxyCode.STREAM_IDLE)

    def _grow_old(self) -> None:
        """Looks at how old it is: in its last tenth it takes no further request, and then it ends."""
        age = self.lifetime.look(self.stream)
        if age is Age.YOUNG:
            return
        self.aged = True
        if self.exchange is None:
            self.pool.forget(self)
            self.stream.close()
        elif age is Age.OVER:
            self._fail(self.lifetime.hit())

    # -- what the receiver calls --------------------------------------------------------------------------------

    def on_informational(self, head: ResponseHead) -> None:
        """Passes a 1xx response on."""
        if self.exchange is not None:
            self.exchange.on_informational(head)

    def on_response(self, head: ResponseHead) -> None:
        """Passes the final response's head on."""
        exchange = self.exchange
        if exchange is None:
            return
        self._judge(exchange, head)
        self.stream.read_deadline = self.hub.clock.monotonic() + self.hub.limits.stream_idle_timeout
        exchange.on_response(head)

    def on_whole(self, head: ResponseHead, body: bytes) -> None:
        """Passes a response on that is complete."""
        self._answered = True
        exchange = self.exchange
        if exchange is not None:
            self._judge(exchange, head)
            exchange.on_whole_response(head, body)

    def on_upgrade(self, head: ResponseHead, behind: bytes) -> None:
        """HTTP is over on this connection: it is a WebSocket's from here on, with what came behind the answer."""
        if self.exchange is not None:
            self.exchange.on_upgrade(head, behind)

    def _judge(self, exchange: Exchange, head: ResponseHead) -> None:
        """Says whether the response leaves a doubt."""
        # An upstream that answers while the request is still on its way may never read the rest of it, and take that
        # for the next request (threat 36). One that sends a body where there is none, as a careless handler of HEAD
        # does, would have it taken for the next response (threat 37). Such a connection serves no other request.
        # One that was asked for another protocol, and says no, may still come to think otherwise.
        bodiless = head.status in BODILESS or exchange.head.method == b"HEAD"
        self._doubtful = (
            bodiless or exchange.websocket is not None or not exchange.request_done or self.stream.unsent > 0
        )

    def on_data(self, data: bytes) -> None:
        """Passes body bytes on."""
        if self.exchange is not None:
            self.exchange.on_response_data(data)

    def on_end(self, trailers: list[Field]) -> None:
        """The response is complete."""
        self._answered = True
        if self.exchange is not None:
            self.exchange.on_response_end(trailers)

    # -- the end of an exchange ---------------------------------------------------------------------------------

    def _settle(self, exchange: Exchange) -> None:
        """Gives the connection back, or closes it, and only then lets the next request begin.

        In this order, so that bytes after the response in the same read can never be taken for the answer to the
        next request (threat 37).
        """
        self.exchange = None
        if self._receiver.reusable and not (self._doubtful or self.aged) and self.stream.state is _OPEN:
            self.pool.release(self)
        else:
            self.pool.forget(self)
            self.stream.close()
        exchange.complete()

    def _fail(self, code: ProxyCode, cause: SidecarError | None = None) -> None:
        exchange = self.exchange
        stale = self.settled and self._received == 0
        self.drop()
        if exchange is not None:
            exchange.upstream_failed(code, cause, stale=stale)

    def _arm_write(self) -> None:
        self._write_mark = self.stream.delivered
        self.stream.write_deadline = self.hub.clock.monotonic() + self.hub.limits.stall_timeout

    def _slow_reader(self) -> None:
        limits = self.hub.limits
        if self.stream.delivered - self._write_mark >= limits.min_rate * limits.stall_timeout:
            self._arm_write()
        else:
            self._fail(ProxyCode.UPSTREAM_STALLED)

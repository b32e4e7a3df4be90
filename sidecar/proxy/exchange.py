"""One request and its response: decided once, passed on as it arrives, and accounted for in one log line.

In the common case (an idle upstream connection, a static rule, a token that is there) a request makes no task, no future
and no await: the downstream connection's receiver calls the exchange, the exchange writes to the upstream's stream. A task
exists only while a new upstream connection is being made, or a token or an issuer's keys are fetched.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from sidecar.errors import SidecarError
from sidecar.http.fields import forward_response, forward_trailers, outgoing_framing
from sidecar.http.messages import Framing
from sidecar.http.websocket import may_switch
from sidecar.http.write import chunk, last_chunk
from sidecar.limits import UNLIMITED
from sidecar.policy.decision import Denial, Permit
from sidecar.proxy.again import KEPT_BYTES, Again
from sidecar.proxy.facts import facts_of, trace_of
from sidecar.proxy.failure import DialError, ProxyCode
from sidecar.proxy.service import Wait
from sidecar.tasks import spawn

if TYPE_CHECKING:
    import asyncio
    from enum import StrEnum

    from sidecar.http.messages import Field, RequestHead, ResponseHead
    from sidecar.proxy.downstream import Downstream
    from sidecar.proxy.pool import Pool
    from sidecar.proxy.service import Service
    from sidecar.proxy.upstream import Upstream
    from sidecar.telemetry.record import Context
    from sidecar.tokens.credential import Credential

#: How often a request waits for what it needs before it is decided: once for each thing there is, and once to spare.
WAITS = 4
#: Pieces of a body, as small as they may come, that are held until there is a connection; beyond it reading stops.
HELD_PIECES = 64
# Looking a member up on its Enum is dear where it happens for every request.
_NONE, _CHUNKED, _CLOSE = Framing.NONE, Framing.CHUNKED, Framing.CLOSE


class Exchange(Again):
    """Lives from a request's head to the later of its end and its response's end."""

    __slots__ = (
        "_chunked_in",
        "_chunked_out",
        "_connection_options",
        "_outgoing",
        "delimited",
        "facts",
        "trace_id",
        "traceparent",
        "upstream_context",
        "waited",
        "websocket",
    )

    def __init__(self, down: Downstream, service: Service, head: RequestHead) -> None:
        self.down = down
        self.service = service
        self.head = head
        self.started = down.hub.clock.monotonic()
        self.facts = facts_of(head)
        #: The key of a request for a WebSocket.
        self.websocket = None if self.facts.websocket is None else self._switching(self.facts.websocket)
        self.trace_id, self.traceparent = trace_of(head, down.hub.ids)
        self.verdict: Permit | Denial | None = None
        #: Where it goes, and the token that goes along: as the service chose them.
        self.pool: Pool = service.pool
        self.credential: Credential | None = None
        self.upstream: Upstream | None = None
        #: Who was proven at the other end, for the log; stays when the connection is gone.
        self.upstream_context: Context | None = None
        self.status = 0
        self.error: StrEnum | None = None
        self.bytes_received = 0
        self.bytes_sent = 0
        self.request_done = False
        self.response_started = False
        self.response_done = False
        #: Whether a cut response can be told from a whole one; a body that ends with its connection cannot.
        self.delimited = True
        #: How often it has waited for what its decision needs.
        self.waited = 0
        self._chunked_in = head.framing is _CHUNKED
        self._chunked_out = False
        self._connection_options: frozenset[bytes] = frozenset()
        self._continued = False  # an interim response was passed on
        self._outgoing = b""
        self._task: asyncio.Task[None] | None = None
        #: What waits for a connection.
        self._pending: list[bytes] = []
        #: What was sent of the body, as long as it may have to be sent again; None: a part of it is not here any more.
        self._kept: bytes | bytearray | None = b""
        self._renewed = False  # sent again, with another token

    def _switching(self, key: bytes) -> bytes | None:
        """Takes note of a request for another protocol: whatever the answer, its sender's connection serves no other.

        What comes behind it may be meant for that protocol, and is never read as a request.
        """
        if not may_switch(self.head):
            return None
        self.down.keep_alive = False
        return key

    # -- the request ----------------------------------------------------------------------------------------------

    def start(self) -> None:
        """Decides, and sends the request's head on or answers it."""
        hub = self.down.hub
        if hub.access_log.full:
            self.refuse(ProxyCode.LOG_FULL)
            return
        if hub.draining and self.service.closed_by_drain:
            self.refuse(ProxyCode.DRAINING)
            return
        if hub.limits.request_rate < UNLIMITED and self.too_fast():
            return
        self._decide(hub.ids.next())

    def _decide(self, decision_id: str) -> None:
        verdict = self.service.authorise(self, decision_id)
        if isinstance(verdict, Wait):
            self.verdict = verdict.permit
            self._wait(verdict, decision_id)
            return
        self.verdict = verdict
        if isinstance(verdict, Denial):
            self._pending.clear()
            self.deny(verdict)
            return
        if self.head.length > self.down.hub.limits.body_bytes:
            self.fail(ProxyCode.BODY_BYTES)
            return
        self._outgoing = self.service.outgoing(self)
        self._connect(verdict)

    def _wait(self, wait: Wait, decision_id: str) -> None:
        """Fetches what the decision needs, and decides then. The policy may be another one by that time."""
        self.waited += 1
        if self.waited > WAITS:
            self.fail(ProxyCode.TOKEN_UNAVAILABLE)
            return
        self._task = spawn(self._wait_and_decide(wait, decision_id), name="token", on_error=self._task_broke)

    async def _wait_and_decide(self, wait: Wait, decision_id: str) -> None:
        try:
            await wait.until()
        except SidecarError as error:
            self._task = None
            self.fail(ProxyCode.TOKEN_UNAVAILABLE, error.code)
            return
        self._task = None
        self._decide_by_now(decision_id)

    def on_data(self, data: bytes) -> None:
        """Passes request body bytes on as they arrive."""
        self.bytes_received += len(data)
        if self.bytes_received > self.down.hub.limits.body_bytes:
            self.fail(ProxyCode.BODY_BYTES)
            return
        piece = chunk(data) if self._chunked_in else data
        if self.upstream is not None:
            self._keep(piece)
            self.upstream.stream.send(piece)
        elif self._task is not None:
            # Held until the connection is made. Reading stops when that is much, and not before: it also tells who leaves.
            self._pending.append(piece)
            if self.bytes_received > KEPT_BYTES or len(self._pending) > HELD_PIECES:
                self.down.stream.pause_reading()

    def on_end(self, trailers: list[Field]) -> None:
        """The request is complete."""
        self.request_done = True
        if self._chunked_in and not self.response_done:
            piece = last_chunk(forward_trailers(trailers, self.head.connection, self.service.strip))
            if self.upstream is not None:
                self._keep(piece)
                self.upstream.stream.send(piece)
            else:
                self._pending.append(piece)
        if self.upstream is None:
            self._whole()
        elif not self.response_started:
            self.upstream.await_answer(self.down.hub.clock.monotonic())

    def on_whole_end(self) -> None:
        """The request, whose body is not chunked, was complete when it began."""
        self.request_done = True
        upstream = self.upstream
        if upstream is not None:
            if not self.response_started:
                upstream.await_answer(self.started)
        else:
            self._whole()

    def _whole(self) -> None:
        """The request is complete, and no upstream has it: it was answered already, or waits for one."""
        if self.response_done:
            self.down.exchange_over(self)
        else:
            self.down.resume_for_request()  # there is no more of it to be held

    # -- the upstream -----------------------------------------------------------------------------------------------

    def _connect(self, permit: Permit, *, fresh: bool = False) -> None:
        upstream = None if fresh else self.pool.take(permit)
        if upstream is not None:
            self._attach(upstream)
        else:
            self._task = spawn(self._dial_and_attach(permit), name="dial", on_error=self._task_broke)

    async def _dial_and_attach(self, permit: Permit) -> None:
        try:
            upstream = await self.pool.dial(permit)
        except DialError as error:
            self._task = None
            self.fail(error.code, error.cause, text=str(error))
            return
        self._task = None
        if upstream is None or self.pool.retired or self._overtaken:
            if upstream is not None:
                upstream.drop()
            self._begin_again()
            return
        self._attach(upstream)
        upstream.stream.flush()

    def _attach(self, upstream: Upstream) -> None:
        self.upstream = upstream
        self.upstream_context = upstream.context
        upstream.begin(self, self.head.method, self.websocket)
        send = upstream.stream.send
        send(self._outgoing)
        for piece in self._pending:
            self._keep(piece)
            send(piece)
        self._pending.clear()
        if self.request_done:
            upstream.await_answer(self.down.hub.clock.monotonic())
        if not upstream.stream.writing_paused:
            self.down.resume_for_request()

    def upstream_writable(self, *, yes: bool) -> None:
        """The upstream reads more slowly (or again as fast) than the downstream peer sends."""
        if yes:
            self.down.resume_for_request()
        else:
            self.down.stream.pause_reading()

    # -- the response -----------------------------------------------------------------------------------------------

    def on_informational(self, head: ResponseHead) -> None:
        """Passes a 1xx response on, except to HTTP/1.0, which has none (RFC 9110 15.2)."""
        self._continued = True
        if self.head.minor:
            self.down.stream.send(forward_response(head, _NONE))

    def on_response(self, head: ResponseHead) -> None:
        """Passes the response's head on, framed for the downstream peer."""
        if head.status == 401 and self.credential is not None and self._renew():
            return
        self.response_started = True
        self._kept = None
        self.status = head.status
        self._connection_options = head.connection
        down = self.down
        framing = outgoing_framing(head, self.head.minor)
        self._chunked_out = framing is _CHUNKED
        self.delimited = framing is not _CLOSE
        if not (self.delimited and self.request_done and self.head.keep_alive and down.may_stay()):
            # A request that is still being sent cannot be skipped over afterwards (RFC 9112 9.3).
            down.keep_alive = False
        extra = b""
        if not down.keep_alive:
            extra = b"Connection: close\r\n"
        elif not self.head.minor:
            extra = b"Connection: keep-alive\r\n"
        down.stream.send(forward_response(head, framing, extra))

    def on_response_data(self, data: bytes) -> None:
        """Passes response body bytes on as they arrive."""
        self.bytes_sent += len(data)
        self.down.stream.send(chunk(data) if self._chunked_out else data)

    def on_response_end(self, trailers: list[Field]) -> None:
        """The response is complete; ``complete`` follows when the upstream connection is settled."""
        if self._chunked_out:
            self.down.stream.send(last_chunk(forward_trailers(trailers, self._connection_options)))
        self.response_done = True

    def on_upgrade(self, head: ResponseHead, behind: bytes) -> None:
        """The upstream agrees to the WebSocket; ``behind`` came with its answer."""
        try:
            from sidecar.proxy.upgrade import switch  # noqa: PLC0415 - for those who use WebSockets
        except OSError as error:  # such as no descriptor to read it with
            self.fail(ProxyCode.OUT_OF_RESOURCES, text=f"no WebSocket can be begun: {error.strerror}")
            return
        switch(self, head, behind)

    def on_whole_response(self, head: ResponseHead, body: bytes) -> None:
        """Passes a response on that is complete, with a body of known length or none."""
        self.on_response(head)
        if not self.response_started:  # it is sent again
            return
        if body:
            self.bytes_sent += len(body)
            self.down.stream.send(body)
        self.response_done = True

    def _rejected(self) -> bool:
        return self.service.rejected(self)

    def flush_downstream(self) -> None:
        """Lets what was gathered for the downstream peer go."""
        self.down.stream.flush()

    def complete(self) -> None:
        """The response is out and the upstream connection settled."""
        self.upstream = None
        self.down.exchange_over(self)

    def _cut(self) -> None:
        self.down.cut(self)

    def _over(self) -> None:
        self.down.exchange_over(self)

"""One request and its response: decided once, passed on as it arrives, and accounted for in one log line.

In the common case (an idle upstream connection, a static rule) a request makes no task, no future and no await: the
downstream connection's receiver calls the exchange, the exchange writes to the upstream's stream. A task exists only
while a new upstream connection is being made.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

from sidecar.http.fields import forward_response, forward_trailers, outgoing_framing
from sidecar.http.messages import Framing
from sidecar.http.write import chunk, error_response, last_chunk
from sidecar.policy.decision import Denial, Permit, Reason
from sidecar.proxy.connection import Kind
from sidecar.proxy.facts import facts_of, trace_of
from sidecar.proxy.failure import STATUS, DialError, ProxyCode
from sidecar.tasks import spawn

if TYPE_CHECKING:
    import asyncio
    from enum import StrEnum

    from sidecar.errors import SidecarError
    from sidecar.http.errors import HttpError
    from sidecar.http.messages import Field, RequestHead, ResponseHead
    from sidecar.proxy.downstream import Downstream
    from sidecar.proxy.service import Service
    from sidecar.proxy.upstream import Upstream
    from sidecar.telemetry.record import Context

#: RFC 9110 9.2.2: what may be sent twice.
IDEMPOTENT = frozenset({b"GET", b"HEAD", b"OPTIONS", b"PUT", b"DELETE"})
#: RFC 9110 15.5.6: a 405 says what would do. Ours are answers to CONNECT and TRACE alone.
ALLOW = b"Allow: GET, HEAD, POST, PUT, PATCH, DELETE, OPTIONS\r\n"

# Looking a member up on its Enum is dear where it happens for every request.
_NONE, _CHUNKED, _CLOSE = Framing.NONE, Framing.CHUNKED, Framing.CLOSE

#: Reasons that no other request on the same connection can heal. It is closed, so that a stranger cannot hold it open.
HOPELESS = frozenset(
    {
        Reason.CALLER_NOT_NAMED,
        Reason.PIN_MISMATCH,
        Reason.CERTIFICATE_EXPIRED,
        Reason.CERTIFICATE_NOT_YET_VALID,
    }
)


class Exchange:
    """Lives from a request's head to the later of its end and its response's end."""

    __slots__ = (
        "_chunked_in",
        "_chunked_out",
        "_connection_options",
        "_continued",
        "_dial",
        "_outgoing",
        "_pending",
        "bytes_received",
        "bytes_sent",
        "delimited",
        "down",
        "error",
        "facts",
        "head",
        "request_done",
        "response_done",
        "response_started",
        "service",
        "started",
        "status",
        "trace_id",
        "traceparent",
        "upstream",
        "upstream_context",
        "verdict",
    )

    def __init__(self, down: Downstream, service: Service, head: RequestHead) -> None:
        self.down = down
        self.service = service
        self.head = head
        self.started = down.hub.clock.monotonic()
        self.facts = facts_of(head)
        self.trace_id, self.traceparent = trace_of(head, down.hub.ids)
        self.verdict: Permit | Denial | None = None
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
        self._chunked_in = head.framing is _CHUNKED
        self._chunked_out = False
        self._connection_options: frozenset[bytes] = frozenset()
        self._continued = False  # an interim response was passed on
        self._outgoing = b""
        self._pending: list[bytes] = []
        self._dial: asyncio.Task[None] | None = None

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
        self.verdict = verdict = self.service.authorise(self, hub.ids.next())
        if isinstance(verdict, Denial):
            self._deny(verdict)
            return
        self._outgoing = self.service.outgoing(self)
        self._connect(verdict)

    def on_data(self, data: bytes) -> None:
        """Passes request body bytes on as they arrive."""
        self.bytes_received += len(data)
        piece = chunk(data) if self._chunked_in else data
        if self.upstream is not None:
            self.upstream.stream.send(piece)
        elif self._dial is not None:
            # Held until the connection is made: what one read brought, for reading stops here.
            self._pending.append(piece)
            self.down.stream.pause_reading()

    def on_end(self, trailers: list[Field]) -> None:
        """The request is complete."""
        self.request_done = True
        if self._chunked_in and not self.response_done:
            piece = last_chunk(forward_trailers(trailers, self.head.connection))
            if self.upstream is not None:
                self.upstream.stream.send(piece)
            else:
                self._pending.append(piece)
        if self.upstream is not None and not self.response_started:
            self.upstream.await_answer(self.down.hub.clock.monotonic())
        if self.response_done and self.upstream is None:
            self.down.exchange_over(self)

    def on_whole_end(self) -> None:
        """The request, whose body is not chunked, was complete when it began."""
        self.request_done = True
        upstream = self.upstream
        if upstream is not None:
            if not self.response_started:
                upstream.await_answer(self.started)
        elif self.response_done:
            self.down.exchange_over(self)

    # -- the upstream -----------------------------------------------------------------------------------------------

    def _connect(self, permit: Permit, *, fresh: bool = False) -> None:
        upstream = None if fresh else self.service.pool.take(permit)
        if upstream is not None:
            self._attach(upstream)
        else:
            self._dial = spawn(self._dial_and_attach(permit), name="dial", on_error=self._dial_broke)

    async def _dial_and_attach(self, permit: Permit) -> None:
        try:
            upstream = await self.service.pool.dial(permit)
        except DialError as error:
            self._dial = None
            self.fail(error.code, error.cause, text=str(error))
            return
        self._dial = None
        if self.service.pool.retired:
            upstream.drop()
            self._begin_again()
            return
        self._attach(upstream)
        upstream.stream.flush()

    def _begin_again(self) -> None:
        """A reload came while we dialled: who was proven then may not be who is meant now. Nothing was sent yet."""
        service = self.down.listener.service
        if service is self.service or service.kind is not Kind.HTTP:  # its entry is gone, or became another kind
            self.fail(ProxyCode.UPSTREAM_GONE)
            return
        self.service = service
        self.verdict = verdict = service.authorise(self, self.down.hub.ids.next())
        if isinstance(verdict, Denial):
            self._pending.clear()
            self._deny(verdict)
            return
        self._outgoing = service.outgoing(self)
        self._connect(verdict)
        self._flush_upstream()

    def _flush_upstream(self) -> None:
        if self.upstream is not None:
            self.upstream.stream.flush()

    def _dial_broke(self, where: str, error: BaseException) -> None:
        loop = self.down.hub.loop
        loop.call_exception_handler({"message": "a dial failed", "exception": error, "where": where})
        self._dial = None
        self.fail(ProxyCode.INTERNAL)

    def _attach(self, upstream: Upstream) -> None:
        self.upstream = upstream
        self.upstream_context = upstream.context
        upstream.begin(self, self.head.method)
        send = upstream.stream.send
        send(self._outgoing)
        for piece in self._pending:
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

    def upstream_failed(self, code: ProxyCode, cause: SidecarError | None, *, stale: bool) -> None:
        """The upstream connection broke; ``stale``: a pooled one, before a byte of the answer had come.

        Then the upstream most likely closed it just when it was taken, and an idempotent request without a body is sent
        once more, on a new connection (RFC 9110 9.2.2).
        """
        self.upstream = None
        permit = self.verdict
        if (
            stale
            and code is ProxyCode.UPSTREAM_RESET
            and self.head.framing is Framing.NONE
            and self.head.method in IDEMPOTENT
            and isinstance(permit, Permit)
            and self.service.pool.may_retry()
        ):
            self._connect(permit, fresh=True)
            return
        self.fail(code, None if cause is None else cause.code)

    # -- the response -----------------------------------------------------------------------------------------------

    def on_informational(self, head: ResponseHead) -> None:
        """Passes a 1xx response on, except to HTTP/1.0, which has none (RFC 9110 15.2)."""
        self._continued = True
        if self.head.minor:
            self.down.stream.send(forward_response(head, _NONE))

    def on_response(self, head: ResponseHead) -> None:
        """Passes the response's head on, framed for the downstream peer."""
        self.response_started = True
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

    def on_whole_response(self, head: ResponseHead, body: bytes) -> None:
        """Passes a response on that is complete, with a body of known length or none."""
        self.on_response(head)
        if body:
            self.bytes_sent += len(body)
            self.down.stream.send(body)
        self.response_done = True

    def flush_downstream(self) -> None:
        """Lets what was gathered for the downstream peer go."""
        self.down.stream.flush()

    def complete(self) -> None:
        """The response is out and the upstream connection settled."""
        self.upstream = None
        self.down.exchange_over(self)

    # -- ends that are not the usual one ----------------------------------------------------------------------------

    def refuse(self, code: ProxyCode) -> None:
        """Answers without having decided anything: we cannot serve just now."""
        self.verdict = None
        self.fail(code)

    def fail(self, code: ProxyCode, cause: StrEnum | None = None, *, text: str = "") -> None:
        """Ends the exchange for a fault that is not the policy's: an answer if none has begun, else a cut."""
        if self.response_done:
            return
        self.error = cause or code
        self._release_upstream()
        if text:
            self.down.hub.messages.warning(text, listener=self.service.name, code=str(self.error))
        if self.response_started:
            self.response_done = True
            self.down.cut(self)
        else:
            self._answer(STATUS.get(code, 502), {"error": str(code), "decision_id": self._decision_id})

    def reject_body(self, error: HttpError) -> None:
        """The request turned out malformed after its head was accepted: what was forwarded dies with its connection."""
        self.error = error.code
        self._release_upstream()
        if self.response_started:
            self.response_done = True
            self.down.cut(self)
        else:
            self._answer(error.status, {"error": str(error.code), "decision_id": self._decision_id})

    @property
    def uninvited(self) -> bool:
        """Whether the body does not come because the upstream has not asked for it (RFC 9110 10.1.1)."""
        return self.head.expect_continue and not self._continued and not self.bytes_received

    def cancel(self, code: ProxyCode) -> None:
        """Nobody wants the answer, or nobody can be given it: the downstream peer is gone, or has to go."""
        if self.error is None:
            self.error = code
        self.response_done = self.request_done = True
        self._release_upstream()

    @property
    def _decision_id(self) -> str:
        return "" if self.verdict is None else self.verdict.decision_id

    def _deny(self, denial: Denial) -> None:
        # Opaque on purpose: a hostile agent probes policy. The rule and the reason stand in the log.
        if denial.reason in HOPELESS:
            self.down.keep_alive = False
        self._answer(denial.status, {"error": "denied", "decision_id": denial.decision_id})

    def _answer(self, status: int, body: dict[str, str]) -> None:
        """Answers from here; keeps the connection only if the whole request was read."""
        self.status = status
        self.response_started = self.response_done = True
        down = self.down
        whole = self.request_done or self.head.framing is Framing.NONE
        if not (whole and self.head.keep_alive and down.may_stay()):
            down.keep_alive = False
        content = json.dumps(body, separators=(",", ":")).encode()
        close = not down.keep_alive
        self.bytes_sent = 0 if self.head.method == b"HEAD" else len(content)
        extra = ALLOW if status == 405 else b""
        head_only = self.head.method == b"HEAD"
        down.stream.send(error_response(status, content, close=close, head_only=head_only, extra=extra))
        if close or self.request_done:
            down.stream.flush()
            down.exchange_over(self)

    def _release_upstream(self) -> None:
        if self._dial is not None:
            self._dial.cancel()
            self._dial = None
        self._pending.clear()
        upstream, self.upstream = self.upstream, None
        if upstream is not None:
            upstream.drop()

"""The ends of an exchange that are not the usual one: denied, failed, cut short, given up; and the answers of our own."""

from __future__ import annotations

import json
import math
from abc import ABC, abstractmethod
from typing import TYPE_CHECKING

from sidecar.http.messages import Framing, TargetForm
from sidecar.http.write import error_response
from sidecar.policy.decision import Reason
from sidecar.proxy.challenge import challenge
from sidecar.proxy.failure import STATUS, ProxyCode
from sidecar.tokens.codes import TokenCode

if TYPE_CHECKING:
    import asyncio
    from enum import StrEnum

    from sidecar.http.errors import HttpError
    from sidecar.http.messages import RequestHead
    from sidecar.policy.decision import Denial, Permit
    from sidecar.proxy.downstream import Downstream
    from sidecar.proxy.service import Service
    from sidecar.proxy.upstream import Upstream

#: RFC 9110 15.5.6: a 405 says what would do. Ours are answers to CONNECT and TRACE alone.
ALLOW = b"Allow: GET, HEAD, POST, PUT, PATCH, DELETE, OPTIONS\r\n"

#: Reasons that no other request on the same connection can heal. It is closed, so that a stranger cannot hold it open.
HOPELESS = frozenset(
    {
        Reason.CALLER_NOT_NAMED,
        Reason.PIN_MISMATCH,
        Reason.CERTIFICATE_EXPIRED,
        Reason.CERTIFICATE_NOT_YET_VALID,
    }
)


class Ending(ABC):
    """What an exchange has that its end needs. `sidecar.proxy.exchange.Exchange` is the only kind there is."""

    __slots__ = (
        "_continued",
        "_kept",
        "_pending",
        "_task",
        "_unasked",
        "bytes_received",
        "bytes_sent",
        "down",
        "error",
        "head",
        "request_done",
        "response_done",
        "response_started",
        "service",
        "started",
        "status",
        "upstream",
        "verdict",
    )

    # Set by whoever is one: a call less where it happens for every request.
    down: Downstream
    service: Service
    head: RequestHead
    verdict: Permit | Denial | None
    upstream: Upstream | None
    status: int
    error: StrEnum | None
    started: float
    bytes_received: int
    bytes_sent: int
    request_done: bool
    response_started: bool
    response_done: bool
    _continued: bool
    _task: asyncio.Task[None] | None
    #: Names the end of what was never decided; made where it is needed.
    _unasked: str
    _pending: list[bytes]
    _kept: bytes | bytearray | None

    def refuse(self, code: ProxyCode) -> None:
        """Answers without having decided anything: we cannot serve just now."""
        self.verdict = None
        self.fail(code)

    def fail(self, code: ProxyCode, cause: StrEnum | None = None, *, text: str = "") -> None:
        """Ends the exchange for a fault that is not the policy's: an answer if none has begun, else a cut."""
        if self.response_done:
            return
        self.error = cause or code
        self.release()
        if text:
            self.down.hub.messages.warning(text, listener=self.service.name, code=str(self.error))
        if self.response_started:
            self.response_done = True
            self._cut()
        else:
            self._answer(STATUS.get(code, 502), {"error": str(code), "decision_id": self.decision_id})

    def too_fast(self) -> bool:
        """Answers whoever asks more often than ``request_rate`` allows, and says whether it did.

        A caller is known by its SPIFFE ID, whichever of its connections and of our listeners; the agent by the entry.
        """
        hub, peer = self.down.hub, self.down.peer
        caller = (self.service.direction, self.service.name) if peer is None else peer.id
        wait = hub.rates.of(caller, self.started, hub.limits).take(self.started, hub.limits)
        if not wait:
            return False
        self.verdict = None
        self.error = ProxyCode.REQUEST_RATE
        # RFC 9110 10.2.3: whole seconds, and rounded up, or it would come too early again.
        again = b"Retry-After: %d\r\n" % math.ceil(wait)
        said = {"error": str(ProxyCode.REQUEST_RATE), "decision_id": self.decision_id}
        self._answer(STATUS[ProxyCode.REQUEST_RATE], said, again)
        return True

    def reject_body(self, error: HttpError) -> None:
        """The request turned out malformed after its head was accepted: what was forwarded dies with its connection."""
        self.error = error.code
        self.release()
        if self.response_started:
            self.response_done = True
            self._cut()
        else:
            self._answer(error.status, {"error": str(error.code), "decision_id": self.decision_id})

    @property
    def uninvited(self) -> bool:
        """Whether the body does not come because the upstream has not asked for it (RFC 9110 10.1.1)."""
        return self.head.expect_continue and not self._continued and not self.bytes_received

    def cancel(self, code: ProxyCode) -> None:
        """Nobody wants the answer, or nobody can be given it: the downstream peer is gone, or has to go."""
        if self.error is None:
            self.error = code
        self.response_done = self.request_done = True
        self.release()

    @property
    def decision_id(self) -> str:
        """Names the decision, in the log and in answers; where there was none, what ended it instead."""
        if self.verdict is not None:
            return self.verdict.decision_id
        if not hasattr(self, "_unasked"):
            self._unasked = self.down.hub.ids.next()
        return self._unasked

    def deny(self, denial: Denial) -> None:
        """Answers what policy denies.

        Opaque on purpose: a hostile agent probes policy. The rule and the reason stand in the log. That an issuer is not
        to be reached is no policy.
        """
        if denial.reason in HOPELESS:
            self.down.keep_alive = False
        said = str(denial.reason) if denial.reason is TokenCode.ISSUER_UNAVAILABLE else "denied"
        self._answer(denial.status, {"error": said, "decision_id": denial.decision_id}, challenge(denial))

    def _answer(self, status: int, body: dict[str, str], fields: bytes = b"") -> None:
        """Answers from here; keeps the connection only if the whole request was read."""
        self.status = status
        self.response_started = self.response_done = True
        down = self.down
        # What an agent sent behind a CONNECT, not waiting for a 200, is no request (draft-ietf-httpbis-optimistic-upgrade).
        whole = (self.request_done or self.head.framing is Framing.NONE) and self.head.form is not TargetForm.AUTHORITY
        if not (whole and self.head.keep_alive and down.may_stay()):
            down.keep_alive = False
        content = json.dumps(body, separators=(",", ":")).encode()
        close = not down.keep_alive
        self.bytes_sent = 0 if self.head.method == b"HEAD" else len(content)
        extra = ALLOW if status == 405 else fields
        if not (close or self.head.minor):  # RFC 9112 9.3: else an HTTP/1.0 client waits for the end of the connection
            extra += b"Connection: keep-alive\r\n"
        head_only = self.head.method == b"HEAD"
        down.stream.send(error_response(status, content, close=close, head_only=head_only, extra=extra))
        if close or self.request_done:
            down.stream.flush()
            self._over()

    def _task_broke(self, where: str, error: BaseException) -> None:
        loop = self.down.hub.loop
        loop.call_exception_handler({"message": "a request failed", "exception": error, "where": where})
        self._task = None
        self.fail(ProxyCode.INTERNAL)

    def release(self) -> None:
        """Lets go of the upstream, and of what is awaited."""
        if self._task is not None:
            self._task.cancel()
            self._task = None
        self._kept = None
        self._pending.clear()
        upstream, self.upstream = self.upstream, None
        if upstream is not None:
            upstream.drop()

    @abstractmethod
    def _cut(self) -> None:
        """Lets the downstream connection end so that its peer cannot take it for the end of the response."""

    @abstractmethod
    def _over(self) -> None:
        """Lets the downstream connection account for it and go on."""

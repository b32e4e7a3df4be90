"""When a request is sent a second time, or decided a second time: never twice to one who may have acted on it.

* A reload came while it waited: it is decided anew by what is in force; nothing of it was sent yet.
* A pooled connection broke before a byte of the answer came: the upstream most likely closed it just when it was taken. An
  idempotent request whose body is here still goes over a new one (RFC 9110 9.2.2), at most one in five.
* The answer is 401 to a token of ours: the same request, with another token, once.

A request of which nothing was written yet needs no retry: a pooled connection is looked at when it is taken, and what goes
over it is written in the same turn of the loop.
"""

from __future__ import annotations

from abc import abstractmethod
from typing import TYPE_CHECKING

from sidecar.policy.decision import Permit
from sidecar.proxy.connection import Kind
from sidecar.proxy.ending import Ending
from sidecar.proxy.failure import ProxyCode

if TYPE_CHECKING:
    from sidecar.errors import SidecarError
    from sidecar.proxy.pool import Pool
    from sidecar.proxy.service import Service
    from sidecar.tokens.credential import Credential

#: A request body up to this size is kept until the answer comes, where the request may have to be sent again, in bytes.
KEPT_BYTES = 64 * 1024
#: RFC 9110 9.2.2: what may be sent twice.
IDEMPOTENT = frozenset({b"GET", b"HEAD", b"OPTIONS", b"PUT", b"DELETE"})


class Again(Ending):
    """What an exchange has that may have to begin again."""

    __slots__ = ("_renewed", "credential", "pool")

    # As in `Ending`.
    credential: Credential | None
    pool: Pool
    _renewed: bool

    # -- a reload has come --------------------------------------------------------------------------------------------

    def _decide_by_now(self, decision_id: str) -> None:
        """Decides by the configuration that is in force by now: a reload may have come since the first time."""
        if self.down.outdated is not None:  # what it asked for is gone, or whoever asked is trusted no more
            self.fail(ProxyCode.UPSTREAM_GONE, self.down.outdated)
            return
        service = self.down.service_for(self.head)
        if service is not self.service and not self._move_to(service):
            return
        self._decide(decision_id)
        self._flush_upstream()

    def _move_to(self, service: Service) -> bool:
        """Goes on under the configuration that a reload has brought meanwhile; False where it has no place there."""
        if service.kind is not Kind.HTTP:  # its entry became another kind
            self.fail(ProxyCode.UPSTREAM_GONE)
            return False
        self.service, self.pool, self.credential = service, service.pool, None
        return True

    def _begin_again(self) -> None:
        """A reload came while we dialled: who was proven then may not be who is meant now. Nothing was sent yet."""
        service = self.down.service_for(self.head)
        same = service is self.service and self.pool is service.pool
        if self.down.outdated is not None or same:  # its entry is gone
            self.fail(ProxyCode.UPSTREAM_GONE)
            return
        if self._move_to(service):
            self._decide(self.down.hub.ids.next())
            self._flush_upstream()

    @property
    def _overtaken(self) -> bool:
        """Whether a reload came since its token was chosen: the entry may have another one now, none, or its first."""
        service = self.down.service_for(self.head)
        if service is self.service:
            return False
        elsewhere = service.kind is not Kind.HTTP or service.name != self.service.name
        return elsewhere or self.credential is not None or bool(service.strip)

    def _flush_upstream(self) -> None:
        if self.upstream is not None:
            self.upstream.stream.flush()

    # -- the connection broke -------------------------------------------------------------------------------------

    def upstream_failed(self, code: ProxyCode, cause: SidecarError | None, *, stale: bool) -> None:
        """The upstream connection broke; ``stale``: a pooled one, before a byte of the answer had come."""
        self.upstream = None
        permit, pool, kept = self.verdict, self.pool, self._kept
        again = stale and code is ProxyCode.UPSTREAM_RESET and self.head.method in IDEMPOTENT and kept is not None
        if not (again and isinstance(permit, Permit)) or pool.retired:
            self.fail(code, None if cause is None else cause.code)
            return
        if not pool.may_retry():
            self.fail(code, ProxyCode.RETRIES)
            return
        service = self.service
        self.down.hub.metrics.retries_total.labels(service.direction, service.name).inc()
        self._hold_again()
        if self._overtaken:
            self._begin_again()
        else:
            self._connect(permit, fresh=True)

    def _keep(self, piece: bytes) -> None:
        """Keeps a piece of the body as it is sent, if it is small and the request may have to be sent again."""
        kept = self._kept
        if kept is None:
            return
        wanted = self.credential is not None or self.head.method in IDEMPOTENT
        if not wanted or len(kept) + len(piece) > KEPT_BYTES:
            self._kept = None
        elif kept:
            kept += piece
            self._kept = kept
        else:
            self._kept = bytearray(piece)

    def _hold_again(self) -> None:
        """Lets what was sent of the body wait for a connection once more."""
        kept, self._kept = self._kept, b""
        self._pending = [bytes(kept)] if kept else []

    # -- another token --------------------------------------------------------------------------------------------

    def _renew(self) -> bool:
        """Sends the request again with a new token, once, where all of it is here; False: the 401 is the answer.

        The service drops its token in any case, so that the next request has another one.
        """
        again = self._rejected()
        upstream = self.upstream
        whole = self.request_done and self._kept is not None
        if self._renewed or not again or not whole or upstream is None or self._continued:
            return False
        self._renewed = True
        self.upstream, self.credential = None, None
        upstream.drop()
        self._hold_again()
        # Not from here: the upstream that called is at work on what it has read.
        self.down.hub.loop.call_soon(self._begin_renewed)
        return True

    def _begin_renewed(self) -> None:
        if not self.response_done:
            self._decide_by_now(self.decision_id)

    # -- what an exchange does --------------------------------------------------------------------------------------

    @abstractmethod
    def _decide(self, decision_id: str) -> None:
        """Decides, and sends the request on or answers it."""

    @abstractmethod
    def _rejected(self) -> bool:
        """Tells the service of a 401; says whether another token may do better."""

    @abstractmethod
    def _connect(self, permit: Permit, *, fresh: bool = False) -> None:
        """Takes a pooled connection, or dials one; ``fresh``: dials in any case."""

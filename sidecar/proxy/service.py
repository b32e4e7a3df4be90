"""What a listener does with its requests: the one thing that a reload replaces.

Two services share one face. `inbound` proves callers and forwards named ones to the agent; `outbound` takes the agent's
requests and sends them to one proven peer. Which of them it is, is data to everything else.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, Protocol

from sidecar.http import trace
from sidecar.http.fields import forward_request_fields
from sidecar.http.write import request_bytes

if TYPE_CHECKING:
    from sidecar.http.messages import Field, RequestHead
    from sidecar.identity.svid import Svid
    from sidecar.policy.decision import Denial, Permit
    from sidecar.proxy.counters import Counters
    from sidecar.proxy.downstream import Downstream
    from sidecar.proxy.exchange import Exchange
    from sidecar.proxy.hub import Hub
    from sidecar.proxy.pool import Pool
    from sidecar.proxy.stream import Stream
    from sidecar.telemetry.record import Context

#: Fields that matter beside the head's own: looked up in one pass over the head.
_NOTED = frozenset({b"traceparent", b"mcp-session-id", b"x-session-id", b"origin", b"sec-fetch-site"})
_TRACE = frozenset({b"traceparent"})


@dataclass(slots=True)
class Facts:
    """What a request says beside its head: for tracing, for attribution, and for the guard against web pages."""

    trace_id: str
    #: The field line that we add; empty when the request brought a good one.
    traceparent: bytes
    session: str | None
    noted: list[Field]


@dataclass(frozen=True, slots=True)
class Self:
    """Our own identity, as logs and headers show it."""

    svid: Svid
    name: str
    pin: str
    protection: str


class Service(Protocol):
    """The face of both services."""

    direction: ClassVar[str]
    #: Whether a request that comes after the drain began is refused.
    closed_by_drain: ClassVar[bool]
    #: Whether requests arrive over TLS.
    secure: ClassVar[bool]
    name: str
    pool: Pool
    own: Self
    policy_version: str
    counters: Counters

    def stream(self, user: Downstream) -> Stream:
        """Makes the stream of a new downstream connection."""

    def facts(self, head: RequestHead) -> Facts:
        """Gathers what the request says beside its head."""

    def authorise(self, exchange: Exchange, decision_id: str) -> Permit | Denial:
        """Decides a request; calls nothing outside the pure ring."""

    def outgoing(self, exchange: Exchange) -> bytes:
        """Writes the head that goes to the upstream, anew."""

    def told(self, exchange: Exchange) -> str:
        """Says who spoke to whom: the part of a log line that the connections know (`Context.json`)."""

    def context(self, connection: Downstream) -> Context:
        """Says who is at the other end of a connection that has not come to a request, for the log."""


def gather(hub: Hub, head: RequestHead) -> Facts:
    """Finds the noted fields and the trace; makes a trace when there is none (W3C Trace Context 3.2)."""
    noted: list[Field] = [field for field in head.fields if field[0] in _NOTED]
    trace_id = trace.trace_id(noted)
    traceparent = b""
    if trace_id is None:
        trace_id = hub.ids.next()
        traceparent = b"traceparent: %b\r\n" % trace.make(trace_id, hub.ids.next()[:16])
    return Facts(trace_id, traceparent, trace.session_id(noted) if noted else None, noted)


def head_bytes(head: RequestHead, facts: Facts, extra: bytes, host: bytes | None) -> bytes:
    """Writes a request head for the upstream: its target in origin-form, its fields by the header rules."""
    if facts.traceparent:
        block = forward_request_fields(head, drop=_TRACE, host=host, extra=facts.traceparent + extra)
    else:
        block = forward_request_fields(head, host=host, extra=extra)
    return request_bytes(head.method, head.path + head.query, block)

"""What a listener does with its requests: the one thing that a reload replaces.

Two services share one face. `inbound` proves callers and forwards named ones to the agent; `outbound` takes the agent's
requests and sends them to one proven peer. Which of them it is, is data to everything else.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, Protocol

from sidecar.http.fields import forward_request
from sidecar.proxy.connection import Entry

if TYPE_CHECKING:
    from sidecar.identity.svid import Svid
    from sidecar.policy.decision import Denial, Permit
    from sidecar.proxy.counters import Counters
    from sidecar.proxy.downstream import Downstream
    from sidecar.proxy.exchange import Exchange
    from sidecar.proxy.pool import Pool
    from sidecar.proxy.stream import Stream
    from sidecar.telemetry.record import Context

#: What `Exchange.traceparent` says instead.
_SET_ANEW: Final = frozenset({b"traceparent"})


@dataclass(frozen=True, slots=True)
class Self:
    """Our own identity, as logs and headers show it."""

    svid: Svid
    name: str
    pin: str
    protection: str


class Service(Entry, Protocol):
    """The face of both services that carry requests."""

    pool: Pool
    counters: Counters

    def stream(self, user: Downstream) -> Stream:
        """Makes the stream of a new downstream connection."""

    def authorise(self, exchange: Exchange, decision_id: str) -> Permit | Denial:
        """Decides a request; calls nothing outside the pure ring."""

    def outgoing(self, exchange: Exchange) -> bytes:
        """Writes the head that goes to the upstream, anew."""

    def told(self, exchange: Exchange) -> str:
        """Says who spoke to whom and asked for what: the part of a log line that comes again with the next request."""

    def context(self, connection: Downstream) -> Context:
        """Says who is at the other end of a connection that has not come to a request, for the log."""


def head_bytes(exchange: Exchange, extra: bytes, host: bytes | None) -> bytes:
    """Writes a request head for the upstream: its target in origin-form, its fields by the header rules."""
    return forward_request(exchange.head, drop=_SET_ANEW, host=host, extra=exchange.traceparent + extra)

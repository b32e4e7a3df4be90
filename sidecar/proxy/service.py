"""What a listener does with its requests: the one thing that a reload replaces.

Two services share one face. `inbound` proves callers and forwards named ones to the agent; `outbound` takes the agent's
requests and sends them to one proven peer. Which of them it is, is data to everything else.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Final, NamedTuple, Protocol

from sidecar.http.fields import forward_request
from sidecar.http.websocket import UPGRADE
from sidecar.proxy.connection import Entry

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine

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

    #: What a CONNECT is handled by, one inside another aside: an ordinary request where none is served (405).
    connecting: ClassVar[type[Exchange]]
    pool: Pool
    counters: Counters
    #: Folded names of fields that it sets, or may set: the sender's own never go on, in the head or behind the body.
    strip: frozenset[bytes]

    def stream(self, user: Downstream) -> Stream:
        """Makes the stream of a new downstream connection."""

    def authorise(self, exchange: Exchange, decision_id: str) -> Permit | Denial | Wait:
        """Decides a request, without waiting for anything; `Wait` says what to wait for before asking again."""

    def decide_again(self, exchange: Exchange, decision_id: str) -> Permit | Denial | None:
        """Decides about what goes on of an exchange that another configuration permitted; None: that needs waiting."""

    def rejected(self, exchange: Exchange) -> bool:
        """The upstream answered 401: says whether the same request, sent again, may fare better, with a new token."""

    def outgoing(self, exchange: Exchange) -> bytes:
        """Writes the head that goes to the upstream, anew."""

    def told(self, exchange: Exchange) -> str:
        """Says who spoke to whom and asked for what: the part of a log line that comes again with the next request."""

    def context(self, connection: Downstream) -> Context:
        """Says who is at the other end of a connection that has not come to a request, for the log."""


class Wait(NamedTuple):
    """Something that a request needs first: keys to check its token with, or a token of ours.

    ``until`` makes what is awaited; it raises SidecarError where it cannot be had, and then so does the request fail.
    ``permit`` is what was decided already.
    """

    until: Callable[[], Coroutine[Any, Any, None]]
    permit: Permit | None = None


def head_bytes(
    exchange: Exchange, extra: bytes, host: bytes | None = None, strip: frozenset[bytes] = frozenset()
) -> bytes:
    """Writes a request head for the upstream: its target in origin-form, its fields by the header rules.

    ``strip`` are folded names (`sidecar.http.fields.fold`) to leave out.
    """
    if exchange.websocket is not None:
        extra = UPGRADE + extra
    return forward_request(exchange.head, drop=_SET_ANEW, strip=strip, host=host, extra=exchange.traceparent + extra)

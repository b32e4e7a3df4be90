"""What a request says beside what its rules look at: for tracing, for attribution, and for the guard against web pages."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, NamedTuple

from sidecar.http.trace import make, session_id
from sidecar.http.websocket import asked_key
from sidecar.policy.routes import WebPage, web_page

if TYPE_CHECKING:
    from sidecar.http.messages import Field, RequestHead
    from sidecar.proxy.ids import Ids

_NOTED: Final = frozenset({b"mcp-session-id", b"x-session-id", b"origin", b"sec-fetch-site", b"authorization"})


class Facts(NamedTuple):
    """What the fields of a head say, and so of every head on a connection that repeats them."""

    session: str | None
    page: WebPage
    #: The value of ``Authorization``, of which a head has one at the most.
    authorization: bytes | None
    #: The key of a head that asks for a WebSocket.
    websocket: bytes | None = None


def facts_of(head: RequestHead) -> Facts:
    """Finds the facts of a head; those of one that repeats the head before it are found already."""
    known = head.derived.owner
    if isinstance(known, Facts):
        return known
    noted = [field for field in head.fields if field[0] in _NOTED]
    key = asked_key(head.fields, head.connection) if b"upgrade" in head.connection else None
    facts = _NONE
    if noted or key is not None:
        facts = Facts(session_id(noted), web_page(noted), _authorization(noted), key)
    head.derived.owner = facts
    return facts


def trace_of(head: RequestHead, ids: Ids) -> tuple[str, bytes]:
    """The request's trace id and the field line that passes it on; made where there is none (W3C Trace Context 3.2)."""
    if head.trace:
        return head.trace[3:35].decode("ascii"), b"traceparent: %b\r\n" % head.trace
    trace_id, span_id = ids.pair()
    return trace_id, b"traceparent: %b\r\n" % make(trace_id, span_id[:16])


def _authorization(fields: list[Field]) -> bytes | None:
    return next((value for name, _, value in fields if name == b"authorization"), None)


_NONE: Final = Facts(None, web_page(()), None)

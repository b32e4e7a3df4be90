"""What holds for every stream, good or hostile; the streams come from a grammar and mutations of what it yields."""

from __future__ import annotations

import h11
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from sidecar.http.errors import HttpError
from sidecar.http.fields import IDENTITY, forward_request, forward_response, outgoing_framing
from sidecar.http.limits import HttpLimits
from sidecar.http.messages import Framing, RequestHead, ResponseHead, TargetForm
from sidecar.http.receiver import RequestReceiver
from sidecar.http.scanner import scan_request, scan_response
from sidecar.http.xfcc import identity_block
from tests.support import http_strategies as streams
from tests.support.http import LIMITS, PARSERS, Outcome, Recorder, cut, get, receive_requests, receive_responses

TIGHT = HttpLimits(head_bytes=90, target_bytes=12, fields=3, trailer_bytes=20, chunk_line_bytes=6, informational=1)
CHUNKED = b"Transfer-Encoding: chunked"
METHODS = st.sampled_from([b"GET", b"HEAD", b"CONNECT"])


@pytest.mark.parametrize("name", PARSERS)
@pytest.mark.parametrize("limits", [LIMITS, TIGHT], ids=["default", "tight"])
@given(data=streams.requests, cuts=streams.cuts, eof=st.booleans())
def test_any_split_of_the_same_requests(name: str, limits: HttpLimits, data: bytes, cuts: list[int], eof: bool) -> None:
    """Any split of the same bytes gives the same events and the same verdict."""
    whole = receive_requests([data], name, limits, eof=eof)
    assert receive_requests(cut(data, cuts), name, limits, eof=eof) == whole
    assert receive_requests(cut(data, range(len(data))), name, limits, eof=eof) == whole


@pytest.mark.parametrize("name", PARSERS)
@pytest.mark.parametrize("limits", [LIMITS, TIGHT], ids=["default", "tight"])
@given(data=streams.responses, cuts=streams.cuts, method=METHODS, eof=st.booleans())
def test_any_split_of_the_same_response(
    name: str, limits: HttpLimits, data: bytes, cuts: list[int], method: bytes, eof: bool
) -> None:
    """Any split of the same bytes gives the same events and the same verdict."""
    whole = receive_responses([data], name, limits, method=method, eof=eof)
    assert receive_responses(cut(data, cuts), name, limits, method=method, eof=eof) == whole
    assert receive_responses(cut(data, range(len(data))), name, limits, method=method, eof=eof) == whole


@pytest.mark.parametrize("limits", [LIMITS, TIGHT], ids=["default", "tight"])
@given(body=streams.chunked_bodies, cuts=streams.cuts)
def test_both_body_parsers_deliver_the_same(limits: HttpLimits, body: bytes, cuts: list[int]) -> None:
    """All body parsers deliver the same bytes, the same trailers and the same verdict."""
    data = b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n" + body
    outcomes = [receive_requests(cut(data, cuts), name, limits) for name in PARSERS]
    assert all(outcome == outcomes[0] for outcome in outcomes)
    assert outcomes[0].code != "body_disagreement"


# --- the referee ---------------------------------------------------------------------------------------------------------

# Where h11 refuses or changes what we accept, each on purpose: an example, and why.
DIFFERENCES = {
    "empty line": (
        b"\r\n" + get(),
        "one empty line before a request is ignored (RFC 9112 section 2.2); h11 takes it for a head without a first line",
    ),
    "list in a trailer": (
        get(CHUNKED, body=b"0\r\nContent-Length: 5, 5\r\n\r\n"),
        "what looks like framing in a trailer frames nothing; we read it as any field and drop it, h11 interprets it",
    ),
    "coding in a trailer": (
        get(CHUNKED, body=b"0\r\nTransfer-Encoding: gzip\r\n\r\n"),
        "the same; h11 refuses the message",
    ),
}
FRAMING = (b"content-length", b"transfer-encoding")

Seen = tuple[tuple[object, ...], bytes, object, list[tuple[bytes, bytes]]]


def by_h11(data: bytes) -> Seen | str:
    """What h11 makes of the first request: head, body, bytes behind its end, trailers; or why it refuses it."""
    connection = h11.Connection(h11.SERVER, max_incomplete_event_size=1 << 20)
    connection.receive_data(data)
    head: tuple[object, ...] = ()
    body = b""
    try:
        while True:
            event = connection.next_event()
            if isinstance(event, h11.Request):
                head = (event.method, event.target, event.http_version, list(event.headers.raw_items()))
            elif isinstance(event, h11.Data):
                body += bytes(event.data)
            elif isinstance(event, h11.EndOfMessage):
                return head, body, len(connection.trailing_data[0]), list(event.headers)
            else:
                return head, body, None, []
    except h11.RemoteProtocolError as error:
        return str(error)


def by_us(data: bytes) -> Seen | None:
    """The same from us, or None where we refuse the first request or have not seen its head."""
    sink = Recorder()
    receiver = RequestReceiver(sink, LIMITS)
    try:
        receiver.feed(data)
    except HttpError:
        return None
    if not sink.events:
        return None
    head = sink.events[0][1]
    assert isinstance(head, RequestHead)
    fields = [(name, value.lower() if lower == FRAMING[1] else value) for lower, name, value in head.fields]
    line = (head.method, head.target, b"1.%d" % head.minor, fields)
    name, trailers = sink.events[-1]
    if name != "end":
        return line, sink.body, None, []
    assert isinstance(trailers, list)
    return line, sink.body, receiver.held, [(lower, value) for lower, _, value in trailers]


@given(data=streams.requests)
@example(data=get(CHUNKED, body=b"ffffffffffffffff;a=b\r\nabc"))
@example(data=get(b"Upgrade: h2c", b"Content-Length: 5", body=b"hello" + get()))
@example(data=b"CONNECT a:443 HTTP/1.1\r\nHost: a:443\r\nContent-Length: 5\r\n\r\nhello")
@example(data=get(b"Content-Length: 9223372036854775807", body=b"x"))
def test_what_the_scanner_accepts_h11_frames_alike(data: bytes) -> None:
    """Every request that we accept has the same method, target, fields, body, trailers and end for h11."""
    ours = by_us(data)
    if ours is None:
        return
    theirs = by_h11(data.removeprefix(b"\r\n"))
    if any(name in FRAMING for name, _ in ours[3]):
        assert isinstance(theirs, str) or theirs[:3] == ours[:3]
    else:
        assert theirs == ours


@pytest.mark.parametrize("name", DIFFERENCES)
def test_where_h11_differs(name: str) -> None:
    data, why = DIFFERENCES[name]
    ours = by_us(data)
    assert ours is not None, why
    assert by_h11(data) != ours, why


# --- what goes on --------------------------------------------------------------------------------------------------------

OURS = identity_block("spiffe://example.org/agent/tools/1", bytes(32), "spiffe://example.org/agent/planner/1")
ONE_HOP = {b"connection", b"keep-alive", b"te", b"upgrade", b"proxy-connection", b"http2-settings"}


def heads(outcome: Outcome) -> list[RequestHead | ResponseHead]:
    return [value for _, value in outcome.events if isinstance(value, RequestHead | ResponseHead)]


@given(data=streams.requests)
@example(data=get(b"Connection: Host, X-Sidecar-Caller, Content-Length", b"x_sidecar_caller: x", b"Content-Length: 0"))
def test_what_goes_on_is_a_request_that_we_would_accept(data: bytes) -> None:
    """A request written anew is accepted, framed as before, with one Host, our identity fields once, and nothing of one hop."""
    for head in heads(receive_requests([data], PARSERS[0])):
        assert isinstance(head, RequestHead)
        if head.form is TargetForm.AUTHORITY:
            continue  # CONNECT is never written anew
        seen = scan_request(forward_request(head, host=None if head.host else b"none", extra=OURS), LIMITS)
        assert (seen.method, seen.path, seen.query) == (head.method, head.path, head.query)
        assert (seen.framing, seen.length) == (head.framing, head.length)
        assert seen.host == (head.host or b"none")
        names = [lower.replace(b"_", b"-") for lower, _, _ in seen.fields]
        assert sorted(set(names) & IDENTITY) == sorted(IDENTITY - {b"x-spiffe-id"})
        assert [names.count(name) for name in IDENTITY] == [int(name != b"x-spiffe-id") for name in IDENTITY]
        assert not ONE_HOP & set(names)


@given(data=streams.responses, method=METHODS, minor=st.integers(0, 1))
def test_what_goes_back_is_a_response_that_we_would_accept(data: bytes, method: bytes, minor: int) -> None:
    """A response written anew is accepted, framed as its client can read it, without identity and without anything of one hop."""
    for head in heads(receive_responses([data], PARSERS[0], method=method)):
        assert isinstance(head, ResponseHead)
        seen = scan_response(forward_response(head, outgoing_framing(head, minor)), method, LIMITS)
        assert (seen.status, seen.reason) == (head.status, head.reason)
        assert seen.framing is outgoing_framing(head, minor)
        if seen.framing in {Framing.NONE, Framing.LENGTH}:
            assert seen.length == head.length
        names = {lower.replace(b"_", b"-") for lower, _, _ in seen.fields}
        assert not (ONE_HOP | IDENTITY) & names

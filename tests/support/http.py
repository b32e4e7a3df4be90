"""HTTP engines at two ends of a fake wire: sinks that write down what they hear, and every way to cut a stream."""

from __future__ import annotations

from dataclasses import dataclass, field
from itertools import pairwise
from typing import TYPE_CHECKING, Any

from sidecar.http.errors import HttpError
from sidecar.http.fields import forward_request, forward_response, outgoing_framing
from sidecar.http.limits import HttpLimits
from sidecar.http.messages import RequestHead
from sidecar.http.parsers import BODY_PARSERS
from sidecar.http.receiver import RequestReceiver
from sidecar.http.response_receiver import ResponseReceiver

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    from sidecar.http.messages import Field, ResponseHead

    _End = Callable[[list[Field]], None]

LIMITS = HttpLimits()
PARSERS = sorted(BODY_PARSERS)


@dataclass
class Recorder:
    """A sink for either direction. Adjoining data is one event, so that equal streams make equal records."""

    events: list[tuple[str, object]] = field(default_factory=list)

    def on_request(self, head: RequestHead) -> None:
        self.events.append(("request", head))

    def on_response(self, head: ResponseHead) -> None:
        self.events.append(("response", head))

    def on_informational(self, head: ResponseHead) -> None:
        self.events.append(("informational", head))

    def on_data(self, data: bytes) -> None:
        assert type(data) is bytes
        assert data, "empty data"
        if self.events[-1][0] == "data":
            data = self.events.pop()[1] + data  # type: ignore[operator]
        self.events.append(("data", data))

    def on_end(self, trailers: list[Field]) -> None:
        self.events.append(("end", list(trailers)))

    def of(self, kind: str) -> list[object]:
        return [value for name, value in self.events if name == kind]

    @property
    def body(self) -> bytes:
        return b"".join(self.of("data"))  # type: ignore[arg-type]


class Taker(Recorder):
    """A sink that takes a message which is all there in one call, and writes down the same."""

    def on_whole(self, head: RequestHead | ResponseHead, body: bytes) -> None:
        self.events.append(("request" if isinstance(head, RequestHead) else "response", head))
        if body:
            self.events.append(("data", body))
        self.on_end([])


@dataclass(frozen=True)
class Outcome:
    """What a sink heard, and how it ended: the code and status of the error, or None."""

    events: list[tuple[str, object]]
    code: str | None
    status: int | None

    @property
    def kinds(self) -> list[str]:
        return [name for name, _ in self.events]

    @property
    def head(self) -> object:
        return self.events[0][1]

    @property
    def body(self) -> bytes:
        return b"".join(value for name, value in self.events if name == "data")  # type: ignore[misc]


def cut(data: bytes, places: Iterable[int]) -> list[bytes]:
    """The data in pieces; places outside of it and twice the same cut nothing."""
    edges = sorted({0, len(data), *(place for place in places if 0 < place < len(data))})
    return [data[start:end] for start, end in pairwise(edges)]


def receive_requests(
    pieces: Sequence[bytes], parser: str, limits: HttpLimits = LIMITS, *, secure: bool = False, eof: bool = False
) -> Outcome:
    """Feeds requests, taking each as soon as the one before it ends; both kinds of sinks hear the same."""
    outcomes = []
    for kind in (Recorder, Taker):
        sink = kind()
        receiver = RequestReceiver(sink, limits, BODY_PARSERS[parser], secure=secure)
        end = sink.on_end

        def on_end(trailers: list[Field], receiver: RequestReceiver = receiver, end: _End = end) -> None:
            end(trailers)
            receiver.next()

        receiver._sink_end = sink.on_end = on_end  # type: ignore[method-assign]
        outcomes.append(_receive(receiver, sink, pieces, eof=eof))
    assert outcomes[0] == outcomes[1]
    return outcomes[0]


def receive_responses(
    pieces: Sequence[bytes],
    parser: str,
    limits: HttpLimits = LIMITS,
    *,
    method: bytes = b"GET",
    eof: bool = False,
) -> Outcome:
    """Feeds what should be one response to a request of that method; both kinds of sinks hear the same."""
    outcomes = []
    for kind in (Recorder, Taker):
        sink = kind()
        receiver = ResponseReceiver(sink, limits, BODY_PARSERS[parser])
        receiver.expect(method)
        outcomes.append(_receive(receiver, sink, pieces, eof=eof))
    assert outcomes[0] == outcomes[1]
    return outcomes[0]


def _receive(
    receiver: RequestReceiver | ResponseReceiver, sink: Recorder, pieces: Sequence[bytes], *, eof: bool
) -> Outcome:
    try:
        for piece in pieces:
            receiver.feed(piece)
        if eof:
            receiver.eof()
    except HttpError as error:
        assert receiver.dead
        return Outcome(sink.events, error.code.value, error.status)
    return Outcome(sink.events, None, None)


def ways(data: bytes) -> dict[str, list[bytes]]:
    """Whole, byte by byte, and in two at the places where most goes wrong."""
    found = {"whole": [data], "bytes": cut(data, range(len(data)))}
    for mark in (b"\r\n\r\n", b"\r\n"):
        place = data.find(mark)
        for step in range(1, len(mark)):
            found[f"{mark!r}+{step}"] = cut(data, [place + step])
    return found


def requests(data: bytes, limits: HttpLimits = LIMITS, *, secure: bool = False, eof: bool = False) -> Outcome:
    """The one outcome of these requests, whole and cut, with every body parser."""
    return _one(
        {
            (parser, way): receive_requests(pieces, parser, limits, secure=secure, eof=eof)
            for way, pieces in ways(data).items()
            for parser in PARSERS
        }
    )


def response(data: bytes, limits: HttpLimits = LIMITS, *, method: bytes = b"GET", eof: bool = False) -> Outcome:
    """The one outcome of this response, whole and cut, with every body parser."""
    return _one(
        {
            (parser, way): receive_responses(pieces, parser, limits, method=method, eof=eof)
            for way, pieces in ways(data).items()
            for parser in PARSERS
        }
    )


def _one(outcomes: dict[tuple[str, str], Outcome]) -> Outcome:
    first = next(iter(outcomes.values()))
    for name, outcome in outcomes.items():
        assert outcome == first, name
    return first


def get(*fields: bytes, line: bytes = b"GET / HTTP/1.1", host: bytes | None = b"Host: a", body: bytes = b"") -> bytes:
    """A request with these field lines."""
    lines = [line, *([host] if host is not None else []), *fields]
    return b"\r\n".join(lines) + b"\r\n\r\n" + body


def ok(*fields: bytes, line: bytes = b"HTTP/1.1 200 OK", body: bytes = b"") -> bytes:
    """A response with these field lines."""
    return b"\r\n".join([line, *fields]) + b"\r\n\r\n" + body


def request_block(head: RequestHead, **options: Any) -> bytes:
    """The field block of the head with which a request goes on."""
    return forward_request(head, **options).partition(b"\r\n")[2][:-2]


def response_block(head: ResponseHead, *, minor: int = 1, **options: Any) -> bytes:
    """The field block of the head with which a response goes on to a client of HTTP/1.``minor``."""
    return forward_response(head, outgoing_framing(head, minor), **options).partition(b"\r\n")[2][:-2]


class Calling(Recorder):
    """A sink that does something in one of its methods."""

    def __init__(self, kind: str, action: Callable[[], None] | None = None) -> None:
        super().__init__()
        self.kind = kind
        self.action = action

    def _then(self, kind: str) -> None:
        if kind == self.kind and self.action is not None:
            self.action()

    def on_request(self, head: RequestHead) -> None:
        super().on_request(head)
        self._then("request")

    def on_response(self, head: ResponseHead) -> None:
        super().on_response(head)
        self._then("response")

    def on_informational(self, head: ResponseHead) -> None:
        super().on_informational(head)
        self._then("informational")

    def on_data(self, data: bytes) -> None:
        super().on_data(data)
        self._then("data")

    def on_end(self, trailers: list[Field]) -> None:
        super().on_end(trailers)
        self._then("end")

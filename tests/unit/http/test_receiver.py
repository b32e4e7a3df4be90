from __future__ import annotations

import contextlib
import gc
import sys
from typing import TYPE_CHECKING

import pytest

from sidecar.http.chunked import ChunkedReader
from sidecar.http.errors import HttpCode, HttpError
from sidecar.http.limits import HttpLimits
from sidecar.http.messages import RequestHead
from sidecar.http.parsers import BODY_PARSERS
from sidecar.http.receiver import RequestReceiver
from sidecar.http.watch import Watch
from tests.support.http import LIMITS, PARSERS, Calling, Recorder, Taker, get, requests

if TYPE_CHECKING:
    from sidecar.http.messages import Field

CHUNKED = b"Transfer-Encoding: chunked"
HELLO = b"Content-Length: 5"


def receiving() -> tuple[RequestReceiver, Recorder]:
    sink = Recorder()
    return RequestReceiver(sink, LIMITS), sink


def paths(sink: Recorder) -> list[bytes]:
    return [head.path for head in sink.of("request") if isinstance(head, RequestHead)]


# --- requests ------------------------------------------------------------------------------------------------------------


def test_requests_come_one_after_the_other() -> None:
    outcome = requests(
        get(line=b"GET /1 HTTP/1.1")
        + get(HELLO, line=b"POST /2 HTTP/1.1", body=b"hello")
        + get(b"Content-Length: 0", line=b"POST /3 HTTP/1.1")
        + get(CHUNKED, line=b"POST /4 HTTP/1.1", body=b"5\r\nhello\r\n0\r\nA: b\r\n\r\n")
        + get(line=b"GET /5 HTTP/1.0", host=None)
    )
    assert outcome.code is None
    assert outcome.kinds == [
        "request", "end",
        "request", "data", "end",
        "request", "end",
        "request", "data", "end",
        "request", "end",
    ]  # fmt: skip


def test_what_follows_a_request_is_held_until_it_is_asked_for() -> None:
    receiver, sink = receiving()
    first, second = get(line=b"GET /1 HTTP/1.1"), get(HELLO, line=b"POST /2 HTTP/1.1", body=b"hello")
    receiver.feed(first + second[:40])
    assert paths(sink) == [b"/1"]
    assert receiver.held == 40
    assert not receiver.idle
    receiver.feed(second[40:])
    assert paths(sink) == [b"/1"]
    assert receiver.held == len(second)
    receiver.next()
    assert paths(sink) == [b"/1", b"/2"]
    assert (sink.body, receiver.held) == (b"hello", 0)


def test_its_state_can_be_asked_for() -> None:
    receiver, _ = receiving()

    def state() -> tuple[bool, bool, bool, bool]:
        return receiver.idle, receiver.in_head, receiver.in_body, receiver.dead

    assert state() == (True, False, False, False)
    receiver.feed(b"POST / HT")
    assert state() == (False, True, False, False)
    receiver.feed(b"TP/1.1\r\nHost: a\r\nContent-Length: 2\r\n\r\n")
    assert state() == (False, False, True, False)
    receiver.feed(b"xy")
    assert state() == (False, False, False, False)
    receiver.next()
    assert state() == (True, False, False, False)
    receiver.stop()
    assert state() == (False, False, False, True)


def test_a_thousand_pipelined_requests_need_no_deeper_stack_than_one() -> None:
    depths: list[int] = []

    def action() -> None:
        frame, depth = sys._getframe(), 0
        while frame.f_back is not None:
            frame, depth = frame.f_back, depth + 1
        depths.append(depth)
        receiver.next()

    sink = Calling("end", action)
    receiver = RequestReceiver(sink, LIMITS)
    receiver.feed(get() * 1000)
    assert len(depths) == 1000
    assert len(set(depths)) == 1
    assert receiver.idle


def test_next_before_the_end_is_an_error_of_ours() -> None:
    receiver, _ = receiving()
    with pytest.raises(RuntimeError):
        receiver.next()
    receiver.feed(get(HELLO))
    with pytest.raises(RuntimeError):
        receiver.next()


@pytest.mark.parametrize("kind", ["request", "data", "end"])
@pytest.mark.parametrize("coding", [HELLO, CHUNKED, b"X: no body"])
def test_stop_within_the_sink_drops_all_that_follows(kind: str, coding: bytes) -> None:
    body = {HELLO: b"hello", CHUNKED: b"5\r\nhello\r\n0\r\n\r\n"}.get(coding, b"")
    sink = Calling(kind)
    receiver = RequestReceiver(sink, LIMITS)
    sink.action = receiver.stop
    receiver.feed(get(coding, body=body) + get(line=b"GET /2 HTTP/1.1") + b"\x00")
    if kind == "data" and not body:
        assert sink.events.pop()[0] == "end"
        receiver.stop()
    else:
        assert sink.events.pop()[0] == kind
    assert receiver.dead
    before = list(sink.events)
    receiver.feed(b"\x00 more")
    receiver.next()
    receiver.eof()
    assert (sink.events, receiver.held) == (before, 0)


def test_a_defect_behind_stopped_data_is_nobodys() -> None:
    sink = Calling("data")
    receiver = RequestReceiver(sink, LIMITS)
    sink.action = receiver.stop
    receiver.feed(get(CHUNKED, body=b"1\r\nx\r\nzz"))
    assert [name for name, _ in sink.events] == ["request", "data"]


@pytest.mark.parametrize("kind", ["request", "data", "end"])
def test_feeding_within_the_sink_appends(kind: str) -> None:
    sink = Calling(kind)
    receiver = RequestReceiver(sink, LIMITS)
    more = [b"lo", get(line=b"GET /2 HTTP/1.1")]

    def action() -> None:
        while more:
            receiver.feed(more.pop(0))

    sink.action = action
    receiver.feed(get(HELLO, line=b"POST /1 HTTP/1.1", body=b"hel"))
    if kind == "end":  # the body's end has to come from outside
        assert sink.of("end") == []
        receiver.feed(more.pop(0))
    assert sink.body == b"hello"
    assert paths(sink) == [b"/1"]
    receiver.next()
    assert paths(sink) == [b"/1", b"/2"]


def test_an_error_is_raised_once_and_then_all_is_dropped() -> None:
    receiver, sink = receiving()
    with pytest.raises(HttpError):
        receiver.feed(b"\x00")
    assert receiver.dead
    receiver.feed(get())
    receiver.next()
    receiver.eof()
    assert sink.events == []


def test_the_error_of_a_held_request_comes_from_next() -> None:
    receiver, _ = receiving()
    receiver.feed(get() + b"\x00")
    with pytest.raises(HttpError) as caught:
        receiver.next()
    assert caught.value.code is HttpCode.CONTROL_BYTE


def test_a_failing_sink_ends_the_receiver() -> None:
    def action() -> None:
        raise KeyError

    sink = Calling("request", action)
    receiver = RequestReceiver(sink, LIMITS)
    with pytest.raises(KeyError):
        receiver.feed(get())
    assert receiver.dead


@pytest.mark.parametrize(
    ("data", "code"),
    [
        (b"", None),
        (b"\r\n", None),
        (get(), None),
        (b"\r", "truncated_head"),
        (b"G", "truncated_head"),
        (get()[:-1], "truncated_head"),
        (get() + b"G", "truncated_head"),
        (get(HELLO), "truncated_body"),
        (get(HELLO, body=b"hell"), "truncated_body"),
        (get(CHUNKED), "truncated_body"),
        (get(CHUNKED, body=b"1\r\nx\r\n0\r\n"), "truncated_body"),
        (get(CHUNKED, body=b"1\r\nx\r\n0\r\n\r\n"), None),
    ],
)
def test_the_end_of_the_connection(data: bytes, code: str | None) -> None:
    outcome = requests(data, eof=True)
    assert (outcome.code, outcome.status) == (code, code and 400)


def test_an_end_behind_held_bytes_counts_when_their_turn_comes() -> None:
    receiver, sink = receiving()
    receiver.feed(get(line=b"GET /1 HTTP/1.1") + get(line=b"GET /2 HTTP/1.1") + b"GET")
    receiver.eof()
    receiver.next()
    assert paths(sink) == [b"/1", b"/2"]
    with pytest.raises(HttpError) as caught:
        receiver.next()
    assert caught.value.code is HttpCode.TRUNCATED_HEAD


@pytest.mark.threat(32)
def test_threat_32_one_empty_line_before_a_request_is_ignored() -> None:
    assert requests(b"\r\n" + get()).kinds == ["request", "end"]
    assert requests(b"\r\n" + get() + b"\r\n" + get()).kinds == ["request", "end"] * 2
    for data in (b"\r\n\r\n" + get(), b"\r\n\r\n", get() + b"\r\n\r\n"):
        assert requests(data).code == HttpCode.BAD_REQUEST_LINE
    assert requests(b"\r\n\n").code == HttpCode.BARE_LF
    assert requests(b"\r\r\n").code == HttpCode.BARE_CR


def test_an_empty_line_alone_is_no_request() -> None:
    receiver, _ = receiving()
    receiver.feed(b"\r\n")
    assert receiver.idle
    receiver.eof()


def test_the_largest_head_may_follow_an_empty_line() -> None:
    block = get(b"X: y")
    assert requests(b"\r\n" + block, HttpLimits(head_bytes=len(block))).code is None
    assert requests(block, HttpLimits(head_bytes=len(block) - 1)).code == HttpCode.HEAD_TOO_LARGE


def test_a_body_that_comes_alone_is_not_copied() -> None:
    seen: list[bytes] = []
    receiver, sink = receiving()
    receiver._sink_data = seen.append
    receiver.feed(get(b"Content-Length: 10"))
    data = bytes(5)
    receiver.feed(data)
    receiver.feed(data)
    assert [piece is data for piece in seen] == [True, True]
    assert [name for name, _ in sink.events] == ["request", "end"]


@pytest.mark.parametrize("name", PARSERS)
@pytest.mark.parametrize("ending", [b"", b"\r\n\r\n", b"\n"], ids=["partly", "whole", "defect"])
def test_nothing_lives_on_in_a_cycle(name: str, ending: bytes) -> None:
    """A receiver refers to its sink; as long as that does not refer back, nothing is left to the garbage collector."""

    kinds = (RequestReceiver, ChunkedReader, Watch, BODY_PARSERS[name])
    gc.collect()
    gc.disable()
    try:
        before = [thing for thing in gc.get_objects() if isinstance(thing, kinds)]
        receiver = RequestReceiver(Recorder(), LIMITS, BODY_PARSERS[name])
        receiver.feed(get(CHUNKED, body=b"1;e\r\nx\r\n0\r\nA: b"))
        with contextlib.suppress(HttpError):
            receiver.feed(ending)
        receiver.stop()
        del receiver
        after = [thing for thing in gc.get_objects() if isinstance(thing, kinds)]
    finally:
        gc.enable()
    assert len(after) == len(before)


def test_the_last_bytes_of_a_stopped_receiver_are_let_go() -> None:
    receiver, _ = receiving()
    receiver.feed(get() + b"x" * 1000)
    assert receiver.held == 1000
    receiver.stop()
    assert receiver.held == 0


# --- messages that arrive in one piece -----------------------------------------------------------------------------------


def test_a_sink_that_stops_in_a_whole_message_hears_no_more() -> None:
    class Stopping(Taker):
        def on_end(self, trailers: list[Field]) -> None:
            super().on_end(trailers)
            receiver.stop()

    sink = Stopping()
    receiver = RequestReceiver(sink, LIMITS)
    receiver.feed(get() + get())
    assert len(sink.of("request")) == 1
    assert (receiver.dead, receiver.held) == (True, 0)

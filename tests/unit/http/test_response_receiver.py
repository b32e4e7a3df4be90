from __future__ import annotations

import pytest

from sidecar.http.errors import HttpCode, ResponseError
from sidecar.http.limits import HttpLimits
from sidecar.http.messages import Framing, ResponseHead
from sidecar.http.response_receiver import ResponseReceiver
from tests.support.http import LIMITS, Calling, Recorder, Taker, ok, response

CHUNKED = b"Transfer-Encoding: chunked"
HELLO = b"Content-Length: 5"


def expecting(method: bytes = b"GET") -> tuple[ResponseReceiver, Recorder]:
    sink = Recorder()
    receiver = ResponseReceiver(sink, LIMITS)
    receiver.expect(method)
    return receiver, sink


@pytest.mark.parametrize(
    ("data", "method", "body", "trailers"),
    [
        (ok(HELLO, body=b"hello"), b"GET", b"hello", []),
        (ok(b"Content-Length: 0"), b"GET", b"", []),
        (ok(CHUNKED, body=b"5\r\nhello\r\n0\r\nA: b\r\n\r\n"), b"GET", b"hello", [(b"a", b"A", b"b")]),
        (ok(HELLO), b"HEAD", b"", []),
        (ok(line=b"HTTP/1.1 204 No Content"), b"GET", b"", []),
        (ok(HELLO, line=b"HTTP/1.1 304 Not Modified"), b"GET", b"", []),
    ],
)
def test_responses(data: bytes, method: bytes, body: bytes, trailers: list[object]) -> None:
    outcome = response(data, method=method)
    assert outcome.code is None
    assert outcome.body == body
    assert outcome.events[-1] == ("end", trailers)


def test_interim_responses_come_before_the_final_one() -> None:
    outcome = response(ok(line=b"HTTP/1.1 100 ") + ok(b"Link: x", line=b"HTTP/1.1 103 ") + ok(HELLO, body=b"hello"))
    assert outcome.code is None
    assert outcome.kinds == ["informational", "informational", "response", "data", "end"]


def test_interim_responses_are_bounded() -> None:
    limits = HttpLimits(informational=2)
    interim = ok(line=b"HTTP/1.1 100 ")
    assert response(interim * 2 + ok(b"Content-Length: 0"), limits).code is None
    assert response(interim * 3, limits).code == HttpCode.TOO_MANY_INFORMATIONAL
    receiver, _ = expecting()
    receiver._limits = limits
    for _ in range(3):  # for each response anew
        receiver.feed(interim * 2 + ok(b"Content-Length: 0"))
        receiver.expect(b"GET")


@pytest.mark.threat(37)
@pytest.mark.parametrize(
    ("data", "method"),
    [
        (ok(HELLO, body=b"hello"), b"GET"),
        (ok(b"Content-Length: 0"), b"GET"),
        (ok(CHUNKED, body=b"0\r\n\r\n"), b"GET"),
        (ok(CHUNKED, body=b"5\r\nhello\r\n0\r\nA: b\r\n\r\n"), b"GET"),
        (ok(HELLO), b"HEAD"),
        (ok(line=b"HTTP/1.1 204 "), b"GET"),
        (ok(line=b"HTTP/1.1 304 "), b"GET"),
    ],
)
@pytest.mark.parametrize("extra", [b"x", b"\r\n", ok(b"Content-Length: 6", body=b"hacked")])
def test_threat_37_bytes_behind_a_response_are_nobodys(data: bytes, method: bytes, extra: bytes) -> None:
    whole = response(data, method=method)
    outcome = response(data + extra, method=method)
    assert (outcome.code, outcome.status) == ("unsolicited_bytes", 502)
    assert outcome.events == whole.events


@pytest.mark.threat(37)
@pytest.mark.parametrize("again", [True, False])
def test_threat_37_bytes_behind_a_response_are_not_the_next_ones(again: bool) -> None:
    """Even if the sink awaits the next response in the very call that ends the one before."""
    seen: list[bool] = []

    def action() -> None:
        seen.append(receiver.reusable)
        if again:
            receiver.expect(b"GET")

    sink = Calling("end", action)
    receiver = ResponseReceiver(sink, LIMITS)
    receiver.expect(b"GET")
    with pytest.raises(ResponseError) as caught:
        receiver.feed(ok(HELLO, body=b"hello") + ok(b"Content-Length: 6", body=b"hacked"))
    assert caught.value.code is HttpCode.UNSOLICITED_BYTES
    assert seen == [False]
    assert sink.body == b"hello"
    assert not receiver.reusable


@pytest.mark.threat(37)
def test_threat_37_bytes_before_any_request_are_nobodys() -> None:
    receiver = ResponseReceiver(sink := Recorder(), LIMITS)
    assert receiver.reusable
    with pytest.raises(ResponseError) as caught:
        receiver.feed(ok(b"Content-Length: 0"))
    assert caught.value.code is HttpCode.UNSOLICITED_BYTES
    assert (sink.events, receiver.reusable) == ([], False)


@pytest.mark.threat(38)
@pytest.mark.parametrize(
    ("data", "method"),
    [
        (ok(b"Upgrade: websocket", line=b"HTTP/1.1 101 Switching Protocols", body=b"\x81\x00"), b"GET"),
        (ok(line=b"HTTP/1.1 101 "), b"GET"),
        (ok(line=b"HTTP/1.1 100 ") + ok(line=b"HTTP/1.1 101 "), b"GET"),
        (ok(line=b"HTTP/1.1 200 ", body=b"tunnel"), b"CONNECT"),
    ],
)
def test_threat_38_no_response_ends_http(data: bytes, method: bytes) -> None:
    outcome = response(data, method=method)
    assert (outcome.code, outcome.status) == ("unsolicited_upgrade", 502)
    assert set(outcome.kinds) <= {"informational"}


def test_a_refused_connect_is_a_plain_response() -> None:
    assert response(ok(b"Content-Length: 0", line=b"HTTP/1.1 405 "), method=b"CONNECT").code is None


def test_one_response_for_each_expectation() -> None:
    receiver, sink = expecting()
    with pytest.raises(RuntimeError):
        receiver.expect(b"GET")
    receiver.feed(ok(HELLO, body=b"hello"))
    assert receiver.reusable
    receiver.expect(b"HEAD")
    assert not receiver.reusable
    receiver.feed(ok(HELLO))
    assert receiver.reusable
    assert [name for name, _ in sink.events] == ["response", "data", "end", "response", "end"]
    receiver.stop()
    with pytest.raises(RuntimeError):
        receiver.expect(b"GET")


def test_a_response_may_follow_at_once_where_nothing_lies_behind() -> None:
    sink = Calling("end")
    receiver = ResponseReceiver(sink, LIMITS)
    sink.action = lambda: receiver.expect(b"GET")
    receiver.expect(b"GET")
    receiver.feed(ok(HELLO, body=b"hello"))
    receiver.feed(ok(b"Content-Length: 0"))
    assert [name for name, _ in sink.events] == ["response", "data", "end", "response", "end"]


@pytest.mark.parametrize(
    ("data", "reusable"),
    [
        (ok(HELLO, body=b"hello"), True),
        (ok(HELLO, b"Connection: close", body=b"hello"), False),
        (ok(HELLO, line=b"HTTP/1.0 200 ", body=b"hello"), False),
        (ok(HELLO, body=b"hell"), False),
    ],
)
def test_only_a_connection_that_stays_open_is_reusable(data: bytes, reusable: bool) -> None:
    receiver, _ = expecting()
    receiver.feed(data)
    assert receiver.reusable is reusable


def test_a_body_that_ends_with_the_connection() -> None:
    outcome = response(ok(b"X: y", body=b"hello"), eof=True)
    assert (outcome.code, outcome.kinds, outcome.body) == (None, ["response", "data", "end"], b"hello")
    assert outcome.head.framing is Framing.CLOSE  # type: ignore[attr-defined]
    assert response(ok(), eof=True).kinds == ["response", "end"]


def test_after_its_end_a_connection_is_not_reusable() -> None:
    receiver, sink = expecting()
    receiver.feed(ok(body=b"x"))
    receiver.eof()
    assert sink.events[-1] == ("end", [])
    assert not receiver.reusable
    receiver, _ = expecting()
    receiver.feed(ok(b"Content-Length: 0"))
    receiver.eof()
    assert not receiver.reusable


@pytest.mark.threat(43)
@pytest.mark.parametrize(
    ("data", "code"),
    [
        (b"", "no_response"),
        (ok(line=b"HTTP/1.1 100 "), "no_response"),
        (b"H", "truncated_head"),
        (ok(HELLO)[:-1], "truncated_head"),
        (ok(HELLO, body=b"hell"), "truncated_body"),
        (ok(CHUNKED, body=b"5\r\nhello\r\n"), "truncated_body"),
        (ok(CHUNKED, body=b"5\r\nhello\r\n0\r\n"), "truncated_body"),
        (ok(CHUNKED, body=b"5\r\nhello\r\n0\r\nA: b\r\n"), "truncated_body"),
    ],
)
def test_threat_43_a_truncated_response(data: bytes, code: str) -> None:
    outcome = response(data, eof=True)
    assert (outcome.code, outcome.status) == (code, 502)
    assert "end" not in outcome.kinds


@pytest.mark.threat(43)
def test_threat_43_an_unclean_end_truncates_what_only_the_end_delimits() -> None:
    receiver, sink = expecting()
    receiver.feed(ok(body=b"hello"))
    with pytest.raises(ResponseError) as caught:
        receiver.eof(clean=False)
    assert caught.value.code is HttpCode.TRUNCATED_BODY
    assert sink.of("end") == []
    receiver.eof()
    assert sink.of("end") == []


@pytest.mark.parametrize("kind", ["informational", "response", "data", "end"])
def test_stop_within_the_response_sink_drops_all_that_follows(kind: str) -> None:
    for data in (ok(HELLO, body=b"hello"), ok(CHUNKED, body=b"1\r\nx\r\n0\r\n\r\n"), ok(b"Content-Length: 0")):
        sink = Calling(kind)
        receiver = ResponseReceiver(sink, LIMITS)
        sink.action = receiver.stop
        receiver.expect(b"GET")
        if kind == "data" and b": 0" in data:
            continue
        receiver.feed(ok(line=b"HTTP/1.1 100 ") + data + b"extra")
        assert sink.events[-1][0] == kind
        assert receiver.dead
        receiver.feed(b"more")
        receiver.eof(clean=False)
        assert sink.events[-1][0] == kind


def test_bytes_behind_a_response_in_one_piece_are_refused_after_it_was_told() -> None:
    sink = Taker()
    receiver = ResponseReceiver(sink, LIMITS)
    receiver.expect(b"GET")
    with pytest.raises(ResponseError) as caught:
        receiver.feed(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nhiHTTP/1.1 200 OK\r\n")
    assert caught.value.code is HttpCode.UNSOLICITED_BYTES
    assert sink.body == b"hi"
    assert not receiver.reusable


@pytest.mark.threat(37)
def test_threat_37_nor_are_they_the_next_ones_where_it_is_awaited_in_that_very_call() -> None:
    class Eager(Taker):
        def on_whole(self, head: ResponseHead, body: bytes) -> None:
            super().on_whole(head, body)
            receiver.expect(b"GET")

    sink = Eager()
    receiver = ResponseReceiver(sink, LIMITS)
    receiver.expect(b"GET")
    with pytest.raises(ResponseError) as caught:
        receiver.feed(ok(HELLO, body=b"hello") + ok(b"Content-Length: 6", body=b"hacked"))
    assert caught.value.code is HttpCode.UNSOLICITED_BYTES
    assert sink.body == b"hello"


def test_an_announced_length_without_a_body_is_none() -> None:
    sink = Taker()
    receiver = ResponseReceiver(sink, LIMITS)
    receiver.expect(b"HEAD")
    receiver.feed(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n")
    assert [kind for kind, _ in sink.events] == ["response", "end"]
    assert receiver.reusable

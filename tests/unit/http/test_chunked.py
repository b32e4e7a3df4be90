from __future__ import annotations

import os
import time
from typing import TYPE_CHECKING

import pytest

from sidecar.http.chunked import ChunkedReader
from sidecar.http.errors import HttpCode, HttpError
from sidecar.http.limits import HttpLimits
from sidecar.http.parsers import BODY_PARSERS
from tests.support.http import LIMITS, PARSERS, get, ok, receive_requests, requests, response

if TYPE_CHECKING:
    from sidecar.http.parsers import ParserFactory
    from tests.support.http import Outcome

CHUNKED = b"Transfer-Encoding: chunked"


def sent(body: bytes, limits: HttpLimits = LIMITS) -> Outcome:
    return requests(get(CHUNKED, line=b"POST / HTTP/1.1", body=body), limits)


# --- what is accepted ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("body", "data", "trailers"),
    [
        (b"0\r\n\r\n", b"", []),
        (b"0000000000000000\r\n\r\n", b"", []),
        (b"5\r\nhello\r\n0\r\n\r\n", b"hello", []),
        (b"0000000000000005\r\nhello\r\n0\r\n\r\n", b"hello", []),
        (b"a\r\n0123456789\r\nA\r\n0123456789\r\n0\r\n\r\n", b"01234567890123456789", []),
        (b"5\r\n\r\n0\r\n\r\n0\r\n\r\n", b"\r\n0\r\n", []),
        (b"5;a=b;c\r\nhello\r\n0;d\r\n\r\n", b"hello", []),
        (b'5;a="b c\t\xff"\r\nhello\r\n0\r\n\r\n', b"hello", []),
        (b"5;\r\nhello\r\n0\r\n\r\n", b"hello", []),
        (b"1\r\nx\r\n0\r\nA: b\r\nC: \r\n\r\n", b"x", [(b"a", b"A", b"b"), (b"c", b"C", b"")]),
        (b"0;x\r\nA: b\r\n\r\n", b"", [(b"a", b"A", b"b")]),
    ],
)
def test_chunked_bodies(body: bytes, data: bytes, trailers: list[object]) -> None:
    outcome = sent(body)
    assert outcome.code is None
    assert outcome.body == data
    assert outcome.events[-1] == ("end", trailers)


def test_what_follows_the_body_is_the_next_request() -> None:
    for body in (b"1\r\nx\r\n0\r\n\r\n", b"1\r\nx\r\n0\r\nA: b\r\n\r\n", b"1;x\r\nx\r\n0;y\r\n\r\n"):
        outcome = sent(body + get(line=b"GET /next HTTP/1.1"))
        assert outcome.code is None
        assert [getattr(value, "path", None) for kind, value in outcome.events if kind == "request"] == [b"/", b"/next"]


@pytest.mark.parametrize("name", PARSERS)
def test_data_leaves_with_the_call_that_brought_it(name: str) -> None:
    reader = ChunkedReader(LIMITS, BODY_PARSERS[name])
    assert reader.feed(b"a", 0) == (b"", 1)
    assert reader.feed(b"\r", 0) == (b"", 1)
    assert reader.feed(b"\nda", 0) == (b"da", 3)
    assert reader.feed(b"ta: 1\n\n", 0) == (b"ta: 1\n\n", 7)
    assert reader.feed(b"x\r\n3\r\n12", 0) == (b"x12", 8)
    assert not reader.done


@pytest.mark.parametrize("name", PARSERS)
def test_a_reader_reads_from_the_middle_and_stops_at_its_end(name: str) -> None:
    reader = ChunkedReader(LIMITS, BODY_PARSERS[name])
    assert reader.feed(b"HEAD1\r\nx\r\n0\r\n\r\nNEXT", 4) == (b"x", 15)
    assert reader.done
    reader = ChunkedReader(LIMITS, BODY_PARSERS[name])
    assert reader.feed(b"HEAD0\r\nA: b\r\n\r\nNEXT", 4) == (b"", 15)
    assert reader.trailers == [(b"a", b"A", b"b")]


# --- what is refused -----------------------------------------------------------------------------------------------------


@pytest.mark.threat(31)
@pytest.mark.parametrize(
    ("body", "code"),
    [
        (b"0x2\r\nab\r\n", HttpCode.BAD_CHUNK_SIZE),
        (b"+2\r\nab\r\n", HttpCode.BAD_CHUNK_SIZE),
        (b"-2\r\nab\r\n", HttpCode.BAD_CHUNK_SIZE),
        (b"2 \r\nab\r\n", HttpCode.BAD_CHUNK_SIZE),
        (b" 2\r\nab\r\n", HttpCode.BAD_CHUNK_SIZE),
        (b"2\t\r\nab\r\n", HttpCode.BAD_CHUNK_SIZE),
        (b"2 ;a\r\nab\r\n", HttpCode.BAD_CHUNK_SIZE),
        (b"0_2\r\nab\r\n", HttpCode.BAD_CHUNK_SIZE),
        (b"2,\r\nab\r\n", HttpCode.BAD_CHUNK_SIZE),
        (b"\r\n2\r\nab\r\n", HttpCode.BAD_CHUNK_SIZE),
        (b"\r\n", HttpCode.BAD_CHUNK_SIZE),
        (b";a\r\n", HttpCode.BAD_CHUNK_SIZE),
        (b"g\r\n", HttpCode.BAD_CHUNK_SIZE),
        (b"\x00\r\n", HttpCode.BAD_CHUNK_SIZE),
        (b"\xd9\xa2\r\nab\r\n", HttpCode.BAD_CHUNK_SIZE),
        (b"00000000000000002\r\nab\r\n", HttpCode.BAD_CHUNK_SIZE),
        (b"f" * 17, HttpCode.BAD_CHUNK_SIZE),
        (b"f" * 5000, HttpCode.BAD_CHUNK_SIZE),
        (b"2\nab\r\n", HttpCode.BARE_LF),
        (b"\n", HttpCode.BARE_LF),
        (b"2;a\nab\r\n", HttpCode.BARE_LF),
        (b"2\rab\r\n", HttpCode.BARE_CR),
        (b"2\r\r\nab\r\n", HttpCode.BARE_CR),
        (b"2;a\rb\r\nab\r\n", HttpCode.BARE_CR),
        (b"2;a\x00\r\nab\r\n", HttpCode.CONTROL_BYTE),
        (b"2;a\x7f\r\nab\r\n", HttpCode.CONTROL_BYTE),
        (b"2;" + b"a" * 5000 + b"\r\nab\r\n", HttpCode.CHUNK_LINE_TOO_LONG),
    ],
)
def test_threat_31_chunk_size_lines(body: bytes, code: HttpCode) -> None:
    for before, data in ((b"", b""), (b"3\r\nxyz\r\n", b"xyz"), (b"3;e\r\nxyz\r\n", b"xyz")):
        outcome = sent(before + body + b"0\r\n\r\n" + get(line=b"GET /smuggled HTTP/1.1"))
        assert (outcome.code, outcome.status) == (code.value, 400)
        assert outcome.kinds == ["request", *(["data"] if data else [])]
        assert outcome.body == data


@pytest.mark.threat(31)
@pytest.mark.parametrize("ending", [b"", b"\n", b"\r", b"\rx", b"\n\r", b" \r\n", b"x\r\n"])
def test_threat_31_the_crlf_behind_the_data(ending: bytes) -> None:
    outcome = sent(b"2\r\nab" + ending + b"0\r\n\r\n" + get())
    assert (outcome.code, outcome.status) == ("bad_chunk_end", 400)
    assert (outcome.kinds, outcome.body) == (["request", "data"], b"ab")


@pytest.mark.threat(31)
def test_threat_31_a_chunk_size_line_is_bounded() -> None:
    limits = HttpLimits(chunk_line_bytes=20)
    assert sent(b"01;" + b"e" * 17 + b"\r\nx\r\n0\r\n\r\n", limits).code is None
    assert sent(b"01;" + b"e" * 18 + b"\r\nx\r\n0\r\n\r\n", limits).code == HttpCode.CHUNK_LINE_TOO_LONG
    assert sent(b"1;" + b"e" * 30, limits).code == HttpCode.CHUNK_LINE_TOO_LONG


@pytest.mark.threat(31)
def test_threat_31_a_huge_chunk_is_awaited_not_believed() -> None:
    outcome = sent(b"ffffffffffffffff\r\nabc")
    assert (outcome.code, outcome.body) == (None, b"abc")


@pytest.mark.threat(40)
@pytest.mark.parametrize(
    ("trailers", "code", "status"),
    [
        (b"A : b\r\n\r\n", HttpCode.SPACE_BEFORE_COLON, 400),
        (b"A: b\r\n c\r\n\r\n", HttpCode.OBS_FOLD, 400),
        (b" A: b\r\n\r\n", HttpCode.OBS_FOLD, 400),
        (b"A\r\n\r\n", HttpCode.BAD_FIELD, 400),
        (b": b\r\n\r\n", HttpCode.EMPTY_FIELD_NAME, 400),
        (b"A B: c\r\n\r\n", HttpCode.BAD_FIELD_NAME, 400),
        (b"A: \x00\r\n\r\n", HttpCode.CONTROL_BYTE, 400),
        (b"A: b\n\r\n\r\n", HttpCode.BARE_LF, 400),
        (b"\n", HttpCode.BARE_LF, 400),
        (b"\rX", HttpCode.BARE_CR, 400),
        (b"A: b\rc\r\n\r\n", HttpCode.BARE_CR, 400),
        (b"A: " + b"b" * 9000, HttpCode.TRAILERS_TOO_LARGE, 431),
        (b"A: " + b"b" * 9000 + b"\r\n\r\n", HttpCode.TRAILERS_TOO_LARGE, 431),
        (b"A:\r\n" * 200, HttpCode.TOO_MANY_TRAILERS, 431),
        (b"A:\r\n" * 129 + b"\r\n", HttpCode.TOO_MANY_TRAILERS, 431),
    ],
    ids=range(15),
)
def test_threat_40_bad_trailers(trailers: bytes, code: HttpCode, status: int) -> None:
    outcome = sent(b"1\r\nx\r\n0\r\n" + trailers + get())
    assert (outcome.code, outcome.status) == (code.value, status)
    assert (outcome.kinds, outcome.body) == (["request", "data"], b"x")


def test_the_largest_trailer_section() -> None:
    section = b"A:" + b"b" * (8 * 1024 - 6) + b"\r\n\r\n"
    assert sent(b"0\r\n" + section).code is None
    assert sent(b"0\r\nA" + section).code == HttpCode.TRAILERS_TOO_LARGE
    assert sent(b"0\r\n" + b"A:\r\n" * 128 + b"\r\n").code is None


@pytest.mark.threat(37)
def test_threat_37_a_bad_chunk_of_an_upstream_is_502() -> None:
    outcome = response(ok(CHUNKED, body=b"2\r\nab\r\nzz\r\n"))
    assert (outcome.code, outcome.status, outcome.body) == ("bad_chunk_size", 502, b"ab")


# --- two opinions --------------------------------------------------------------------------------------------------------


class _Other:
    """A parser that sees things its own way."""

    def __init__(self, pieces: list[bytes], *, done: bool = False) -> None:
        self.done = done
        self.pieces = pieces

    def feed(self, run: bytes | memoryview) -> list[bytes]:
        return self.pieces


def _failing() -> ParserFactory:
    class Failing(_Other):
        def feed(self, run: bytes | memoryview) -> list[bytes]:
            raise ValueError(bytes(run))

    return lambda: Failing([])


@pytest.mark.parametrize(
    "parser",
    [lambda: _Other([]), lambda: _Other([b"xy"]), lambda: _Other([b"x"], done=True), _failing()],
    ids=["less", "more", "end", "error"],
)
def test_a_parser_that_disagrees_ends_the_message(parser: ParserFactory) -> None:
    for body in (b"1\r\nx", b"1;e\r\nx", b"1\r\nx\r\n"):
        with pytest.raises(HttpError) as caught:
            ChunkedReader(LIMITS, parser).feed(body, 0)
        assert caught.value.code is HttpCode.BODY_DISAGREEMENT


def test_a_parser_that_sees_no_end_ends_the_message() -> None:
    for body in (b"1\r\nx\r\n0\r\n\r\n", b"1\r\nx\r\n0\r\nA: b\r\n\r\n"):
        with pytest.raises(HttpError) as caught:
            ChunkedReader(LIMITS, lambda: _Other([b"x"])).feed(body, 0)
        assert caught.value.code is HttpCode.BODY_DISAGREEMENT


# --- cost ----------------------------------------------------------------------------------------------------------------


def _cost(name: str, body: bytes, step: int) -> float:
    data = get(CHUNKED, body=body)
    pieces = [data[start : start + step] for start in range(0, len(data), step)]
    best = float("inf")
    for _ in range(3):
        start = time.process_time()
        assert receive_requests(pieces, name).code is None
        best = min(best, time.process_time() - start)
    return best


@pytest.mark.threat(47)
@pytest.mark.parametrize("name", PARSERS)
@pytest.mark.parametrize("chunk", [b"1\r\nx\r\n", b"1;e\r\nx\r\n"], ids=["plain", "extension"])
@pytest.mark.parametrize("step", [1, 65536])
def test_threat_47_one_byte_chunks_cost_linear_time(name: str, chunk: bytes, step: int) -> None:
    """Four times the chunks take about four times the CPU; anything quadratic would take sixteen."""
    small, large = chunk * 1000 + b"0\r\n\r\n", chunk * 4000 + b"0\r\n\r\n"
    assert _cost(name, large, step) < 9 * _cost(name, small, step)


@pytest.mark.threat(47)
@pytest.mark.parametrize("name", PARSERS)
def test_threat_47_a_chunk_size_line_and_trailers_byte_by_byte_cost_linear_time(name: str) -> None:
    """Four times the bytes, one by one, take about four times the CPU."""

    def body(size: int) -> bytes:
        return b"1;" + b"e" * size + b"\r\nx\r\n0\r\nA:" + b"b" * size + b"\r\n\r\n"

    assert _cost(name, body(4000), 1) < 9 * _cost(name, body(1000), 1)


@pytest.mark.soak
@pytest.mark.threat(47)
def test_threat_47_a_million_one_byte_chunks() -> None:
    """All of them arrive; CI takes a twentieth."""
    count = 1_000_000 if os.environ.get("SIDECAR_SOAK") else 50_000
    data = get(CHUNKED, body=b"1\r\nx\r\n" * count + b"0\r\n\r\n")
    pieces = [data[start : start + 65536] for start in range(0, len(data), 65536)]
    for name in PARSERS:
        outcome = receive_requests(pieces, name)
        assert (outcome.code, len(outcome.body), outcome.kinds[-1]) == (None, count, "end")

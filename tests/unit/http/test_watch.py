from __future__ import annotations

import time

import pytest

from sidecar.http.errors import HttpCode, HttpError
from sidecar.http.limits import HttpLimits
from sidecar.http.scanner import request_rules, response_rules
from sidecar.http.watch import Watch, WatchRules, control_defect

SMALL = HttpLimits(head_bytes=100, target_bytes=20, fields=3, trailer_bytes=40)


def place(rules: WatchRules, data: bytes) -> tuple[int, HttpCode] | None:
    """After how many bytes, fed one by one, which code comes; the same must come from the whole."""
    head, watch = bytearray(), Watch(rules)
    found = None
    for byte in data:
        head.append(byte)
        try:
            watch.look(head)
        except HttpError as error:
            found = (len(head), error.code)
            break
    whole = None
    try:
        Watch(rules).look(data)
    except HttpError as error:
        whole = error.code
    assert whole == (found and found[1])
    return found


@pytest.mark.parametrize(
    ("data", "expected"),
    [
        (b"GET / HTTP/1.1\r\nA: b\r\n", None),
        (b"GET / HTTP/1.1\r\nA: b\r", None),
        (b"GET / HTTP/1.1\r\nA: b\n", (21, HttpCode.BARE_LF)),
        (b"GET / HTTP/1.1\r\nA: b\rc", (22, HttpCode.BARE_CR)),
        (b"GET / HTTP/1.1\r\nA: b\r\r", (22, HttpCode.BARE_CR)),
        (b"GET / HTTP/1.1\r\nA: b\x00c", (21, HttpCode.CONTROL_BYTE)),
        (b"GET / HTTP/1.1\r\nA\x7f", (18, HttpCode.CONTROL_BYTE)),
        (b"GET / HTTP/1.1\r\nA: b\tc\xff\r\n", None),
        (b"\x16\x03\x01", (1, HttpCode.CONTROL_BYTE)),
        (b"\n", (1, HttpCode.BARE_LF)),
        (b"\r\n", (2, HttpCode.BAD_REQUEST_LINE)),
        (b"GET /\r\n", (7, HttpCode.BAD_REQUEST_LINE)),
        (b"GET / HTTP/3\r\n", (14, HttpCode.BAD_VERSION)),
        (b"GET /12345678901234567890", (25, HttpCode.TARGET_TOO_LONG)),
        (b"GET /1234567890123456789", None),
        (b"GET /123456789012345678\x00", (24, HttpCode.CONTROL_BYTE)),
        (b"GET /12345678901234567890 HTTP/9.9\r\n", (25, HttpCode.TARGET_TOO_LONG)),
        (b"G\x01T /12345678901234567890", (2, HttpCode.CONTROL_BYTE)),
        (b"M" * 40 + b" /12345678901234567890", None),
        (b"GET  /12345678901234567890 HTTP/1.1\r\n", (37, HttpCode.BAD_REQUEST_LINE)),
        (b"x" * 100, None),
        (b"x" * 101, (101, HttpCode.HEAD_TOO_LARGE)),
        (b"x" * 100 + b"\n", (101, HttpCode.HEAD_TOO_LARGE)),
        (b"x" * 99 + b"\n", (100, HttpCode.BARE_LF)),
        (b"x" * 98 + b"\rx", (100, HttpCode.BARE_CR)),
        (b"x" * 99 + b"\rx", (101, HttpCode.HEAD_TOO_LARGE)),
        (b"GET / HTTP/1.0\r\nA:\r\nB:\r\nC:\r\nD:", None),
        (b"GET / HTTP/1.0\r\nA:\r\nB:\r\nC:\r\nD:\r\n", (32, HttpCode.TOO_MANY_FIELDS)),
        (b"GET / HTTP/1.0\r\nA:\r\nB:\r\nC:\r\n\r\n", None),
    ],
)
def test_each_defect_has_its_place(data: bytes, expected: tuple[int, HttpCode] | None) -> None:
    assert place(request_rules(SMALL), data) == expected


def test_a_target_is_not_asked_for_beyond_the_head() -> None:
    rules = request_rules(HttpLimits(head_bytes=20, target_bytes=30))
    assert place(rules, b"GET /" + b"x" * 60) == (21, HttpCode.HEAD_TOO_LARGE)


def test_a_response_has_no_target() -> None:
    assert place(response_rules(SMALL), b"HTTP/1.1 200 " + b"x" * 60) is None
    assert place(response_rules(SMALL), b"HTTP/2 200\r\n") == (12, HttpCode.BAD_STATUS_LINE)


def test_trailers_are_watched_from_the_line_before() -> None:
    rules = WatchRules.trailers(SMALL)
    assert place(rules, b"\r\n" + b"x" * 40) is None
    assert place(rules, b"\r\n" + b"x" * 41) == (43, HttpCode.TRAILERS_TOO_LARGE)
    assert place(rules, b"\r\nA:\r\nB:\r\nC:\r\nD:\r\n") == (18, HttpCode.TOO_MANY_TRAILERS)


@pytest.mark.parametrize(
    ("found", "code"),
    [(b"\n", HttpCode.BARE_LF), (b"\r", HttpCode.BARE_CR), (b"\x00", HttpCode.CONTROL_BYTE)],
)
def test_control_bytes_have_three_codes(found: bytes, code: HttpCode) -> None:
    assert control_defect(found).code is code


@pytest.mark.threat(47)
def test_threat_47_a_head_byte_by_byte_costs_linear_time() -> None:
    """Four times the bytes, one by one, take about four times the CPU; anything quadratic would take sixteen."""

    def cost(size: int) -> float:
        limits = HttpLimits(head_bytes=1 << 20, target_bytes=1 << 20)
        best = float("inf")
        for _ in range(3):
            head, watch = bytearray(b"GET /"), Watch(request_rules(limits))
            start = time.process_time()
            for _ in range(size):
                head.append(0x61)
                watch.look(head)
            best = min(best, time.process_time() - start)
        return best

    assert cost(40_000) < 9 * cost(10_000)

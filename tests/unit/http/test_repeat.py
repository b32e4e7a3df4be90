from __future__ import annotations

from itertools import chain, product
from typing import TYPE_CHECKING

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sidecar.http.errors import HttpError
from sidecar.http.fields import forward_request
from sidecar.http.limits import HttpLimits
from sidecar.http.repeat import HEAD_BYTES, PATIENCE, RequestMemory, ResponseMemory
from sidecar.http.scanner import scan_request, scan_response

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

LIMITS = HttpLimits(head_bytes=2048, target_bytes=64, fields=8)
TRACE = b"00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"

#: Values that differ from one head to the next, sound and unsound ones.
LENGTHS = st.sampled_from(
    [b"0", b"5", b"12", b"007", b"9" * 18, b"9" * 19, b"1" * 20, b"-1", b"1 2", b"1,1", b"", b"x", b"5 "]
)
TRACES = st.sampled_from(
    [TRACE, TRACE.replace(b"4b", b"5c"), TRACE.upper(), b"01" + TRACE[2:], TRACE + b"-x", b"x", b"", TRACE + b" "]
)
TARGETS = st.sampled_from([b"/", b"/mcp", b"/mcp?x=1", b"/" + b"a" * 70, b"*", b"http://a/x", b"/\x01", b"/a b"])
LINES = st.one_of(
    st.builds(lambda value: b"Content-Length: " + value, LENGTHS),
    st.builds(lambda value: b"content-length:" + value, LENGTHS),
    st.builds(lambda value: b"Traceparent: " + value, TRACES),
    st.sampled_from(
        [
            b"Host: a",
            b"Host: b",
            b"Accept: */*",
            b"Connection: close",
            b"Connection: content-length",
            b"X_Y: z",
            b"Bad Name: x",
        ]
    ),
    st.sampled_from(
        [b"Transfer-Encoding: chunked", b"content_length: 5", b"Expect: 100-continue", b"x: " + b"y" * 300]
    ),
)
REQUESTS = st.builds(
    lambda method, target, minor, lines: (
        b"%b %b HTTP/1.%d\r\n%b\r\n" % (method, target, minor, b"".join(line + b"\r\n" for line in lines))
    ),
    st.sampled_from([b"GET", b"POST", b"OPTIONS", b"CONNECT"]),
    TARGETS,
    st.sampled_from([0, 1, 1, 1]),
    st.lists(LINES, max_size=5).map(lambda lines: [b"Host: a", *lines]),
)
RESPONSES = st.builds(
    lambda status, lines: b"HTTP/1.1 %d OK\r\n%b\r\n" % (status, b"".join(line + b"\r\n" for line in lines)),
    st.sampled_from([200, 200, 200, 100, 204, 304, 404]),
    st.lists(LINES, max_size=4),
)


def told(scan: Callable[[], object]) -> object:
    try:
        return scan()
    except HttpError as error:
        return error.code, str(error)


def repeated(heads: Iterable[list[bytes]]) -> list[bytes]:
    """Heads that come again, each followed by those that were made from it."""
    return [head for several in heads for head in several]


def variants(head: bytes) -> st.SearchStrategy[list[bytes]]:
    """The head, and copies of it with another length, trace or target."""
    changes: list[st.SearchStrategy[Callable[[bytes], bytes]]] = [
        LENGTHS.map(lambda value: lambda block: block.replace(b"Content-Length: 5", b"Content-Length: " + value)),
        TRACES.map(lambda value: lambda block: block.replace(TRACE, value)),
        TARGETS.map(lambda value: lambda block: block.replace(b" /mcp ", b" " + value + b" ")),
        st.just(lambda block: block),
        st.just(lambda block: block[:-4] + b" \r\n\r\n"),
        st.just(lambda block: block.replace(b"\r\nHost", b"\nHost")),
        st.just(lambda block: block[:-2] + b"Content-Length: 5\r\n\r\n"),
    ]
    return st.lists(st.one_of(changes), max_size=4).map(lambda made: [head, *(change(head) for change in made)])


@given(st.lists(REQUESTS.flatmap(variants), max_size=4).map(repeated))
def test_a_memory_says_of_every_request_what_the_scanner_says(blocks: list[bytes]) -> None:
    """Invariant: whatever came before on the connection, a head means what it means alone, and is refused alike."""
    memory = RequestMemory(LIMITS, secure=True)
    for block in blocks:
        assert told(lambda: memory.scan(block)) == told(lambda: scan_request(block, LIMITS, secure=True))  # noqa: B023


@given(
    st.lists(st.tuples(RESPONSES.flatmap(variants), st.sampled_from([b"GET", b"GET", b"HEAD", b"CONNECT"])), max_size=4)
)
def test_a_memory_says_of_every_response_what_the_scanner_says(several: list[tuple[list[bytes], bytes]]) -> None:
    """Invariant: whatever came before on the connection, a head means what it means alone, and is refused alike."""
    memory = ResponseMemory(LIMITS)
    for blocks, method in several:
        for block in blocks:
            expected = told(lambda: scan_response(block, method, LIMITS))  # noqa: B023
            assert told(lambda: memory.scan(block, method)) == expected  # noqa: B023


def request(length: int | bytes, *, trace: bytes = TRACE, target: bytes = b"/mcp", more: bytes = b"") -> bytes:
    value = length if isinstance(length, bytes) else b"%d" % length
    return (
        b"POST %b HTTP/1.1\r\nHost: a\r\nContent-Length: %b\r\nAccept: */*\r\ntraceparent: %b\r\n%b\r\n"
        % (target, value, trace, more)
    )  # fmt: skip


def test_another_length_trace_and_target_are_read_without_a_second_scan() -> None:
    memory = RequestMemory(LIMITS)
    first = memory.scan(request(5))
    other = TRACE.replace(b"4b", b"77")
    again = memory.scan(request(1234, trace=other, target=b"/other?q=1"))
    assert again.derived is first.derived  # what follows from the fields is shared
    assert (again.length, again.trace, again.path, again.query) == (1234, other, b"/other", b"?q=1")
    assert again == scan_request(request(1234, trace=other, target=b"/other?q=1"), LIMITS)
    assert first.length == 5
    assert (b"content-length", b"Content-Length", b"5") in first.fields


@pytest.mark.threat(16, 20)
def test_threats_16_20_what_goes_on_is_of_this_head_although_its_fields_are_known() -> None:
    """Whatever was left out and set for the head before: a reload may have come between the two."""
    memory = RequestMemory(LIMITS)
    lines = [b"GET /a", b"DELETE /a", b"DELETE /a?q", b"DELETE /b?q"]
    names = [frozenset[bytes](), frozenset({b"x-key"})]
    ways = list(product(lines, names, names, [None, b"b"]))
    for way in chain.from_iterable(product(ways, ways)):
        line, drop, strip, host = way
        block = line + b" HTTP/1.1\r\nHost: a\r\nX-Key: x\r\nX_Key: y\r\n\r\n"
        again, fresh = memory.scan(block), scan_request(block, LIMITS)
        found, wanted = (forward_request(head, drop=drop, strip=strip, host=host) for head in (again, fresh))
        assert found == wanted


@pytest.mark.parametrize(
    "block",
    [
        request(5, more=b"X: y\r\n"),
        request(5, trace=TRACE.upper()),
        request(5).replace(b"HTTP/1.1", b"HTTP/1.0"),
        request(5).replace(b"Accept: */*", b"Accept: a/*"),
        request(5, target=b"http://a/mcp"),
        request(5).replace(b"POST ", b"OPTIONS ").replace(b"/mcp", b"*"),
    ],
)
def test_anything_else_is_scanned(block: bytes) -> None:
    memory = RequestMemory(LIMITS)
    first = memory.scan(request(5))
    assert memory.scan(block).derived is not first.derived
    assert memory.scan(block) == scan_request(block, LIMITS)


@pytest.mark.parametrize("length", [b"", b"+5", b"5 5", b"9" * 19, b"1" * 20, b"\xd9\xa5"])
def test_a_length_that_is_none_is_refused_as_ever(length: bytes) -> None:
    memory = RequestMemory(LIMITS)
    memory.scan(request(5))
    with pytest.raises(HttpError) as caught:
        memory.scan(request(length))
    assert caught.value.code == told(lambda: scan_request(request(length), LIMITS))[0]  # type: ignore[index]


def test_a_head_over_a_limit_is_refused_although_its_fields_are_known() -> None:
    memory = RequestMemory(HttpLimits(head_bytes=1024, target_bytes=16))
    memory.scan(request(5))
    with pytest.raises(HttpError):
        memory.scan(request(5, target=b"/" + b"a" * 16))
    memory = RequestMemory(HttpLimits(head_bytes=len(request(5)), target_bytes=1024))
    memory.scan(request(5))
    with pytest.raises(HttpError):
        memory.scan(request(5, target=b"/" + b"a" * 100))


def test_a_response_with_another_length() -> None:
    memory = ResponseMemory(LIMITS)
    block = b"HTTP/1.1 200 OK\r\nDate: today\r\nContent-Length: %d\r\n\r\n"
    first = memory.scan(block % 5, b"GET")
    assert memory.scan(block % 5, b"POST") is first
    other = memory.scan(block % 77, b"GET")
    assert (other.length, other.derived) == (77, first.derived)
    assert other == scan_response(block % 77, b"GET", LIMITS)


@pytest.mark.parametrize("method", [b"HEAD", b"CONNECT"])
def test_the_answer_to_head_is_never_taken_for_one_with_a_body(method: bytes) -> None:
    memory = ResponseMemory(LIMITS)
    block = b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\n"
    with_body = memory.scan(block, b"GET")
    assert memory.scan(block, method) == scan_response(block, method, LIMITS)
    assert memory.scan(block, b"GET") == with_body


def test_a_long_head_is_not_kept() -> None:
    memory = RequestMemory(HttpLimits())
    block = request(5, more=b"X: %b\r\n" % (b"y" * HEAD_BYTES))
    assert memory.scan(block).derived is not memory.scan(block).derived


def test_heads_that_never_repeat_are_soon_not_kept_and_found_again_when_they_do() -> None:
    memory = RequestMemory(HttpLimits())
    for number in range(PATIENCE + 1):
        memory.scan(request(5, more=b"X: %d\r\n" % number))
    assert memory.scan(request(5, more=b"Y: 1\r\n")).derived is not memory.scan(request(5, more=b"Y: 1\r\n")).derived
    heads = [memory.scan(request(5)) for _ in range(2 * PATIENCE)]
    assert heads[-1].derived is heads[-2].derived

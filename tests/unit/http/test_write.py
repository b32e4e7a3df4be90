import pytest

from sidecar.http.messages import ResponseHead
from sidecar.http.write import CONTINUE, LAST_CHUNK, chunk, error_response, last_chunk
from tests.support.http import get, requests, response


def test_what_is_written_can_be_read() -> None:
    head = b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n"
    body = chunk(b"hello") + chunk(b"x" * 300)
    for ending, trailers in ((LAST_CHUNK, []), (last_chunk(b"A: b\r\n"), [(b"a", b"A", b"b")])):
        outcome = requests(head + body + ending)
        assert outcome.code is None
        assert outcome.body == b"hello" + b"x" * 300
        assert outcome.events[-1] == ("end", trailers)


def test_a_last_chunk_without_trailers_is_the_constant() -> None:
    assert last_chunk() == LAST_CHUNK


def test_continue_is_an_interim_response() -> None:
    outcome = response(CONTINUE)
    assert isinstance(outcome.head, ResponseHead)
    assert (outcome.kinds, outcome.head.status, outcome.head.reason) == (["informational"], 100, b"Continue")


@pytest.mark.parametrize(
    ("made", "expected"),
    [
        (
            error_response(403, b"{}"),
            b"HTTP/1.1 403 Forbidden\r\nContent-Length: 2\r\nContent-Type: application/json\r\nConnection: close\r\n\r\n{}",
        ),
        (
            error_response(503, b"no", b"text/plain", close=False),
            b"HTTP/1.1 503 Service Unavailable\r\nContent-Length: 2\r\nContent-Type: text/plain\r\n\r\nno",
        ),
        (
            error_response(405, extra=b"Allow: GET\r\n"),
            b"HTTP/1.1 405 Method Not Allowed\r\nContent-Length: 0\r\nAllow: GET\r\nConnection: close\r\n\r\n",
        ),
        (error_response(599, close=False), b"HTTP/1.1 599 \r\nContent-Length: 0\r\n\r\n"),
    ],
)
def test_responses_of_our_own(made: bytes, expected: bytes) -> None:
    assert made == expected
    assert response(made).code is None


def test_an_answer_to_head_announces_its_body_only() -> None:
    made = error_response(403, b"{}", head_only=True)
    assert made.endswith(b"\r\n\r\n")
    assert b"Content-Length: 2\r\n" in made
    assert response(made, method=b"HEAD").code is None


def test_statuses_that_this_proxy_answers_have_their_reasons() -> None:
    for status in (400, 403, 405, 408, 413, 414, 421, 431, 500, 501, 502, 503, 504, 505):
        assert not error_response(status).startswith(b"HTTP/1.1 %d \r\n" % status)
    assert requests(get()).code is None

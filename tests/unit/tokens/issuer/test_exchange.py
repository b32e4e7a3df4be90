"""One request and its answer, against servers that answer well, badly, too much, and not at all."""

from __future__ import annotations

import socket
import time
import traceback
from typing import TYPE_CHECKING

import pytest

from sidecar.tokens.codes import SourceCode, SourceError
from sidecar.tokens.issuer.answer import Answer
from sidecar.tokens.issuer.exchange import Contexts, Exchange, Request
from sidecar.tokens.issuer.url import endpoint
from sidecar.tokens.issuer.wire import MAX_BODY, MAX_RECEIVED
from tests.support.raw import RESET, Raw
from tests.support.web import AUTHORITY, Web, endless, https, page, sending

if TYPE_CHECKING:
    from collections.abc import Callable

SECRET = "hush-hush"
HEAD = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\n"


def outcome(server: Web, path: str = f"/token?tenant={SECRET}", form: bytes | None = None) -> Answer | SourceError:
    where = endpoint(server.url(path), plaintext=True)
    request = Request(where, {"Host": where.host_field, "Authorization": f"Basic {SECRET}"}, form)
    return Exchange(request, Contexts(AUTHORITY.pem, None), 5, time.monotonic() + 10).run()


def ask(answer: Callable[[socket.socket], None], *, tls: bool = False) -> Answer | SourceError:
    with Web(answer, https() if tls else None) as server:
        return outcome(server, form=f"secret={SECRET}".encode())


def body_of(data: bytes, *, tls: bool = False) -> bytes:
    found = ask(sending(data), tls=tls)
    assert isinstance(found, Answer), found
    return found.body


def code_of(found: Answer | SourceError) -> SourceCode:
    """The code of a failure, which quotes neither what was sent nor what came."""
    assert isinstance(found, SourceError), found
    told = "".join(traceback.format_exception(found)) + found.hint + repr(found)
    assert SECRET not in told
    assert "/token" not in told
    assert "leak" not in told
    assert found.__cause__ is found.__context__ is None
    return found.code


both = pytest.mark.parametrize("tls", [False, True], ids=["plaintext", "tls"])


@both
def test_what_is_sent_is_what_was_given_and_no_more(tls: bool) -> None:
    with Web(sending(page()), https() if tls else None) as server:
        outcome(server, "/a?b=c")
        outcome(server, "/a", form=b"d=e")
    host = f"Host: localhost:{server.port}\r\nAuthorization: Basic {SECRET}\r\n"
    assert server.requests == [
        f"GET /a?b=c HTTP/1.1\r\nAccept-Encoding: identity\r\n{host}\r\n".encode(),
        f"POST /a HTTP/1.1\r\nAccept-Encoding: identity\r\nContent-Length: 3\r\n{host}\r\nd=e".encode(),
    ]


def test_an_answer_of_any_status_is_returned() -> None:
    for status in ("200 OK", "302 Found", "401 Unauthorized", "503 No", "299", "418 \xff leak"):
        found = ask(sending(page(b'{"a":1}', status=status)))
        assert isinstance(found, Answer)
        assert found.status == int(status[:3])
        assert found.json() == {"a": 1}


@pytest.mark.threat(21)
def test_threat_21_no_redirect_is_followed() -> None:
    for status in ("301 Moved Permanently", "302 Found", "303 See Other", "307 Again", "308 Again"):
        with Web(sending(page())) as elsewhere:
            location = f"Location: {elsewhere.url('/there')}"
            found = ask(sending(page(b"", location, "Set-Cookie: a=b", status=status)))
            assert isinstance(found, Answer)
            assert found.status == int(status[:3])
        assert elsewhere.connections == 0


@pytest.mark.parametrize(
    ("kind", "expected"),
    [
        ("application/json", "application/json"),
        ("Application/JWK-Set+JSON ; charset=utf-8; leak", "application/jwk-set+json"),
        ("text/html;", "text/html"),
        ("leak", ""),
        ("a/b leak", ""),
        ("a/" + "b" * 200, ""),
        ("", ""),
    ],
)
def test_the_media_type_is_plain_or_none(kind: str, expected: str) -> None:
    found = ask(sending(page(kind=kind)))
    assert isinstance(found, Answer)
    assert found.content_type == expected


def test_ways_to_say_where_a_body_ends() -> None:
    assert body_of(HEAD + b"Content-Length: 2\r\n\r\n{}") == b"{}"
    assert body_of(HEAD + b"Content-Length: 2\r\n\r\n{}more") == b"{}"
    assert body_of(HEAD + b"\r\n{}") == b"{}"
    assert body_of(HEAD + b"\r\n{}", tls=True) == b"{}"
    assert body_of(HEAD + b"Transfer-Encoding: chunked\r\n\r\n1\r\n{\r\n1;x=y\r\n}\r\n0\r\nX: y\r\n\r\n") == b"{}"
    assert body_of(b"HTTP/1.0 200 OK\r\n\r\n{}") == b"{}"
    assert body_of(b"HTTP/1.1 100 Continue\r\n\r\n" + page()) == b"{}"
    assert body_of(b"HTTP/1.1 204 None\r\n\r\n") == b""
    assert body_of(page(b"")) == b""


@both
def test_a_body_of_the_longest_size_and_one_byte_more(tls: bool) -> None:
    longest = b"x" * MAX_BODY
    chunks = b"10000\r\n" + b"x" * 65536 + b"\r\n"
    assert body_of(page(longest), tls=tls) == longest
    assert body_of(HEAD + b"\r\n" + longest, tls=tls) == longest
    assert body_of(HEAD + b"Transfer-Encoding: chunked\r\n\r\n" + chunks * 4 + b"0\r\n\r\n", tls=tls) == longest
    for data in (
        page(longest + b"x"),
        HEAD + b"\r\n" + longest + b"x",
        HEAD + b"Transfer-Encoding: chunked\r\n\r\n" + chunks * 4 + b"1\r\nx\r\n0\r\n\r\n",
    ):
        assert code_of(ask(sending(data), tls=tls)) is SourceCode.TOO_LARGE


def test_a_body_that_is_said_to_be_too_long_is_not_waited_for() -> None:
    def declare(sock: socket.socket) -> None:
        sock.sendall(HEAD + f"Content-Length: {MAX_BODY + 1}\r\n\r\n".encode())
        sock.recv(1)

    assert code_of(ask(declare)) is SourceCode.TOO_LARGE


@pytest.mark.parametrize(
    ("first", "piece"),
    [
        (HEAD + b"\r\n", b"x" * 4096),
        (HEAD + b"Content-Length: 10000000000\r\n\r\n", b"x" * 4096),
        (HEAD + b"Content-Length: -1\r\n\r\n", b"x" * 4096),
        (HEAD + b"Content-Length: leak\r\n\r\n", b"x" * 4096),
        (HEAD + b"Transfer-Encoding: chunked\r\n\r\n", b"1000\r\n" + b"x" * 4096 + b"\r\n"),
        (HEAD + b"Transfer-Encoding: chunked\r\n\r\nffffffffffffffff\r\n", b"x" * 4096),
        (HEAD + b"Transfer-Encoding: chunked\r\n\r\n-1\r\n", b"x" * 4096),
        (HEAD + b"Transfer-Encoding: chunked\r\n\r\n", b"1;" + b"leak" * 1000 + b"\r\nx\r\n"),
        (HEAD + b"Transfer-Encoding: chunked\r\n\r\n0\r\n", b"X: leak\r\n" * 400),
        (b"", b"HTTP/1.1 100 Continue\r\nX: leak\r\n\r\n" * 100),
        (HEAD, b"X: " + b"leak" * 10000 + b"\r\n"),
    ],
    ids=[
        "no-length", "length-lies", "length-negative", "length-no-number", "chunks", "chunk-huge", "chunk-negative",
        "chunk-extensions", "trailers", "continue", "head",
    ],
)  # fmt: skip
def test_what_does_not_end_is_ended_by_us(first: bytes, piece: bytes) -> None:
    assert code_of(ask(endless(first, piece))) is SourceCode.TOO_LARGE


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"HTTP/1.1",
        b"HTTP/1.1 2",
        b"leak",
        b"leak\r\n\r\n",
        b"HTTP/1.1 leak leak\r\n\r\n",
        b"HTTP/1.1 99 leak\r\n\r\n",
        b"HTTP/1.1 1000 leak\r\n\r\n",
        b"HTTP/2.0 200 leak\r\n\r\n",
        b"ICY 200 OK\r\n\r\nleak",
        b"\x15\x03\x01\0\2\2\x46",
        b"\0" * 100,
        b"HTTP/1.1 200 " + b"leak" * 20000,
        HEAD + b"X: " + b"leak" * 20000 + b"\r\n\r\n",
        HEAD + b"X: leak\r\n" * 200 + b"\r\n",
        HEAD + b"Content-Length: 3\r\n\r\n{}",
        HEAD + b"Content-Length: 5\r\n\r\n",
        HEAD + b"Transfer-Encoding: chunked\r\n\r\n",
        HEAD + b"Transfer-Encoding: chunked\r\n\r\nleak\r\n",
        HEAD + b"Transfer-Encoding: chunked\r\n\r\n5\r\nleak",
        HEAD + b"Transfer-Encoding: chunked\r\n\r\n4\r\nleak\r\n",
        HEAD + b"Transfer-Encoding: gzip, chunked\r\n\r\n2\r\n{}\r\n0\r\n\r\n",
        HEAD + b"Transfer-Encoding: leak\r\n\r\n{}",
        page(b"leak", "Content-Encoding: gzip"),
        page(b"leak", "Content-Encoding: br", status="400 Bad Request"),
        page(b"leak", "Content-Encoding: identity, leak"),
    ],
)
@both
def test_what_is_no_whole_answer_is_a_bad_one(data: bytes, tls: bool) -> None:
    assert code_of(ask(sending(data), tls=tls)) is SourceCode.BAD_ANSWER


def test_a_coding_that_is_none() -> None:
    assert body_of(page(b"{}", "Content-Encoding: Identity")) == b"{}"


def test_over_tls_an_end_that_anybody_could_have_made_is_none() -> None:
    """A body that lasts until the end of the connection is whole only with close_notify (RFC 8446 6.1)."""
    cut = ask(lambda sock: sock.sendall(HEAD + b"\r\n{}"), tls=True)
    assert code_of(cut) is SourceCode.BAD_ANSWER
    whole = ask(lambda sock: sock.sendall(page()), tls=True)
    assert isinstance(whole, Answer)


def test_a_reset_is_the_networks() -> None:
    def reset(sock: socket.socket) -> None:
        sock.sendall(HEAD)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET)
        sock.close()

    found = ask(reset)
    assert code_of(found) is SourceCode.UNREACHABLE
    assert "Connection reset" in str(found)


def test_an_answer_that_did_not_wait_for_the_request_is_one() -> None:
    """A server may refuse before it has read all, and be gone when we still write."""

    def refuse(sock: socket.socket) -> None:
        sock.sendall(page(b'{"error":"too much"}', status="413 Too Much"))
        sock.close()

    with Raw(refuse) as raw:
        where = endpoint(f"http://127.0.0.1:{raw.port}", plaintext=True)
        contexts = Contexts(AUTHORITY.pem, None)
        found = Exchange(Request(where, {}, b"x" * 10_000_000), contexts, 5, time.monotonic() + 10).run()
    assert isinstance(found, Answer), found
    assert found.status == 413


def test_all_that_is_received_is_bounded_by_what_a_body_may_have() -> None:
    assert MAX_BODY == 256 * 1024
    assert MAX_RECEIVED <= 2 * MAX_BODY


def test_nothing_shows_itself() -> None:
    request = Request(endpoint(f"https://idp/{SECRET}"), {"Authorization": SECRET}, SECRET.encode())
    exchange = Exchange(request, Contexts(None, None), 1, 1)
    assert SECRET not in repr(request) + repr(exchange) + repr(exchange.where) + repr(vars(exchange))

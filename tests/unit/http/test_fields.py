from __future__ import annotations

import pytest

from sidecar.http import fields
from sidecar.http.fields import (
    IDENTITY,
    forward_request,
    forward_response,
    forward_trailers,
    outgoing_framing,
)
from sidecar.http.messages import Framing, RequestHead, ResponseHead
from sidecar.http.scanner import scan_request, scan_response
from sidecar.http.xfcc import CALLER_NAME, NAME, identity_block
from tests.support.http import LIMITS, get, ok, request_block, response_block

OURS = identity_block("spiffe://example.org/agent/tools/1", bytes(32), "spiffe://example.org/agent/planner/1")


def asked(*fields: bytes, line: bytes = b"POST / HTTP/1.1", host: bytes | None = b"Host: a") -> RequestHead:
    return scan_request(get(*fields, line=line, host=host), LIMITS)


def answered(*fields: bytes, line: bytes = b"HTTP/1.1 200 OK", method: bytes = b"GET") -> ResponseHead:
    return scan_response(ok(*fields, line=line), method, LIMITS)


def lines(block: bytes) -> list[bytes]:
    assert block.endswith(b"\r\n")
    return block.split(b"\r\n")[:-1]


def spellings(name: bytes) -> list[bytes]:
    """A name as clients spell it who hope that a server takes it for the real one."""
    mixed = b"_".join(name.split(b"-", 1))
    return [name, name.upper(), name.title(), name.replace(b"-", b"_"), mixed, name.replace(b"-", b".").title()]


# --- what goes on --------------------------------------------------------------------------------------------------------


def test_a_request_goes_on_in_its_order_and_spelling() -> None:
    head = asked(
        b"X-b: 1", b"Accept:a,  b", b"x-A: 2", b"ACCEPT: c", b"Empty:", b"Content-Length: 5", host=b"HOST: A:80"
    )
    assert lines(request_block(head)) == [
        b"Host: A:80",
        b"X-b: 1",
        b"Accept: a,  b",
        b"x-A: 2",
        b"ACCEPT: c",
        b"Empty: ",
        b"Content-Length: 5",
    ]


def test_framing_is_made_anew() -> None:
    assert lines(request_block(asked())) == [b"Host: a"]
    assert lines(request_block(asked(b"content-length: 007"))) == [b"Host: a", b"Content-Length: 7"]
    assert lines(request_block(asked(b"transfer-encoding: CHUNKED"))) == [
        b"Host: a",
        b"Transfer-Encoding: chunked",
    ]


def test_the_caller_drops_and_adds() -> None:
    block = request_block(
        asked(b"Traceparent: x", b"A: b"), drop=frozenset({b"traceparent"}), host=b"other", extra=b"traceparent: y\r\n"
    )
    assert lines(block) == [b"Host: other", b"A: b", b"traceparent: y"]


def test_a_request_of_http_1_0_gets_a_host() -> None:
    assert lines(request_block(asked(line=b"GET / HTTP/1.0", host=None))) == [b"Host: "]
    assert lines(request_block(asked(line=b"GET http://B/ HTTP/1.0", host=None))) == [b"Host: b"]
    assert lines(request_block(asked(line=b"GET / HTTP/1.0", host=None), host=b"c")) == [b"Host: c"]


def test_only_http_1_1_expects() -> None:
    assert b"Expect: 100-continue" in lines(request_block(asked(b"Expect: 100-continue")))
    assert lines(request_block(asked(b"Expect: 100-continue", line=b"POST / HTTP/1.0"))) == [b"Host: a"]


def test_a_response_goes_on_in_its_order_and_spelling() -> None:
    head = answered(b"X-b: 1", b"Set-Cookie: a", b"set-cookie: b", b"content-length: 5", b"Date: now")
    assert lines(response_block(head, extra=b"connection: close\r\n")) == [
        b"X-b: 1",
        b"Set-Cookie: a",
        b"set-cookie: b",
        b"Date: now",
        b"Content-Length: 5",
        b"connection: close",
    ]
    assert response_block(answered(b"A: b", b"X: y"), minor=0) == b"A: b\r\nX: y\r\n"


@pytest.mark.parametrize(
    ("fields", "line", "method", "minor", "framing", "block"),
    [
        ([b"Content-Length: 5"], b"HTTP/1.1 200 ", b"GET", 1, Framing.LENGTH, b"Content-Length: 5\r\n"),
        ([b"Content-Length: 5"], b"HTTP/1.1 200 ", b"GET", 0, Framing.LENGTH, b"Content-Length: 5\r\n"),
        ([b"Content-Length: 0"], b"HTTP/1.1 200 ", b"GET", 1, Framing.LENGTH, b"Content-Length: 0\r\n"),
        ([b"Content-Length: 5"], b"HTTP/1.1 200 ", b"HEAD", 1, Framing.NONE, b"Content-Length: 5\r\n"),
        ([b"Content-Length: 5"], b"HTTP/1.1 304 ", b"GET", 1, Framing.NONE, b"Content-Length: 5\r\n"),
        ([b"Content-Length: 0"], b"HTTP/1.1 204 ", b"GET", 1, Framing.NONE, b""),
        ([], b"HTTP/1.1 304 ", b"GET", 1, Framing.NONE, b""),
        ([b"Transfer-Encoding: chunked"], b"HTTP/1.1 200 ", b"HEAD", 1, Framing.NONE, b""),
        (
            [b"Transfer-Encoding: chunked"],
            b"HTTP/1.1 200 ",
            b"GET",
            1,
            Framing.CHUNKED,
            b"Transfer-Encoding: chunked\r\n",
        ),
        ([b"Transfer-Encoding: chunked"], b"HTTP/1.1 200 ", b"GET", 0, Framing.CLOSE, b""),
        ([], b"HTTP/1.1 200 ", b"GET", 1, Framing.CHUNKED, b"Transfer-Encoding: chunked\r\n"),
        ([], b"HTTP/1.1 200 ", b"GET", 0, Framing.CLOSE, b""),
    ],
)
def test_the_framing_of_a_response_fits_its_client(
    fields: list[bytes], line: bytes, method: bytes, minor: int, framing: Framing, block: bytes
) -> None:
    head = answered(*fields, line=line, method=method)
    assert outgoing_framing(head, minor) is framing
    assert response_block(head, minor=minor) == block


def test_heads_are_written_anew() -> None:
    head = asked(b"A: b", line=b"GET http://h/a?b HTTP/1.0", host=None)
    assert forward_request(head) == b"GET /a?b HTTP/1.1\r\nHost: h\r\nA: b\r\n\r\n"
    assert forward_request(head, host=b"other") == b"GET /a?b HTTP/1.1\r\nHost: other\r\nA: b\r\n\r\n"
    assert forward_request(head) == b"GET /a?b HTTP/1.1\r\nHost: h\r\nA: b\r\n\r\n"
    answer = answered(b"A: b", line=b"HTTP/1.0 599 ", method=b"HEAD")
    assert forward_response(answer, answer.framing) == b"HTTP/1.1 599 \r\nA: b\r\n\r\n"
    assert forward_response(answer, answer.framing, extra=b"X: y\r\n") == b"HTTP/1.1 599 \r\nA: b\r\nX: y\r\n\r\n"


# --- what does not -------------------------------------------------------------------------------------------------------


@pytest.mark.threat(14)
@pytest.mark.parametrize("name", sorted(IDENTITY))
def test_threat_14_identity_is_the_proxys_alone(name: bytes) -> None:
    spelt = [spelling + b": forged" for spelling in spellings(name)]
    block = request_block(asked(*spelt, *spelt, b"X-Other: 1"), extra=OURS)
    assert lines(block) == [b"Host: a", b"X-Other: 1", *lines(OURS)]
    assert b"forged" not in response_block(answered(*spelt))
    trailers = [(spelling.lower(), spelling, b"forged") for spelling in spellings(name)]
    assert forward_trailers(trailers) == b""


@pytest.mark.threat(14)
def test_threat_14_the_server_sees_exactly_one_identity() -> None:
    head = asked(b"X-Forwarded-Client-Cert: By=x", b"x_forwarded_client_cert: By=x", b"X-Sidecar_Caller: x")
    seen = scan_request(forward_request(head, extra=OURS), LIMITS)
    assert [(lower, value[:3]) for lower, _, value in seen.fields[1:]] == [
        (b"x-forwarded-client-cert", b"By="),
        (b"x-sidecar-caller", b"spi"),
    ]


@pytest.mark.threat(15)
@pytest.mark.parametrize(
    "connection",
    [
        b"close, X-Sidecar-Caller, X-Forwarded-Client-Cert",
        b"x-sidecar-caller,x-forwarded-client-cert",
        b"X_SIDECAR_CALLER",
        b"Authorization, x-sidecar-caller",
    ],
)
def test_threat_15_connection_cannot_take_away_what_the_proxy_sets(connection: bytes) -> None:
    head = asked(b"Connection: " + connection, b"X-Sidecar-Caller: forged", b"Authorization: theirs")
    extra = OURS + b"Authorization: ours\r\n"
    kept = [] if b"Auth" in connection else [b"Authorization: theirs"]
    assert lines(request_block(head, extra=extra)) == [b"Host: a", *kept, *lines(extra)]


@pytest.mark.threat(15)
def test_threat_15_the_clients_copy_is_dropped() -> None:
    head = asked(
        b"Connection: Authorization", b"Connection: x-one, Keep-Alive", b"authorization: x", b"X-One: 1", b"X-Two: 2"
    )
    assert lines(request_block(head)) == [b"Host: a", b"X-Two: 2"]
    answer = answered(b"Connection: X-One", b"x-one: 1", b"X-Two: 2", b"Content-Length: 0")
    assert lines(response_block(answer)) == [b"X-Two: 2", b"Content-Length: 0"]


HOP_BY_HOP = [
    b"Connection: keep-alive", b"Keep-Alive: timeout=5", b"Proxy-Connection: close", b"Proxy-Authenticate: x",
    b"Proxy-Authorization: Basic x", b"Proxy-Authentication-Info: x", b"Proxy_Authorization: x", b"Proxy-Anything: x",
    b"Proxy: http://evil", b"TE: trailers", b"Upgrade: h2c", b"HTTP2-Settings: x", b"upgrade: websocket",
]  # fmt: skip
PATH = [
    b"Forwarded: for=x", b"X-Forwarded: x", b"X-Forwarded-For: x", b"X-Forwarded-Host: x", b"X-FORWARDED-PROTO: x",
    b"x_forwarded_for: x", b"X-Forwarded_For: x", b"X-Forwarded-Anything: x", b"X-Real-IP: x", b"X_Real_IP: x", b"Via: 1.1 x",
]  # fmt: skip


@pytest.mark.threat(39)
@pytest.mark.parametrize("field", HOP_BY_HOP + PATH)
def test_threat_39_fields_of_one_hop_stay_there(field: bytes) -> None:
    assert lines(request_block(asked(field, b"A: b"))) == [b"Host: a", b"A: b"]
    assert lines(response_block(answered(field, b"A: b"), minor=0)) == [b"A: b"]


@pytest.mark.threat(39)
@pytest.mark.parametrize("length", [b"Content-Length: 5", b"Transfer-Encoding: chunked"])
def test_threat_39_connection_cannot_take_host_or_framing_away(length: bytes) -> None:
    connection = b"Connection: Host, Content-Length, Transfer-Encoding, close, Connection"
    assert lines(request_block(asked(connection, length))) == [b"Host: a", length]
    assert lines(response_block(answered(connection, length))) == [length]


@pytest.mark.threat(39)
def test_threat_39_names_that_only_resemble_go_on() -> None:
    fields = [b"X-Proxy: 1", b"Viaduct: 1", b"X-Sidecar-Callers: 1", b"Tea: 1", b"Forwarded-For: 1", b"Connections: 1"]
    assert lines(request_block(asked(*fields))) == [b"Host: a", *fields]


@pytest.mark.threat(40)
@pytest.mark.parametrize(
    "name",
    [
        b"Host", b"Content-Length", b"Content_Length", b"Transfer-Encoding", b"Transfer_Encoding", b"Connection", b"Trailer",
        b"TE", b"Upgrade", b"Authorization", b"Proxy-Authorization", b"Cookie", b"Set-Cookie", b"WWW-Authenticate",
        b"X-Forwarded-Client-Cert", b"x_sidecar_caller", b"X-Forwarded-For", b"Via", b"Content-Type", b"Content-Encoding",
        b"Content-Range", b"Content-Security-Policy", b"Cache-Control", b"Expect", b"If-Match", b"Range", b"Location", b"Vary",
        b"Access-Control-Allow-Origin", b"Sec-Fetch-Site", b"Origin", b"Mcp-Session-Id", b"traceparent",
        b"DPoP", b"Alt-Svc", b"Sec-WebSocket-Accept", b"Keep-Alive", b"proxy_authorization", b"set_cookie", b"X_Spiffe_ID",
    ],
)  # fmt: skip
def test_threat_40_trailers_that_are_dropped(name: bytes) -> None:
    kept = (b"x-checksum", b"X-Checksum", b"1")
    assert forward_trailers([(name.lower(), name, b"x"), kept]) == b"X-Checksum: 1\r\n"


@pytest.mark.threat(40)
def test_threat_40_trailers_that_go_on() -> None:
    fields = [b"ETag", b"Server-Timing", b"Content-Digest", b"Content-MD5", b"Repr-Digest", b"grpc-status", b"X-Any"]
    trailers = [(name.lower(), name, b"v") for name in fields]
    assert lines(forward_trailers(trailers)) == [name + b": v" for name in fields]
    assert forward_trailers([]) == b""


@pytest.mark.threat(40)
def test_threat_40_connection_names_trailers_too() -> None:
    trailers = [(b"x-any", b"X-Any", b"v"), (b"x-other", b"X-Other", b"v")]
    assert forward_trailers(trailers, frozenset({b"x-any"})) == b"X-Other: v\r\n"


def test_the_tables_agree() -> None:
    assert {NAME.encode(), CALLER_NAME.encode()} <= IDENTITY
    assert all(fields._goes_on(name) for name in fields._KNOWN)

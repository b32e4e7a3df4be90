"""The opening handshake of WebSocket: who asks for one, and who has agreed to it."""

from __future__ import annotations

import pytest

from sidecar.http.errors import ResponseError
from sidecar.http.limits import HttpLimits
from sidecar.http.scanner import scan_request, scan_response
from sidecar.http.websocket import accept_of, asked_key, check_agreed, may_switch
from tests.support.websocket import KEY, agreeing, asking

LIMITS = HttpLimits()


def key_of(block: bytes) -> bytes | None:
    head = scan_request(block, LIMITS)
    return asked_key(head.fields, head.connection) if may_switch(head) else None


def test_the_example_of_the_rfc() -> None:
    """RFC 6455 section 1.3."""
    assert accept_of(b"dGhlIHNhbXBsZSBub25jZQ==") == b"s3pPLMBiTxaQ9kYGzzhZRbK+xOo="


@pytest.mark.parametrize(
    "block",
    [
        asking(),
        asking(upgrade=b"WebSocket", connection=b"keep-alive, upgrade"),
        asking(b"Sec-WebSocket-Protocol: a, b", b"Sec-WebSocket-Extensions: permessage-deflate"),
        asking(b"Sec-WebSocket-Version: 8").replace(b"Sec-WebSocket-Version: 13\r\n", b""),
    ],
)
def test_a_request_for_a_websocket_is_one(block: bytes) -> None:
    assert key_of(block) == KEY


@pytest.mark.threat(38)
@pytest.mark.parametrize(
    "block",
    [
        asking(upgrade=b"h2c"),
        asking(upgrade=b"websocket, h2c"),
        asking(upgrade=b"websocket/13"),
        asking(b"Upgrade: h2c"),
        asking(b"Upgrade: websocket"),
        asking(upgrade=b""),
        asking(connection=b"close"),
        asking(connection=b""),
        asking(connection=b"Upgrade, Sec-WebSocket-Key"),
        asking(key=b""),
        asking(key=b"short"),
        asking(key=KEY[:-3] + b"h=="),
        asking(b"Sec-WebSocket-Key: " + KEY),
        asking(b"Sec-WebSocket-Version: 13"),
        asking().replace(b"Sec-WebSocket-Version: 13\r\n", b""),
        asking(line=b"POST /chat HTTP/1.1"),
        asking(line=b"GET /chat HTTP/1.0"),
        asking(b"Content-Length: 0"),
        asking(b"Content-Length: 5"),
        asking(b"Transfer-Encoding: chunked"),
    ],
)
def test_threat_38_whatever_else_has_an_upgrade_is_an_ordinary_request(block: bytes) -> None:
    assert key_of(block) is None


def test_an_answer_that_agrees_is_accepted() -> None:
    check_agreed(scan_response(agreeing(), b"GET", LIMITS), KEY)
    check_agreed(scan_response(agreeing(KEY, b"Sec-WebSocket-Protocol: a"), b"GET", LIMITS), KEY)


@pytest.mark.threat(38)
@pytest.mark.parametrize(
    ("old", "new"),
    [
        (b"Upgrade: websocket\r\n", b""),
        (b"Upgrade: websocket", b"Upgrade: h2c"),
        (b"Upgrade: websocket", b"Upgrade: websocket\r\nUpgrade: websocket"),
        (b"Connection: Upgrade\r\n", b""),
        (b"Connection: Upgrade", b"Connection: upgrade, sec-websocket-accept"),
        (b"HTTP/1.1", b"HTTP/1.0"),
        (accept_of(KEY), accept_of(b"x" * 24)),
        (accept_of(KEY), accept_of(KEY).swapcase()),
        (b"Sec-WebSocket-Accept: ", b"X: "),
        (b"\r\n\r\n", b"\r\nSec-WebSocket-Accept: " + accept_of(KEY) + b"\r\n\r\n"),
    ],
)
def test_threat_38_an_answer_that_agrees_to_anything_else_is_refused(old: bytes, new: bytes) -> None:
    assert old in agreeing()
    head = scan_response(agreeing().replace(old, new, 1), b"GET", LIMITS)
    with pytest.raises(ResponseError) as caught:
        check_agreed(head, KEY)
    assert (caught.value.code, caught.value.status) == ("bad_upgrade", 502)

"""The opening handshake of WebSocket as a proxy sees it (RFC 6455 section 4): who asks for one, and who has agreed to it.

WebSocket is the only protocol that a connection may be switched to. Any other request with ``Upgrade`` is an ordinary one:
the field does not go on, and so nobody switches.
"""

from __future__ import annotations

import hashlib
import re
from base64 import b64encode
from typing import TYPE_CHECKING, Final

from sidecar.http.errors import HttpCode, ResponseError
from sidecar.http.messages import Framing

if TYPE_CHECKING:
    from sidecar.http.messages import Field, RequestHead, ResponseHead

UPGRADE: Final = b"Connection: Upgrade\r\nUpgrade: websocket\r\n"
"""The field block that asks for the switch, and that agrees to it; written anew, as what is meant for one hop has to be."""

SWITCHING: Final = 101

#: RFC 6455 section 1.3.
_GUID: Final = b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11"
#: RFC 6455 section 4.1: sixteen bytes in base64. Of the last digit four bits are padding, and they are 0.
_KEY: Final = re.compile(rb"[A-Za-z0-9+/]{21}[AQgw]==")

_NAME: Final = b"sec-websocket-key"
_VERSION: Final = b"sec-websocket-version"
_ACCEPT: Final = b"sec-websocket-accept"
_PREFIX: Final = b"sec-websocket-"


def asked_key(fields: list[Field], connection: frozenset[bytes]) -> bytes | None:
    """Returns the key of a head whose fields ask for a WebSocket and nothing else; None for any other.

    One ``Upgrade``, which is ``websocket``, one key and one version, and a ``Connection`` that names the first and none of
    the others. Which version it is, is for the server to say (426).
    """
    if b"upgrade" not in connection or any(option.startswith(_PREFIX) for option in connection):
        return None
    key = _single(fields, _NAME)
    if _single(fields, b"upgrade").lower() != b"websocket" or not _single(fields, _VERSION):
        return None
    return key if _KEY.fullmatch(key) else None


def may_switch(head: RequestHead) -> bool:
    """Whether a request whose fields ask for it is one of those that can: a GET of HTTP/1.1 without a body."""
    return head.method == b"GET" and head.minor == 1 and head.framing is Framing.NONE


def accept_of(key: bytes) -> bytes:
    """What a server that has understood the request answers to its key (RFC 6455 section 4.2.2)."""
    return b64encode(hashlib.sha1(key + _GUID, usedforsecurity=False).digest())


def check_agreed(head: ResponseHead, key: bytes) -> None:
    """Raises ``ResponseError`` (BAD_UPGRADE) unless a 101 agrees to just the WebSocket that was asked for."""
    options = head.connection
    if (
        head.minor != 1
        or b"upgrade" not in options
        or any(option.startswith(_PREFIX) for option in options)
        or _single(head.fields, b"upgrade").lower() != b"websocket"
        or _single(head.fields, _ACCEPT) != accept_of(key)
    ):
        raise ResponseError(HttpCode.BAD_UPGRADE, "a 101 that does not agree to the WebSocket that was asked for")


def _single(fields: list[Field], name: bytes) -> bytes:
    """The value of the one field of that name; empty where there is none, or more than one."""
    values = [value for lower, _, value in fields if lower == name]
    return values[0] if len(values) == 1 else b""

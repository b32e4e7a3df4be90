"""Header rules: which fields of a message go on, and which never do.

A block that is made here always carries the framing that the message is sent with, made from the head and not copied from
its fields, and for a request exactly one Host. ``Connection`` can take any other of the sender's own fields away
(RFC 9110 section 7.6.1), but neither of these, nor what the proxy sets: that is ``extra``, and is added after the
sender's fields were chosen.

What is dropped:

* what is meant for one hop: ``Connection`` and all it names, ``Keep-Alive``, ``Proxy-*``, ``TE``, ``Transfer-Encoding``,
  ``Upgrade`` with ``HTTP2-Settings``;
* what states an identity: ``x-forwarded-client-cert`` and ``x-sidecar-caller``, which the proxy sets, and ``x-spiffe-id``,
  in both directions and in trailers;
* what states a path that we cannot vouch for: ``Forwarded``, ``X-Forwarded-*``, ``X-Real-IP``, ``Via``;
* ``Proxy``, which CGI turns into the variable that redirects a server's own requests (CVE-2016-5385).

Names are compared folded: lower-case, and every character that is no letter or digit counts as ``-``. That is what CGI,
WSGI and their relatives make of them, so ``X_Sidecar_Caller`` would be the proxy's field to the server behind.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from sidecar.http.messages import Framing

if TYPE_CHECKING:
    from collections.abc import Iterable

    from sidecar.http.messages import Field, RequestHead, ResponseHead

IDENTITY: Final = frozenset({b"x-forwarded-client-cert", b"x-sidecar-caller", b"x-spiffe-id"})
"""The names of fields that state an identity, folded."""

_HOP_BY_HOP: Final = frozenset(
    {b"connection", b"keep-alive", b"te", b"transfer-encoding", b"upgrade", b"http2-settings", b"proxy"}
)
_PATH: Final = frozenset({b"forwarded", b"x-forwarded", b"x-real-ip", b"via"})
_SET_ANEW: Final = frozenset({b"host", b"content-length"})
_DROPPED: Final = IDENTITY | _HOP_BY_HOP | _PATH | _SET_ANEW
_DROPPED_PREFIXES: Final = (b"proxy-", b"x-forwarded-")

# What Connection names in every day's traffic, and what names no field.
_PLAIN_OPTIONS: Final = frozenset({b"keep-alive", b"close"})
# What Connection cannot take away.
_PROTECTED: Final = _PLAIN_OPTIONS | _SET_ANEW

# RFC 9110 section 6.5.1: a trailer may not frame, route, modify the request, authenticate, or say how to handle content.
_TRAILER_DROPPED: Final = _DROPPED | frozenset(
    {
        b"authorization", b"dpop", b"www-authenticate", b"authentication-info", b"cookie", b"cookie2", b"set-cookie", b"set-cookie2",
        b"accept", b"accept-encoding", b"accept-language", b"accept-charset", b"cache-control", b"expect", b"from",
        b"if-match", b"if-modified-since", b"if-none-match", b"if-range", b"if-unmodified-since", b"max-forwards", b"origin",
        b"pragma", b"range", b"referer", b"trailer", b"user-agent",
        b"age", b"allow", b"alt-svc", b"date", b"expires", b"location", b"retry-after", b"vary", b"warning",
        b"mcp-session-id", b"x-session-id", b"traceparent", b"tracestate",
    }
)  # fmt: skip
_TRAILER_PREFIXES: Final = (*_DROPPED_PREFIXES, b"content-", b"access-control-", b"sec-")
# Fields that are made to be trailers, in spite of their prefix (RFC 9530 section 2).
_TRAILER_KEPT: Final = frozenset({b"content-digest", b"content-md5"})

_FOLD: Final = bytes(
    byte if chr(byte).isalnum() and byte < 128 else ord("-") for byte in range(256)
)  # names arrive here lower-cased

# Names that go on, as nearly all messages have them: found here, a name needs no folding.
_KNOWN: Final = frozenset(
    {
        b"accept", b"accept-encoding", b"accept-language", b"authorization", b"cache-control", b"content-encoding",
        b"content-type", b"cookie", b"date", b"etag", b"expect", b"last-event-id", b"last-modified", b"location",
        b"mcp-method", b"mcp-name", b"mcp-protocol-version", b"mcp-session-id", b"origin", b"referer", b"server",
        b"set-cookie", b"traceparent", b"tracestate", b"user-agent", b"vary", b"x-accel-buffering",
        b"x-request-id", b"x-session-id",
    }
)  # fmt: skip

_NOTHING: Final[frozenset[bytes]] = frozenset()
_EXPECT: Final = frozenset({b"expect"})
_NONE, _LENGTH, _CHUNKED, _CLOSE = Framing.NONE, Framing.LENGTH, Framing.CHUNKED, Framing.CLOSE


def fold(lower: bytes) -> bytes:
    """Returns a lower-case name as it is compared here."""
    return lower.translate(_FOLD)


def forward_request(
    head: RequestHead,
    *,
    drop: frozenset[bytes] = _NOTHING,
    strip: frozenset[bytes] = _NOTHING,
    host: bytes | None = None,
    extra: bytes = b"",
) -> bytes:
    """The head with which a request goes on: its target in origin-form, HTTP/1.1.

    ``drop`` are further lower-case names to leave out, because the caller sets them, ``strip`` folded ones; ``extra`` is
    the block of fields it sets; ``host`` replaces Host. Without it Host goes on as received, or, where an HTTP/1.0 request has none, with the
    authority of its target, which may be empty (RFC 9112 section 3.2).
    """
    made_of = (head.path, head.query, head.method, host, drop, strip)
    known, start = head.derived.start
    if known != made_of:
        start = _request_start(head, drop, strip, host)
        head.derived.start = (made_of, start)
    framing = head.framing
    if framing is _LENGTH:
        return b"%bContent-Length: %d\r\n%b\r\n" % (start, head.length, extra)
    if framing is _CHUNKED:
        return b"%bTransfer-Encoding: chunked\r\n%b\r\n" % (start, extra)
    return b"%b%b\r\n" % (start, extra)


def _request_start(head: RequestHead, drop: frozenset[bytes], strip: frozenset[bytes], host: bytes | None) -> bytes:
    if host is None:
        host = next((value for lower, _, value in head.fields if lower == b"host"), head.host)
    if not head.minor:
        drop = drop | _EXPECT  # an HTTP/1.0 client cannot be told to continue (RFC 9110 sections 10.1.1 and 15.2)
    fields = head.fields
    if strip:
        fields = [field for field in fields if fold(field[0]) not in strip]
    lines = _lines(fields, drop, head.connection)
    return b"%b %b%b HTTP/1.1\r\nHost: %b\r\n%b" % (head.method, head.path, head.query, host, lines)


def forward_response(head: ResponseHead, framing: Framing, extra: bytes = b"") -> bytes:
    """The head with which a response goes on, framed as ``outgoing_framing`` says for its client.

    ``extra`` is as with requests. A response without a body keeps the Content-Length that it announces.
    """
    known, start = head.derived.start
    if known is None:
        lines = _lines(head.fields, _NOTHING, head.connection)
        start = b"HTTP/1.1 %d %b\r\n%b" % (head.status, head.reason, lines)
        head.derived.start = (True, start)
    if framing is _CHUNKED:
        return b"%bTransfer-Encoding: chunked\r\n%b\r\n" % (start, extra)
    if head.length >= 0 and framing is not _CLOSE:
        return b"%bContent-Length: %d\r\n%b\r\n" % (start, head.length, extra)
    return b"%b%b\r\n" % (start, extra)


def outgoing_framing(head: ResponseHead, minor: int) -> Framing:
    """How a response's body is delimited towards a client of HTTP/1.``minor``.

    What ends with the upstream's connection is sent chunked, so that the client can tell the end from a cut. HTTP/1.0
    knows no chunks (RFC 9112 section 6.1): there such a body ends with the connection, which the caller has to close.
    """
    framing = head.framing
    if framing is _CHUNKED or framing is _CLOSE:
        return _CHUNKED if minor else _CLOSE
    return framing


def forward_trailers(
    fields: Iterable[Field], connection: frozenset[bytes] = _NOTHING, strip: frozenset[bytes] = _NOTHING
) -> bytes:
    """The field block of those trailers that may go on; ``connection`` are the options of the message's head.

    ``strip`` are further folded names to leave out, as in `forward_request`.
    """
    parts: list[bytes] = []
    for lower, name, value in fields:
        folded = lower.translate(_FOLD)
        if lower in connection or folded in _TRAILER_DROPPED or folded in strip:
            continue
        if folded.startswith(_TRAILER_PREFIXES) and folded not in _TRAILER_KEPT:
            continue
        parts += (name, b": ", value, b"\r\n")
    return b"".join(parts)


def _lines(fields: list[Field], drop: frozenset[bytes], connection: frozenset[bytes]) -> bytes:
    """The lines of those fields that go on, in their order."""
    parts: list[bytes] = []
    if connection and not connection <= _PLAIN_OPTIONS:
        drop = drop | connection - _PROTECTED
    for lower, name, value in fields:
        if (lower in _KNOWN or _goes_on(lower)) and lower not in drop:
            parts += (name, b": ", value, b"\r\n")
    return b"".join(parts)


def _goes_on(lower: bytes) -> bool:
    folded = lower.translate(_FOLD)
    return folded not in _DROPPED and not folded.startswith(_DROPPED_PREFIXES)

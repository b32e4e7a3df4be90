"""The fields that decide how a message is read: Host, Content-Length, Transfer-Encoding, Connection, Expect.

Everything here errs on one side: where two readers could come to different ends of a message, or to different
recipients, there is no message.
"""

from __future__ import annotations

import re
from typing import Final, NamedTuple

from sidecar.http.errors import HttpCode, HttpError
from sidecar.http.grammar import TCHAR
from sidecar.http.messages import Framing, TargetForm
from sidecar.http.target import is_authority, same_authority
from sidecar.http.trace import parse

CONTROLS: Final = frozenset(
    {
        b"host",
        b"content-length",
        b"content_length",
        b"transfer-encoding",
        b"transfer_encoding",
        b"connection",
        b"expect",
        b"traceparent",
        b"authorization",
    }
)
"""Their lower-case names, with the look-alikes that CGI and WSGI servers take for the real ones.

``traceparent`` controls nothing; it stands here because nearly every request between two proxies has one.
``authorization`` stands here because a request may have one alone."""

# A list of codings that ends with chunked: understood, but not implemented (RFC 9112 section 6.1: 501).
_CODINGS: Final = re.compile(rb"(?:" + TCHAR + rb"++[ \t]*+,[ \t]*+)++chunked")

_NO_OPTIONS: Final[frozenset[bytes]] = frozenset()
_OPTIONS: Final = {b"keep-alive": frozenset({b"keep-alive"}), b"close": frozenset({b"close"})}

# Looking a member up on its Enum costs more than all comparisons of a head together.
_NONE, _LENGTH, _CHUNKED = Framing.NONE, Framing.LENGTH, Framing.CHUNKED
_ORIGIN, _ASTERISK, _AUTHORITY = TargetForm.ORIGIN, TargetForm.ASTERISK, TargetForm.AUTHORITY


class Controls(NamedTuple):
    """The values as received; None where the field is missing."""

    host: bytes | None
    content_length: bytes | None
    transfer_encoding: bytes | None
    options: frozenset[bytes]
    expect: bytes | None
    trace: bytes


def read_controls(found: list[tuple[bytes, bytes]]) -> Controls:
    """Sorts (lower-case name, value) pairs out; raises ``HttpError`` for a second one where only one may be."""
    host = content_length = transfer_encoding = expect = trace = authorization = None
    options = _NO_OPTIONS
    for name, value in found:
        if name == b"host":  # RFC 9112 section 3.2
            host = _only(host, value, HttpCode.DUPLICATE_HOST, "Host")
        elif name == b"connection":
            options = _connection_options(options, value)
        elif name == b"content-length":  # stricter than RFC 9112 section 6.3, which lets equal ones be merged
            content_length = _only(content_length, value, HttpCode.DUPLICATE_CONTENT_LENGTH, "Content-Length")
        elif name == b"transfer-encoding":
            transfer_encoding = _only(
                transfer_encoding, value, HttpCode.DUPLICATE_TRANSFER_ENCODING, "Transfer-Encoding"
            )
        elif name == b"expect":
            expect = value if expect is None else expect + b", " + value  # RFC 9110 section 5.3
        elif name == b"traceparent":
            trace = value if trace is None else b""
        elif name == b"authorization":  # RFC 9110 5.3 and 11.6.2: not a list, so two readers may take two of them
            authorization = _only(authorization, value, HttpCode.DUPLICATE_AUTHORIZATION, "Authorization")
        else:
            raise HttpError(HttpCode.FRAMING_LOOKALIKE, "a framing field spelt with an underscore")
    return Controls(host, content_length, transfer_encoding, options, expect, trace if trace and parse(trace) else b"")


def _only(before: bytes | None, value: bytes, code: HttpCode, name: str) -> bytes:
    if before is not None:
        raise HttpError(code, f"more than one {name} field")
    return value


def _connection_options(options: frozenset[bytes], value: bytes) -> frozenset[bytes]:
    value = value.lower()
    more = _OPTIONS.get(value)
    if more is None:
        more = frozenset(filter(None, [option.strip(b" \t") for option in value.split(b",")]))
    return options | more if options else more


def check_host(host: bytes | None, minor: int, form: TargetForm, authority: bytes, scheme: bytes) -> bytes:
    """The one authority of the request, lower-cased; empty only for HTTP/1.0 without Host.

    Raises ``HttpError``: MISSING_HOST, BAD_HOST, and HOST_MISMATCH where the target names another authority.
    """
    if host is None:
        if minor:  # RFC 9112 section 3.2
            raise HttpError(HttpCode.MISSING_HOST, "an HTTP/1.1 request without a Host field")
        return authority
    host = host.lower()
    if not is_authority(host):
        raise HttpError(HttpCode.BAD_HOST, "the Host field is not host or host:port")
    if form is _ORIGIN or form is _ASTERISK or same_authority(host, authority, scheme):
        return host
    if form is _AUTHORITY and authority in {host + b":80", host + b":443"}:
        return authority  # Node's fetch leaves a default port out of Host and not out of the target
    # RFC 9112 section 3.2.2 tells a proxy to ignore Host here. Then our policy would go by the one and an upstream that
    # reads the other by the other.
    raise HttpError(HttpCode.HOST_MISMATCH, "the Host field differs from the authority of the request target")


def read_length(digits: bytes) -> int:
    """The value of a Content-Length, or -1 where it is none: 1 to 19 digits, below 2**63, what every upstream can hold."""
    # bytes.isdigit takes ASCII digits only.
    if not digits.isdigit() or len(digits) > 19 or (length := int(digits)) >= 1 << 63:
        return -1
    return length


def read_framing(content_length: bytes | None, transfer_encoding: bytes | None, minor: int) -> tuple[Framing, int]:
    """How the body of a request is delimited, and its length (0 where none is announced).

    Raises ``HttpError``: BOTH_LENGTHS, BAD_CONTENT_LENGTH, BAD_TRANSFER_ENCODING, UNSUPPORTED_TRANSFER_ENCODING,
    TRANSFER_ENCODING_HTTP10.
    """
    if transfer_encoding is None:
        if content_length is None:
            return _NONE, 0
        if (length := read_length(content_length)) < 0:
            raise HttpError(HttpCode.BAD_CONTENT_LENGTH, "the Content-Length is not a number below 2**63")
        return _LENGTH, length
    if content_length is not None:  # RFC 9112 section 6.1: ought to be handled as an error
        raise HttpError(HttpCode.BOTH_LENGTHS, "both Content-Length and Transfer-Encoding")
    if not minor:  # RFC 9112 section 6.1: its framing is to be treated as faulty
        raise HttpError(HttpCode.TRANSFER_ENCODING_HTTP10, "Transfer-Encoding in an HTTP/1.0 message")
    coding = transfer_encoding.lower()
    if coding == b"chunked":
        return _CHUNKED, 0
    if _CODINGS.fullmatch(coding) is not None and coding.count(b"chunked") == 1:
        raise HttpError(HttpCode.UNSUPPORTED_TRANSFER_ENCODING, "a transfer coding other than chunked")
    raise HttpError(HttpCode.BAD_TRANSFER_ENCODING, "the Transfer-Encoding is not chunked")

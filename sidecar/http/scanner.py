"""The head scanner: accepts or refuses a head, by itself, before any library sees a byte of it.

It is stricter than RFC 9112 wherever leniency lets two readers disagree:

* lines end with CRLF, never with LF alone; no obsolete folding; no blank before a colon; no control byte;
* one space between the parts of a request line; the version is HTTP/1.0 or HTTP/1.1;
* exactly one Host with HTTP/1.1, at most one with HTTP/1.0, and it equals the authority of an absolute target;
* one Content-Length of 1 to 19 digits below 2**63, never a list, never twice, not even with the same value;
* one Transfer-Encoding, exactly ``chunked``, with HTTP/1.1, without Content-Length;
* no field whose name is one of the framing fields' with ``_`` for ``-`` (CGI and WSGI servers take it for the real one).

How it works. A head as people send it is matched by two regular expressions, one for the first line and one for all
fields, and taken apart by a third; that path only ever accepts. Everything else is diagnosed line by line, slowly, for
its code. ``block`` is always a head from its first byte to the end of its empty line, and nothing more.
"""

from __future__ import annotations

import re
from functools import partial
from typing import TYPE_CHECKING, Final

from sidecar.http.controls import CONTROLS, check_host, read_controls, read_framing
from sidecar.http.errors import HttpCode, HttpError, ResponseError
from sidecar.http.grammar import CRLF, METHOD, PATH_CHAR, QUERY_CHAR, TCHAR, TOKEN, VALUE_CHAR
from sidecar.http.messages import Field, Framing, RequestHead, ResponseHead, TargetForm
from sidecar.http.target import Target, parse_target
from sidecar.http.watch import Watch, WatchRules

if TYPE_CHECKING:
    from sidecar.http.limits import HttpLimits

ORIGIN_LINE: Final = re.compile(
    rb"(?!CONNECT )(" + METHOD + rb") ((/" + PATH_CHAR + rb"*+)(\?" + QUERY_CHAR + rb"*+)?) HTTP/1\.([01])\r\n"
)
"""A request line in origin-form, as nearly every request has it; the others take `parse_request_line`."""

_STATUS_LINE: Final = re.compile(rb"HTTP/1\.([01]) ([1-5][0-9][0-9])(?: (" + VALUE_CHAR + rb"*+))?\r\n")
_VERSION: Final = re.compile(rb"HTTP/[0-9]++(?:\.[0-9]++)?")
_METHOD: Final = re.compile(METHOD)
# All the fields and the empty line; first without blanks behind a value, as nearly everybody sends them. What these match,
# the third only has to cut at the first colon and the CR of a line.
_TIDY_FIELDS: Final = re.compile(rb"(?:" + TCHAR + rb"++:" + VALUE_CHAR + rb"*+(?<![ \t])\r\n)*+\r\n")
_FIELDS: Final = re.compile(rb"(?:" + TCHAR + rb"++:" + VALUE_CHAR + rb"*+\r\n)*+\r\n")
_FIELD: Final = re.compile(rb"([^:]++):[ \t]*+([^\r]*+)\r\n")

# Looking a member up on its Enum costs more than all comparisons of a head together.
_NONE, _LENGTH, _CHUNKED, _UNTIL_CLOSE = Framing.NONE, Framing.LENGTH, Framing.CHUNKED, Framing.CLOSE
_ORIGIN, _AUTHORITY = TargetForm.ORIGIN, TargetForm.AUTHORITY


def request_rules(limits: HttpLimits, *, secure: bool = False) -> WatchRules:
    """What an unfinished request head is watched for."""
    return WatchRules.head(limits, partial(parse_request_line, secure=secure), limits.target_bytes)


def response_rules(limits: HttpLimits) -> WatchRules:
    """What an unfinished response head is watched for."""
    return WatchRules.head(limits, parse_status_line)


def scan_request(block: bytes, limits: HttpLimits, *, secure: bool = False) -> RequestHead:
    """Accepts a request head or raises ``HttpError``; ``secure`` says that it came by TLS."""
    try:
        return _scan_request(block, limits, secure=secure)
    except HttpError:
        Watch(request_rules(limits, secure=secure)).look(block)  # what would have been found first, byte by byte
        raise


def scan_response(block: bytes, request_method: bytes, limits: HttpLimits) -> ResponseHead:
    """Accepts the head of a response to a request of that method or raises ``ResponseError``."""
    try:
        return _scan_response(block, request_method, limits)
    except HttpError as error:
        found = error
    try:
        Watch(response_rules(limits)).look(block)
    except HttpError as error:
        found = error
    raise ResponseError(found.code, str(found))


def scan_trailers(block: bytes, limits: HttpLimits) -> list[Field]:
    """Accepts a trailer section, given from the CRLF before it to the end of its empty line, or raises ``HttpError``."""
    rules = WatchRules.trailers(limits)
    if len(block) > rules.max_bytes:
        Watch(rules).look(block)  # raises
    try:
        return _scan_fields(block, 2, limits)[0]
    except HttpError:
        Watch(rules).look(block)
        raise


def _scan_request(block: bytes, limits: HttpLimits, *, secure: bool) -> RequestHead:
    line = ORIGIN_LINE.match(block)
    if line is not None:
        method, target, path, query, minor_digit = line.groups()
        form, scheme, authority, query = _ORIGIN, b"", b"", query or b""
        minor, start = (1 if minor_digit == b"1" else 0), line.end()
    else:
        end = block.find(CRLF)
        method, target, parts, minor = parse_request_line(block[:end], secure=secure)
        form, scheme, authority, path, query = parts
        start = end + 2
    if len(target) > limits.target_bytes or len(block) > limits.head_bytes:
        raise HttpError(HttpCode.HEAD_TOO_LARGE, "the head is too large")
    fields, controls = _scan_fields(block, start, limits)
    host, content_length, transfer_encoding, options, expect, trace = read_controls(controls)
    host = check_host(host, minor, form, authority, scheme)
    framing, length = read_framing(content_length, transfer_encoding, minor)
    if form is _AUTHORITY and (length or framing is _CHUNKED):
        # RFC 9110 section 9.3.6: CONNECT has no content. What follows it is the tunnel's, or else somebody's next request.
        raise HttpError(HttpCode.FORBIDDEN_BODY, "CONNECT with a body")
    # RFC 9112 section 9.3. HTTP/1.0 keeps alive only if asked to.
    keep_alive = b"close" not in options and (minor == 1 or b"keep-alive" in options)
    # RFC 9110 section 10.1.1: the expectation of an HTTP/1.0 client is ignored.
    waits = expect is not None and minor == 1 and expect.lower() == b"100-continue"
    return RequestHead(
        method, target, form, authority, path, query, minor,
        fields, host, framing, length, keep_alive, options, waits, scheme, trace,
    )  # fmt: skip


def _scan_response(block: bytes, request_method: bytes, limits: HttpLimits) -> ResponseHead:
    line = _STATUS_LINE.match(block)
    if line is None:
        raise _bad_status_line()
    if len(block) > limits.head_bytes:
        raise HttpError(HttpCode.HEAD_TOO_LARGE, "the head is too large")
    minor, status, reason = (1 if line[1] == b"1" else 0), int(line[2]), line[3] or b""
    fields, controls = _scan_fields(block, line.end(), limits)
    _, content_length, transfer_encoding, options, _, _ = read_controls(controls)
    framing, length = read_framing(content_length, transfer_encoding, minor)
    if framing is _NONE:
        framing, length = _UNTIL_CLOSE, -1  # RFC 9112 section 6.3, rule 8
    if status < 200 or status == 204:
        # RFC 9110 section 8.6 and RFC 9112 section 6.1: these announce no body. Who does so nevertheless may send one.
        if framing is _CHUNKED or length > 0:
            raise HttpError(HttpCode.FORBIDDEN_BODY, f"a response with status {status} announces a body")
        framing, length = _NONE, -1
    elif status == 304 or request_method == b"HEAD":  # RFC 9112 section 6.3, rule 1: these only announce
        framing, length = _NONE, (-1 if framing is not _LENGTH else length)
    keep_alive = framing is not _UNTIL_CLOSE and b"close" not in options and (minor == 1 or b"keep-alive" in options)
    return ResponseHead(status, reason, minor, fields, framing, length, keep_alive, options)


def parse_request_line(line: bytes, *, secure: bool = False) -> tuple[bytes, bytes, Target, int]:
    """Method, target, the target taken apart and the minor version of a request line given without its CRLF.

    Raises ``HttpError`` for the first part that is wrong, the version before the target: the line of another protocol
    or version is to be called that.
    """
    parts = line.split(b" ")
    if len(parts) != 3:  # also HTTP/0.9, which has two
        raise HttpError(HttpCode.BAD_REQUEST_LINE, "not three words with one space between them")
    method, target, version = parts
    if _METHOD.fullmatch(method) is None:
        raise HttpError(HttpCode.BAD_METHOD, "the method is not a token of at most 32 bytes")
    if version not in {b"HTTP/1.1", b"HTTP/1.0"}:
        if _VERSION.fullmatch(version) is None:
            raise HttpError(HttpCode.BAD_REQUEST_LINE, "the request line does not end with an HTTP version")
        raise HttpError(HttpCode.BAD_VERSION, "the version is neither HTTP/1.0 nor HTTP/1.1")
    return method, target, parse_target(method, target, secure=secure), 1 if version == b"HTTP/1.1" else 0


def parse_status_line(line: bytes) -> None:
    """Raises ``HttpError`` unless this, given without its CRLF, is a status line."""
    if _STATUS_LINE.fullmatch(line + CRLF) is None:
        raise _bad_status_line()


def _bad_status_line() -> HttpError:
    return HttpError(HttpCode.BAD_STATUS_LINE, "not the status line of an HTTP/1.0 or HTTP/1.1 response")


def _scan_fields(block: bytes, start: int, limits: HttpLimits) -> tuple[list[Field], list[tuple[bytes, bytes]]]:
    """All fields, and of those that control the reading (lower-case name, value) once more."""
    tidy = _TIDY_FIELDS.fullmatch(block, start) is not None
    if not tidy and _FIELDS.fullmatch(block, start) is None:
        raise _field_defect(block, start)
    fields = [(name.lower(), name, value) for name, value in _FIELD.findall(block, start)]
    if len(fields) > limits.fields:
        raise HttpError(HttpCode.TOO_MANY_FIELDS, f"more than {limits.fields} fields")
    if not tidy:
        fields = [(lower, name, value.rstrip(b" \t")) for lower, name, value in fields]
    controls = [(lower, value) for lower, _, value in fields if lower in CONTROLS]
    return fields, controls


def _field_defect(block: bytes, start: int) -> HttpError:
    """The error for the first field line that is none."""
    for line in block[start:-4].split(CRLF):
        name, colon, _ = line.partition(b":")
        if TOKEN.fullmatch(name) is not None and colon:
            continue  # a wrong value has a control byte, and for those the watch looks first
        if line[:1] in {b" ", b"\t"}:  # RFC 9112 section 5.2
            return HttpError(HttpCode.OBS_FOLD, "a line that continues the one before it")
        if not colon:
            return HttpError(HttpCode.BAD_FIELD, "a field line without a colon")
        if not name:
            return HttpError(HttpCode.EMPTY_FIELD_NAME, "a field without a name")
        if TOKEN.fullmatch(name.rstrip(b" \t")) is not None:  # RFC 9112 section 5.1
            return HttpError(HttpCode.SPACE_BEFORE_COLON, "a blank before the colon of a field")
        return HttpError(HttpCode.BAD_FIELD_NAME, "a field name that is not a token")
    return HttpError(HttpCode.BAD_FIELD, "not a field line")

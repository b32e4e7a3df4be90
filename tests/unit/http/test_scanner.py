from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from sidecar.http.errors import HttpCode, HttpError, ResponseError
from sidecar.http.limits import HttpLimits
from sidecar.http.messages import Framing, RequestHead, ResponseHead, TargetForm
from sidecar.http.scanner import scan_request, scan_response, scan_trailers
from tests.support.http import LIMITS, get, ok, requests, response

if TYPE_CHECKING:
    from tests.support.http import Outcome


def refused(outcome: Outcome, code: HttpCode, status: int = 400) -> bool:
    """Refused with that code, and nothing was ever told to the sink."""
    return (outcome.events, outcome.code, outcome.status) == ([], code.value, status)


# --- what is accepted ----------------------------------------------------------------------------------------------------


def test_a_request_head_is_taken_apart() -> None:
    block = get(b"Accept:  a, b \t", b"X:", b"CONTENT-LENGTH: 3", b"x-y:\xff\tz", line=b"POST /a?b HTTP/1.1")
    assert scan_request(block, LIMITS) == RequestHead(
        method=b"POST",
        target=b"/a?b",
        form=TargetForm.ORIGIN,
        authority=b"",
        path=b"/a",
        query=b"?b",
        minor=1,
        fields=[
            (b"host", b"Host", b"a"),
            (b"accept", b"Accept", b"a, b"),
            (b"x", b"X", b""),
            (b"content-length", b"CONTENT-LENGTH", b"3"),
            (b"x-y", b"x-y", b"\xff\tz"),
        ],
        host=b"a",
        framing=Framing.LENGTH,
        length=3,
        keep_alive=True,
        connection=frozenset(),
        expect_continue=False,
        scheme=b"",
    )


def test_blanks_around_a_framing_value_do_not_count() -> None:
    head = scan_request(get(b"Content-Length:\t 3 \t", b"Connection: close "), LIMITS)
    assert (head.framing, head.length, head.keep_alive) == (Framing.LENGTH, 3, False)


@pytest.mark.parametrize(
    ("line", "form", "scheme", "authority", "path", "query"),
    [
        (b"GET http://A:80/x?y HTTP/1.1", TargetForm.ABSOLUTE, b"http", b"a:80", b"/x", b"?y"),
        (b"CONNECT a:80 HTTP/1.1", TargetForm.AUTHORITY, b"", b"a:80", b"", b""),
        (b"OPTIONS * HTTP/1.1", TargetForm.ASTERISK, b"", b"", b"*", b""),
    ],
)
def test_the_other_forms_of_a_target(
    line: bytes, form: TargetForm, scheme: bytes, authority: bytes, path: bytes, query: bytes
) -> None:
    head = scan_request(get(line=line, host=b"Host: A:80"), LIMITS)
    assert (head.form, head.scheme, head.authority, head.path, head.query) == (form, scheme, authority, path, query)
    assert head.host == b"a:80"
    assert head.target == line.split(b" ")[1]


@pytest.mark.parametrize("method", [b"GET", b"connect", b"CONNECTX", b"M" * 32, b"!#$%&'*+-.^_`|~09aZ"])
def test_a_method_is_any_token_of_up_to_32_bytes(method: bytes) -> None:
    assert scan_request(get(line=method + b" / HTTP/1.1"), LIMITS).method == method


@pytest.mark.parametrize(
    ("version", "connection", "keep_alive"),
    [
        (b"1", [], True),
        (b"1", [b"Connection: close"], False),
        (b"1", [b"Connection: keep-alive, CLOSE"], False),
        (b"1", [b"Connection: x", b"Connection: close"], False),
        (b"0", [], False),
        (b"0", [b"Connection: Keep-Alive"], True),
        (b"0", [b"Connection: keep-alive, close"], False),
    ],
)
def test_keep_alive_of_a_request(version: bytes, connection: list[bytes], keep_alive: bool) -> None:
    head = scan_request(get(*connection, line=b"GET / HTTP/1." + version), LIMITS)
    assert (head.minor, head.keep_alive) == (int(version), keep_alive)


@pytest.mark.parametrize(
    ("line", "fields", "waits"),
    [
        (b"GET / HTTP/1.1", [b"Expect: 100-Continue"], True),
        (b"GET / HTTP/1.0", [b"Expect: 100-continue"], False),
        (b"GET / HTTP/1.1", [b"Expect: 200-ok"], False),
        (b"GET / HTTP/1.1", [], False),
    ],
)
def test_expectations(line: bytes, fields: list[bytes], waits: bool) -> None:
    assert scan_request(get(*fields, line=line), LIMITS).expect_continue is waits


def test_http_1_0_needs_no_host_and_no_fields() -> None:
    head = scan_request(b"GET / HTTP/1.0\r\n\r\n", LIMITS)
    assert (head.minor, head.host, head.fields) == (0, b"", [])


def test_the_limits_are_the_last_values_that_pass() -> None:
    block = get(b"A: b", line=b"GET /1234 HTTP/1.1")
    exact = HttpLimits(head_bytes=len(block), target_bytes=5, fields=2)
    assert scan_request(block, exact)
    for limits, code in (
        (HttpLimits(head_bytes=len(block) - 1), HttpCode.HEAD_TOO_LARGE),
        (HttpLimits(target_bytes=4), HttpCode.TARGET_TOO_LONG),
        (HttpLimits(fields=1), HttpCode.TOO_MANY_FIELDS),
    ):
        with pytest.raises(HttpError) as caught:
            scan_request(block, limits)
        assert caught.value.code is code


# --- what is refused -----------------------------------------------------------------------------------------------------


@pytest.mark.threat(17)
@pytest.mark.parametrize(
    ("line", "host", "code"),
    [
        (b"GET http://b/ HTTP/1.1", b"Host: a", HttpCode.HOST_MISMATCH),
        (b"GET http://a:81/ HTTP/1.1", b"Host: a", HttpCode.HOST_MISMATCH),
        (b"GET http://a/ HTTP/1.1", b"Host: a:8080", HttpCode.HOST_MISMATCH),
        (b"GET http://a:443/ HTTP/1.1", b"Host: a", HttpCode.HOST_MISMATCH),
        (b"GET http://a./ HTTP/1.1", b"Host: a", HttpCode.HOST_MISMATCH),
        (b"CONNECT b:443 HTTP/1.1", b"Host: a:443", HttpCode.HOST_MISMATCH),
        (b"CONNECT a:443 HTTP/1.1", b"Host: b", HttpCode.HOST_MISMATCH),
        (b"CONNECT a:8443 HTTP/1.1", b"Host: a", HttpCode.HOST_MISMATCH),
        (b"CONNECT a:80 HTTP/1.1", b"Host: a:443", HttpCode.HOST_MISMATCH),
        (b"GET http://b/ HTTP/1.0", b"Host: a", HttpCode.HOST_MISMATCH),
        (b"GET http://a/ HTTP/1.1", None, HttpCode.MISSING_HOST),
        (b"GET http://a@b/ HTTP/1.1", b"Host: b", HttpCode.BAD_AUTHORITY),
        (b"GET http:///a HTTP/1.1", b"Host: a", HttpCode.BAD_AUTHORITY),
        (b"GET ftp://a/ HTTP/1.1", b"Host: a", HttpCode.BAD_SCHEME),
        (b"GET https://a/ HTTP/1.1", b"Host: a", HttpCode.SECURE_SCHEME_ON_PLAINTEXT),
    ],
)
def test_threat_17_one_request_has_one_authority(line: bytes, host: bytes | None, code: HttpCode) -> None:
    assert refused(requests(get(line=line, host=host)), code)


@pytest.mark.threat(17)
def test_threat_17_https_belongs_to_tls() -> None:
    outcome = requests(get(line=b"GET https://A/ HTTP/1.1", host=b"Host: a:443"), secure=True)
    assert outcome.code is None
    head = outcome.head
    assert isinstance(head, RequestHead)
    assert (head.scheme, head.authority, head.host) == (b"https", b"a", b"a:443")


@pytest.mark.threat(28)
@pytest.mark.parametrize(
    "fields",
    [
        (b"Content-Length: 5", b"Transfer-Encoding: chunked"),
        (b"Transfer-Encoding: chunked", b"Content-Length: 5"),
        (b"Transfer-Encoding: chunked", b"Content-Length: 0"),
        (b"transfer-encoding: x", b"CONTENT-LENGTH: y"),
    ],
)
def test_threat_28_both_lengths(fields: tuple[bytes, ...]) -> None:
    data = get(*fields, line=b"POST / HTTP/1.1", body=b"0\r\n\r\nGET /x HTTP/1.1\r\nHost: a\r\n\r\n")
    assert refused(requests(data), HttpCode.BOTH_LENGTHS)


@pytest.mark.threat(29)
@pytest.mark.parametrize(
    "value",
    [
        b"+5", b"-5", b"5, 0", b"5, 5", b"5,", b",5", b"0x5", b"5.0", b"", b" ", b"18446744073709551621", b"0_5", b"5 5",
        b"5;", b'"5"', b"\xd9\xa5", b"\xb2", b"5e0", b"9" * 19, b"9" * 5000, b"a",
    ],
)  # fmt: skip
def test_threat_29_a_length_is_a_number(value: bytes) -> None:
    assert refused(requests(get(b"Content-Length: " + value, body=b"12345")), HttpCode.BAD_CONTENT_LENGTH)


@pytest.mark.threat(29)
@pytest.mark.parametrize("second", [b"5", b"6", b"", b"5, 5"])
def test_threat_29_there_is_one_length(second: bytes) -> None:
    data = get(b"Content-Length: 5", b"content-length: " + second, body=b"12345")
    assert refused(requests(data), HttpCode.DUPLICATE_CONTENT_LENGTH)


@pytest.mark.threat(29)
@pytest.mark.parametrize("field", [b"Content_Length: 5", b"CONTENT_LENGTH: 5", b"Content-Length : 5"])
def test_threat_29_nothing_looks_like_a_length(field: bytes) -> None:
    code = HttpCode.SPACE_BEFORE_COLON if b" :" in field else HttpCode.FRAMING_LOOKALIKE
    assert refused(requests(get(field, body=b"12345")), code)


@pytest.mark.threat(30)
@pytest.mark.parametrize(
    ("field", "code", "status"),
    [
        (b"Transfer-Encoding: ,chunked", HttpCode.BAD_TRANSFER_ENCODING, 400),
        (b"Transfer-Encoding: chunked,", HttpCode.BAD_TRANSFER_ENCODING, 400),
        (b"Transfer-Encoding: chunked, identity", HttpCode.BAD_TRANSFER_ENCODING, 400),
        (b"Transfer-Encoding: xchunked", HttpCode.BAD_TRANSFER_ENCODING, 400),
        (b'Transfer-Encoding: "chunked"', HttpCode.BAD_TRANSFER_ENCODING, 400),
        (b"Transfer-Encoding: chunked;q=1", HttpCode.BAD_TRANSFER_ENCODING, 400),
        (b"Transfer-Encoding: chunked chunked", HttpCode.BAD_TRANSFER_ENCODING, 400),
        (b"Transfer-Encoding: chunked, chunked", HttpCode.BAD_TRANSFER_ENCODING, 400),
        (b"Transfer-Encoding: identity", HttpCode.BAD_TRANSFER_ENCODING, 400),
        (b"Transfer-Encoding:", HttpCode.BAD_TRANSFER_ENCODING, 400),
        (b"Transfer-Encoding: \xa0chunked", HttpCode.BAD_TRANSFER_ENCODING, 400),
        (b"Transfer-Encoding: gzip, chunked", HttpCode.UNSUPPORTED_TRANSFER_ENCODING, 501),
        (b"Transfer-Encoding: \x0bchunked", HttpCode.CONTROL_BYTE, 400),
        (b"Transfer-Encoding: chunked\x0c", HttpCode.CONTROL_BYTE, 400),
        (b"Transfer-Encoding: \x00chunked", HttpCode.CONTROL_BYTE, 400),
        (b"Transfer-Encoding : chunked", HttpCode.SPACE_BEFORE_COLON, 400),
        (b"Transfer-Encoding\t: chunked", HttpCode.SPACE_BEFORE_COLON, 400),
        (b" Transfer-Encoding: chunked", HttpCode.OBS_FOLD, 400),
        (b"Transfer-Encoding:\r\n chunked", HttpCode.OBS_FOLD, 400),
        (b"X: y\r\n\tTransfer-Encoding: chunked", HttpCode.OBS_FOLD, 400),
        (b"Transfer_Encoding: chunked", HttpCode.FRAMING_LOOKALIKE, 400),
        (b"TRANSFER_ENCODING: chunked", HttpCode.FRAMING_LOOKALIKE, 400),
        (b"Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked", HttpCode.DUPLICATE_TRANSFER_ENCODING, 400),
        (b"Transfer-Encoding: identity\r\nTransfer-Encoding: chunked", HttpCode.DUPLICATE_TRANSFER_ENCODING, 400),
        (b"Transfer-Encoding: chunked\nX: y", HttpCode.BARE_LF, 400),
    ],
)
def test_threat_30_there_is_one_coding(field: bytes, code: HttpCode, status: int) -> None:
    data = get(field, line=b"POST / HTTP/1.1", body=b"5\r\nhello\r\n0\r\n\r\n")
    assert refused(requests(data), code, status)


@pytest.mark.threat(32)
@pytest.mark.parametrize("byte", [*range(0x09), *range(0x0B, 0x0D), *range(0x0E, 0x20), 0x7F])
@pytest.mark.parametrize(
    "template",
    [b"G%bT / HTTP/1.1\r\nHost: a\r\n\r\n", b"GET /%b HTTP/1.1\r\nHost: a\r\n\r\n", b"GET / HTTP/1.1%b\r\nHost: a\r\n\r\n",
     b"GET / HTTP/1.1\r\nHost: a\r\nX%b: y\r\n\r\n", b"GET / HTTP/1.1\r\nHost: a\r\nX: y%bz\r\n\r\n"],
)  # fmt: skip
def test_threat_32_control_bytes(byte: int, template: bytes) -> None:
    assert refused(requests(template % bytes([byte])), HttpCode.CONTROL_BYTE)


@pytest.mark.threat(32)
@pytest.mark.parametrize(
    ("data", "code"),
    [
        (b"GET / HTTP/1.1\nHost: a\n\n", HttpCode.BARE_LF),
        (b"GET / HTTP/1.1\r\nHost: a\n\r\n", HttpCode.BARE_LF),
        (b"GET / HTTP/1.1\r\nHost: a\r\n\n", HttpCode.BARE_LF),
        (b"GET / HTTP/1.1\r\nHost: a\r\nX: y\nZ: z\r\n\r\n", HttpCode.BARE_LF),
        (b"\nGET / HTTP/1.1\r\nHost: a\r\n\r\n", HttpCode.BARE_LF),
        (b"GET / HTTP/1.1\r\nHost: a\r\nX: y\rz\r\n\r\n", HttpCode.BARE_CR),
        (b"GET / HTTP/1.1\r\r\nHost: a\r\n\r\n", HttpCode.BARE_CR),
        (b"GET /\r HTTP/1.1\r\nHost: a\r\n\r\n", HttpCode.BARE_CR),
        (b"GET / HTTP/1.1\r\nHost: a\r\nX\r: y\r\n\r\n", HttpCode.BARE_CR),
        (b"GET / HTTP/1.1\r\nHost: a\rX: y\r\n\r\n", HttpCode.BARE_CR),
        (b"\rGET / HTTP/1.1\r\nHost: a\r\n\r\n", HttpCode.BARE_CR),
        (b"GET / HTTP/1.1\r\nHost: a\r\nX y\r\n\r\n", HttpCode.BAD_FIELD),
        (b"GET / HTTP/1.1\r\nHost: a\r\n: y\r\n\r\n", HttpCode.EMPTY_FIELD_NAME),
        (b"GET / HTTP/1.1\r\nHost: a\r\nX Y: z\r\n\r\n", HttpCode.BAD_FIELD_NAME),
        (b"GET / HTTP/1.1\r\nHost: a\r\nX\xe9: z\r\n\r\n", HttpCode.BAD_FIELD_NAME),
        (b'GET / HTTP/1.1\r\nHost: a\r\n"X": z\r\n\r\n', HttpCode.BAD_FIELD_NAME),
        (b"GET / HTTP/1.1\r\nHost: a\r\nX : z\r\n\r\n", HttpCode.SPACE_BEFORE_COLON),
        (b"GET / HTTP/1.1\r\nHost: a\r\nX \t : z\r\n\r\n", HttpCode.SPACE_BEFORE_COLON),
        (b"GET / HTTP/1.1\r\n Host: a\r\n\r\n", HttpCode.OBS_FOLD),
        (b"GET / HTTP/1.1\r\nHost: a\r\nX: y\r\n z\r\n\r\n", HttpCode.OBS_FOLD),
        (b"GET / HTTP/1.1\r\nHost: a\r\nX: y\r\n\t\r\n\r\n", HttpCode.OBS_FOLD),
    ],
)
def test_threat_32_lines_and_fields(data: bytes, code: HttpCode) -> None:
    assert refused(requests(data), code)


@pytest.mark.threat(32)
def test_threat_32_the_first_of_several_defects_counts() -> None:
    assert requests(get(b"X: \x00", b"Y: \n", line=b"GET / HTTP/1.1")).code == HttpCode.CONTROL_BYTE
    assert requests(get(b"X : 1", b"Y: \n")).code == HttpCode.BARE_LF  # a line is judged once the head is complete
    assert requests(get(b"X : 1", b": 2")).code == HttpCode.SPACE_BEFORE_COLON
    assert requests(get(b"X: \n", line=b"GET / HTTP/4")).code == HttpCode.BAD_VERSION


@pytest.mark.threat(33)
@pytest.mark.parametrize(
    ("fields", "code"),
    [
        ((), HttpCode.MISSING_HOST),
        ((b"Host: a", b"Host: a"), HttpCode.DUPLICATE_HOST),
        ((b"Host: a", b"hOST: b"), HttpCode.DUPLICATE_HOST),
        ((b"Host:",), HttpCode.BAD_HOST),
        ((b"Host: a@b",), HttpCode.BAD_HOST),
        ((b"Host: a/b",), HttpCode.BAD_HOST),
        ((b"Host: a, b",), HttpCode.BAD_HOST),
        ((b"Host: a,b",), HttpCode.BAD_HOST),
        ((b"Host: a b",), HttpCode.BAD_HOST),
        ((b"Host: a\tb",), HttpCode.BAD_HOST),
        ((b"Host: a:b",), HttpCode.BAD_HOST),
        ((b"Host: a:",), HttpCode.BAD_HOST),
        ((b"Host: a:65536",), HttpCode.BAD_HOST),
        ((b"Host: a:-1",), HttpCode.BAD_HOST),
        ((b"Host: http://a",), HttpCode.BAD_HOST),
        ((b"Host: a?b",), HttpCode.BAD_HOST),
        ((b"Host: a#b",), HttpCode.BAD_HOST),
        ((b"Host: a\\b",), HttpCode.BAD_HOST),
        ((b"Host: [::1",), HttpCode.BAD_HOST),
        ((b"Host: ::1",), HttpCode.BAD_HOST),
        ((b"Host: \xe9",), HttpCode.BAD_HOST),
        ((b"Host : a",), HttpCode.SPACE_BEFORE_COLON),
    ],
)
def test_threat_33_hosts(fields: tuple[bytes, ...], code: HttpCode) -> None:
    assert refused(requests(get(*fields, host=None)), code)


@pytest.mark.threat(33)
def test_threat_33_http_1_0_may_have_no_host_but_not_a_bad_one() -> None:
    assert requests(get(line=b"GET / HTTP/1.0", host=None)).code is None
    assert refused(requests(get(line=b"GET / HTTP/1.0", host=b"Host: a b")), HttpCode.BAD_HOST)


@pytest.mark.threat(34)
@pytest.mark.parametrize(
    ("line", "code", "status"),
    [
        (b"GET /", HttpCode.BAD_REQUEST_LINE, 400),
        (b"GET", HttpCode.BAD_REQUEST_LINE, 400),
        (b"GET  / HTTP/1.1", HttpCode.BAD_REQUEST_LINE, 400),
        (b"GET /  HTTP/1.1", HttpCode.BAD_REQUEST_LINE, 400),
        (b" GET / HTTP/1.1", HttpCode.BAD_REQUEST_LINE, 400),
        (b"GET / HTTP/1.1 ", HttpCode.BAD_REQUEST_LINE, 400),
        (b"GET\t/\tHTTP/1.1", HttpCode.BAD_REQUEST_LINE, 400),
        (b"GET / http/1.1", HttpCode.BAD_REQUEST_LINE, 400),
        (b"GET / RTSP/1.0", HttpCode.BAD_REQUEST_LINE, 400),
        (b"GET / HTTP/", HttpCode.BAD_REQUEST_LINE, 400),
        (b"GET / HTTP/1.", HttpCode.BAD_REQUEST_LINE, 400),
        (b"GET / HTTP/1.1x", HttpCode.BAD_REQUEST_LINE, 400),
        (b"GET / HTTP/2.0", HttpCode.BAD_VERSION, 505),
        (b"GET / HTTP/0.9", HttpCode.BAD_VERSION, 505),
        (b"GET / HTTP/1.2", HttpCode.BAD_VERSION, 505),
        (b"GET / HTTP/1.10", HttpCode.BAD_VERSION, 505),
        (b"GET / HTTP/01.1", HttpCode.BAD_VERSION, 505),
        (b"GET / HTTP/1", HttpCode.BAD_VERSION, 505),
        (b"PRI * HTTP/2.0", HttpCode.BAD_VERSION, 505),
        (b"PRI * HTTP/1.1", HttpCode.BAD_TARGET_FORM, 400),
        (b"G(T / HTTP/1.1", HttpCode.BAD_METHOD, 400),
        (b"M" * 33 + b" / HTTP/1.1", HttpCode.BAD_METHOD, 400),
        (b"\xc3\xa9 / HTTP/1.1", HttpCode.BAD_METHOD, 400),
        (b"GET x HTTP/1.1", HttpCode.BAD_TARGET_FORM, 400),
        (b"GET /\x80 HTTP/1.1", HttpCode.BAD_TARGET, 400),
        (b"GET /#x HTTP/1.1", HttpCode.BAD_TARGET, 400),
        (b"CONNECT / HTTP/1.1", HttpCode.BAD_TARGET_FORM, 400),
    ],
)
def test_threat_34_request_lines(line: bytes, code: HttpCode, status: int) -> None:
    assert refused(requests(get(line=line)), code, status)


@pytest.mark.threat(34)
def test_threat_34_another_protocol_is_refused_at_its_first_line() -> None:
    assert refused(requests(b"GET /\r\n"), HttpCode.BAD_REQUEST_LINE)
    assert refused(requests(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"), HttpCode.BAD_VERSION, 505)
    assert refused(requests(b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03"), HttpCode.CONTROL_BYTE)


@pytest.mark.threat(35)
@pytest.mark.parametrize("coding", [b"chunked", b"identity", b"gzip, chunked"])
def test_threat_35_transfer_encoding_in_http_1_0(coding: bytes) -> None:
    data = get(b"Transfer-Encoding: " + coding, line=b"POST / HTTP/1.0", body=b"0\r\n\r\n")
    assert refused(requests(data), HttpCode.TRANSFER_ENCODING_HTTP10)


@pytest.mark.threat(47)
@pytest.mark.parametrize(
    ("data", "code", "status"),
    [
        (get(b"X: " + b"y" * 200_000), HttpCode.HEAD_TOO_LARGE, 431),
        (get(b"X: " + b"y" * 1_000_000)[:-4], HttpCode.HEAD_TOO_LARGE, 431),
        (get(*[b"X%d: y" % number for number in range(5000)]), HttpCode.TOO_MANY_FIELDS, 431),
        (get(*[b"X: y"] * 10_000)[:-4], HttpCode.TOO_MANY_FIELDS, 431),
        (get(line=b"GET /" + b"x" * 100_000 + b" HTTP/1.1"), HttpCode.TARGET_TOO_LONG, 414),
        (b"GET /" + b"x" * 100_000, HttpCode.TARGET_TOO_LONG, 414),
        (b"GET http://" + b"x" * 100_000, HttpCode.TARGET_TOO_LONG, 414),
        (b"x" * 100_000, HttpCode.HEAD_TOO_LARGE, 431),
        (b"GET / HTTP/1.1\r\n" + b"x" * 100_000, HttpCode.HEAD_TOO_LARGE, 431),
    ],
    ids=range(9),
)
def test_threat_47_a_head_is_bounded(data: bytes, code: HttpCode, status: int) -> None:
    assert refused(requests(data), code, status)


# --- responses -----------------------------------------------------------------------------------------------------------


def test_a_response_head_is_taken_apart() -> None:
    head = scan_response(ok(b"Content-Length: 3", b"X:\xff "), b"GET", LIMITS)
    assert head == ResponseHead(
        status=200,
        reason=b"OK",
        minor=1,
        fields=[(b"content-length", b"Content-Length", b"3"), (b"x", b"X", b"\xff")],
        framing=Framing.LENGTH,
        length=3,
        keep_alive=True,
        connection=frozenset(),
    )


@pytest.mark.parametrize(
    ("line", "status", "reason", "minor"),
    [
        (b"HTTP/1.1 200 OK", 200, b"OK", 1),
        (b"HTTP/1.0 404 Not\tthere \xe9", 404, b"Not\tthere \xe9", 0),
        (b"HTTP/1.1 599 ", 599, b"", 1),
        (b"HTTP/1.1 599", 599, b"", 1),
        (b"HTTP/1.1 100", 100, b"", 1),
    ],
)
def test_status_lines(line: bytes, status: int, reason: bytes, minor: int) -> None:
    head = scan_response(ok(line=line), b"GET", LIMITS)
    assert (head.status, head.reason, head.minor) == (status, reason, minor)


@pytest.mark.parametrize(
    ("method", "line", "fields", "framing", "length", "keep_alive"),
    [
        (b"GET", b"HTTP/1.1 200", [b"Content-Length: 5"], Framing.LENGTH, 5, True),
        (b"GET", b"HTTP/1.1 200", [b"Content-Length: 0"], Framing.LENGTH, 0, True),
        (b"GET", b"HTTP/1.1 200", [b"Transfer-Encoding: Chunked"], Framing.CHUNKED, 0, True),
        (b"GET", b"HTTP/1.1 200", [], Framing.CLOSE, -1, False),
        (b"GET", b"HTTP/1.0 200", [], Framing.CLOSE, -1, False),
        (b"GET", b"HTTP/1.0 200", [b"Content-Length: 5"], Framing.LENGTH, 5, False),
        (b"GET", b"HTTP/1.0 200", [b"Content-Length: 5", b"Connection: keep-alive"], Framing.LENGTH, 5, True),
        (b"GET", b"HTTP/1.1 200", [b"Content-Length: 5", b"Connection: close"], Framing.LENGTH, 5, False),
        (b"HEAD", b"HTTP/1.1 200", [b"Content-Length: 5"], Framing.NONE, 5, True),
        (b"HEAD", b"HTTP/1.1 200", [b"Transfer-Encoding: chunked"], Framing.NONE, -1, True),
        (b"HEAD", b"HTTP/1.1 200", [], Framing.NONE, -1, True),
        (b"GET", b"HTTP/1.1 304", [b"Content-Length: 5"], Framing.NONE, 5, True),
        (b"GET", b"HTTP/1.1 304", [b"Transfer-Encoding: chunked"], Framing.NONE, -1, True),
        (b"GET", b"HTTP/1.1 304", [], Framing.NONE, -1, True),
        (b"GET", b"HTTP/1.1 204", [], Framing.NONE, -1, True),
        (b"GET", b"HTTP/1.1 204", [b"Content-Length: 0"], Framing.NONE, -1, True),
        (b"GET", b"HTTP/1.1 100", [], Framing.NONE, -1, True),
    ],
)
def test_framing_of_a_response(
    method: bytes, line: bytes, fields: list[bytes], framing: Framing, length: int, keep_alive: bool
) -> None:
    head = scan_response(ok(*fields, line=line), method, LIMITS)
    assert (head.framing, head.length, head.keep_alive) == (framing, length, keep_alive)


@pytest.mark.threat(37)
@pytest.mark.parametrize(
    ("data", "code"),
    [
        (ok(b"Content-Length: 5", b"Transfer-Encoding: chunked"), HttpCode.BOTH_LENGTHS),
        (ok(b"Content-Length: 5", b"Content-Length: 5"), HttpCode.DUPLICATE_CONTENT_LENGTH),
        (ok(b"Content-Length: 5", b"Content-Length: 6"), HttpCode.DUPLICATE_CONTENT_LENGTH),
        (ok(b"Content-Length: +5"), HttpCode.BAD_CONTENT_LENGTH),
        (ok(b"Transfer-Encoding: gzip"), HttpCode.BAD_TRANSFER_ENCODING),
        (ok(b"Transfer-Encoding: gzip, chunked"), HttpCode.UNSUPPORTED_TRANSFER_ENCODING),
        (ok(b"Transfer-Encoding: chunked", line=b"HTTP/1.0 200 OK"), HttpCode.TRANSFER_ENCODING_HTTP10),
        (ok(b"Content_Length: 5"), HttpCode.FRAMING_LOOKALIKE),
        (ok(b"X: a\rb"), HttpCode.BARE_CR),
        (ok(b"X: a\nY: b"), HttpCode.BARE_LF),
        (ok(b"X: \x00"), HttpCode.CONTROL_BYTE),
        (ok(b"X : a"), HttpCode.SPACE_BEFORE_COLON),
        (ok(b"X: a", b" b"), HttpCode.OBS_FOLD),
        (ok(b"X"), HttpCode.BAD_FIELD),
        (ok(line=b"HTTP/1.1 600 "), HttpCode.BAD_STATUS_LINE),
        (ok(line=b"HTTP/1.1 099 "), HttpCode.BAD_STATUS_LINE),
        (ok(line=b"HTTP/1.1 20 OK"), HttpCode.BAD_STATUS_LINE),
        (ok(line=b"HTTP/1.1 2000 OK"), HttpCode.BAD_STATUS_LINE),
        (ok(line=b"HTTP/1.1 200OK"), HttpCode.BAD_STATUS_LINE),
        (ok(line=b"HTTP/1.1  200 OK"), HttpCode.BAD_STATUS_LINE),
        (ok(line=b"HTTP/2 200"), HttpCode.BAD_STATUS_LINE),
        (ok(line=b"HTTP/1.2 200 OK"), HttpCode.BAD_STATUS_LINE),
        (ok(line=b"ICY 200 OK"), HttpCode.BAD_STATUS_LINE),
        (b"\r\n" + ok(), HttpCode.BAD_STATUS_LINE),
        (b"<html>\r\n", HttpCode.BAD_STATUS_LINE),
        (ok(b"Content-Length: 5", line=b"HTTP/1.1 204 "), HttpCode.FORBIDDEN_BODY),
        (ok(b"Transfer-Encoding: chunked", line=b"HTTP/1.1 204 "), HttpCode.FORBIDDEN_BODY),
        (ok(b"Transfer-Encoding: chunked", line=b"HTTP/1.1 103 "), HttpCode.FORBIDDEN_BODY),
        (ok(b"Content-Length: 5", line=b"HTTP/1.1 100 "), HttpCode.FORBIDDEN_BODY),
        (ok(b"X: " + b"y" * 100_000), HttpCode.HEAD_TOO_LARGE),
        (ok(*[b"X: y"] * 200), HttpCode.TOO_MANY_FIELDS),
    ],
    ids=range(31),
)
def test_threat_37_a_bad_response_head_is_502(data: bytes, code: HttpCode) -> None:
    assert refused(response(data), code, 502)


def test_a_response_error_is_the_upstreams_also_when_scanned_alone() -> None:
    with pytest.raises(ResponseError) as caught:
        scan_response(ok(b"X : y"), b"GET", LIMITS)
    assert (caught.value.code, caught.value.status) == (HttpCode.SPACE_BEFORE_COLON, 502)


# --- trailers ------------------------------------------------------------------------------------------------------------


def test_trailers_are_fields() -> None:
    assert scan_trailers(b"\r\n\r\n", LIMITS) == []
    assert scan_trailers(b"\r\nA: b \r\nHost: x\r\n\r\n", LIMITS) == [(b"a", b"A", b"b"), (b"host", b"Host", b"x")]


@pytest.mark.parametrize(
    ("block", "limits", "code"),
    [
        (b"\r\nA : b\r\n\r\n", LIMITS, HttpCode.SPACE_BEFORE_COLON),
        (b"\r\nA: \n\r\n\r\n", LIMITS, HttpCode.BARE_LF),
        (b"\r\nA: b\r\n\r\n", HttpLimits(trailer_bytes=7), HttpCode.TRAILERS_TOO_LARGE),
        (b"\r\nA:\r\nB:\r\n\r\n", HttpLimits(fields=1), HttpCode.TOO_MANY_TRAILERS),
    ],
)
def test_bad_trailers(block: bytes, limits: HttpLimits, code: HttpCode) -> None:
    with pytest.raises(HttpError) as caught:
        scan_trailers(block, limits)
    assert caught.value.code is code

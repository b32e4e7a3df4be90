from hashlib import sha256

import pytest

from sidecar.http.limits import HttpLimits
from sidecar.http.scanner import scan_request
from sidecar.http.trace import make, parse, same_form, session_id

TRACE, SPAN = "4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7"
VALUE = f"00-{TRACE}-{SPAN}-01".encode()


@pytest.mark.parametrize(
    "value",
    [
        VALUE,
        f"00-{TRACE}-{SPAN}-00".encode(),
        f"00-{TRACE}-{SPAN}-ff".encode(),
        f"01-{TRACE}-{SPAN}-01".encode(),
        f"cc-{TRACE}-{SPAN}-01-what-comes-later".encode(),
        f"cc-{TRACE}-{SPAN}-01-".encode(),
    ],
)
def test_a_trace_id_is_found(value: bytes) -> None:
    assert parse(value) == TRACE


@pytest.mark.parametrize(
    "value",
    [
        b"",
        b"00",
        VALUE[:-1],
        VALUE + b"0",
        VALUE + b"-",
        VALUE + b"-x",
        VALUE.upper(),
        b" " + VALUE,
        VALUE.replace(b"-", b"_"),
        f"ff-{TRACE}-{SPAN}-01".encode(),
        f"0-{TRACE}-{SPAN}-01".encode(),
        f"0g-{TRACE}-{SPAN}-01".encode(),
        f"00-{'0' * 32}-{SPAN}-01".encode(),
        f"00-{TRACE}-{'0' * 16}-01".encode(),
        f"00-{TRACE[:-1]}-{SPAN}-01".encode(),
        f"00-{TRACE}-{SPAN}-0g".encode(),
        f"cc-{TRACE}-{SPAN}-01x".encode(),
    ],
)
def test_what_is_no_traceparent(value: bytes) -> None:
    assert parse(value) is None


def test_what_is_made_can_be_parsed() -> None:
    assert make(TRACE, SPAN) == f"00-{TRACE}-{SPAN}-00".encode()
    assert parse(make(TRACE, SPAN)) == TRACE


@pytest.mark.parametrize(
    ("values", "expected"),
    [([VALUE], VALUE), ([VALUE, VALUE], b""), ([VALUE] * 3, b""), ([b"x"], b""), ([b""], b""), ([], b"")],
)
def test_the_trace_of_a_message(values: list[bytes], expected: bytes) -> None:
    lines = b"".join(b"TraceParent: %b\r\n" % value for value in values)
    head = scan_request(b"GET / HTTP/1.1\r\nHost: a\r\n%b\r\n" % lines, HttpLimits())
    assert head.trace == expected


def test_values_of_one_form_can_stand_for_each_other() -> None:
    assert same_form(VALUE)
    assert parse(f"01-{TRACE}-{SPAN}-01".encode()) is not None
    assert not same_form(f"01-{TRACE}-{SPAN}-01".encode())
    assert not same_form(VALUE + b" ")
    assert not same_form(VALUE.replace(TRACE.encode(), b"0" * 32))
    assert not same_form(VALUE.replace(SPAN.encode(), b"0" * 16))


def field(name: bytes, value: bytes) -> tuple[bytes, bytes, bytes]:
    return name.lower(), name, value


def test_an_mcp_session_is_a_credential_and_only_its_digest_is_told() -> None:
    found = session_id([field(b"X-Session-Id", b"plain"), field(b"Mcp-Session-Id", b"secret")])
    assert found == sha256(b"secret").hexdigest()[:16]


@pytest.mark.parametrize("value", [b"a", b"a.b-c_d~1", b"x" * 128])
def test_another_session_goes_as_it_is(value: bytes) -> None:
    assert session_id([field(b"X-Session-Id", value), field(b"X-Session-Id", b"second")]) == value.decode()


@pytest.mark.parametrize("value", [b"", b"x" * 129, b"a b", b"a,b", b"a\xff", b'"', b"a\tb"])
def test_what_is_no_session(value: bytes) -> None:
    assert session_id([field(b"X-Session-Id", value)]) is None
    assert session_id([field(b"Other", value)]) is None

import pytest

from sidecar.http.controls import check_host, read_controls, read_framing
from sidecar.http.errors import HttpCode, HttpError
from sidecar.http.messages import Framing, TargetForm


def test_controls_are_sorted_out() -> None:
    found = [
        (b"host", b"A"),
        (b"connection", b"close"),
        (b"content-length", b"5"),
        (b"connection", b" TE,, Keep-Alive "),
        (b"transfer-encoding", b"x"),
        (b"expect", b"a"),
        (b"expect", b"b"),
    ]
    assert read_controls(found) == (b"A", b"5", b"x", frozenset({b"close", b"te", b"keep-alive"}), b"a, b", b"")


def test_no_controls() -> None:
    assert read_controls([]) == (None, None, None, frozenset(), None, b"")


@pytest.mark.parametrize(
    ("name", "code"),
    [
        (b"host", HttpCode.DUPLICATE_HOST),
        (b"content-length", HttpCode.DUPLICATE_CONTENT_LENGTH),
        (b"transfer-encoding", HttpCode.DUPLICATE_TRANSFER_ENCODING),
    ],
)
def test_some_may_be_there_once(name: bytes, code: HttpCode) -> None:
    with pytest.raises(HttpError) as caught:
        read_controls([(name, b"1"), (name, b"1")])
    assert caught.value.code is code


@pytest.mark.parametrize("name", [b"content_length", b"transfer_encoding"])
def test_look_alikes_of_framing_are_refused(name: bytes) -> None:
    with pytest.raises(HttpError) as caught:
        read_controls([(name, b"1")])
    assert caught.value.code is HttpCode.FRAMING_LOOKALIKE


@pytest.mark.parametrize(
    ("value", "options"),
    [
        (b"close", {b"close"}),
        (b"Keep-Alive", {b"keep-alive"}),
        (b"", set()),
        (b" ,\t, ", set()),
        (b"close, X-A,close", {b"close", b"x-a"}),
    ],
)
def test_connection_options(value: bytes, options: set[bytes]) -> None:
    assert read_controls([(b"connection", value)]).options == options


@pytest.mark.parametrize(
    ("host", "minor", "form", "authority", "scheme", "result"),
    [
        (b"A:1", 1, TargetForm.ORIGIN, b"", b"", b"a:1"),
        (b"a", 0, TargetForm.ORIGIN, b"", b"", b"a"),
        (None, 0, TargetForm.ORIGIN, b"", b"", b""),
        (None, 0, TargetForm.ABSOLUTE, b"b", b"http", b"b"),
        (b"A", 1, TargetForm.ABSOLUTE, b"a:80", b"http", b"a"),
        (b"a:443", 1, TargetForm.AUTHORITY, b"a:443", b"", b"a:443"),
        (b"a", 1, TargetForm.ASTERISK, b"", b"", b"a"),
        (None, 1, TargetForm.ORIGIN, b"", b"", HttpCode.MISSING_HOST),
        (None, 1, TargetForm.ABSOLUTE, b"a", b"http", HttpCode.MISSING_HOST),
        (b"", 1, TargetForm.ORIGIN, b"", b"", HttpCode.BAD_HOST),
        (b"", 0, TargetForm.ORIGIN, b"", b"", HttpCode.BAD_HOST),
        (b"b", 1, TargetForm.ABSOLUTE, b"a", b"http", HttpCode.HOST_MISMATCH),
        (b"b", 0, TargetForm.ABSOLUTE, b"a", b"http", HttpCode.HOST_MISMATCH),
        (b"a", 1, TargetForm.AUTHORITY, b"a:443", b"", b"a:443"),
        (b"a", 1, TargetForm.AUTHORITY, b"a:80", b"", b"a:80"),
        (b"a", 1, TargetForm.AUTHORITY, b"a:8080", b"", HttpCode.HOST_MISMATCH),
        (b"b", 1, TargetForm.AUTHORITY, b"a:443", b"", HttpCode.HOST_MISMATCH),
    ],
)
def test_one_authority(
    host: bytes | None, minor: int, form: TargetForm, authority: bytes, scheme: bytes, result: bytes | HttpCode
) -> None:
    if isinstance(result, bytes):
        assert check_host(host, minor, form, authority, scheme) == result
        return
    with pytest.raises(HttpError) as caught:
        check_host(host, minor, form, authority, scheme)
    assert caught.value.code is result


@pytest.mark.parametrize(
    ("length", "coding", "minor", "result"),
    [
        (None, None, 1, (Framing.NONE, 0)),
        (b"0", None, 1, (Framing.LENGTH, 0)),
        (b"007", None, 0, (Framing.LENGTH, 7)),
        (b"9223372036854775807", None, 1, (Framing.LENGTH, 2**63 - 1)),
        (b"9223372036854775808", None, 1, HttpCode.BAD_CONTENT_LENGTH),
        (b"00000000000000000005", None, 1, HttpCode.BAD_CONTENT_LENGTH),
        (b"", None, 1, HttpCode.BAD_CONTENT_LENGTH),
        (b"5, 5", None, 1, HttpCode.BAD_CONTENT_LENGTH),
        (None, b"chunked", 1, (Framing.CHUNKED, 0)),
        (None, b"CHUNKED", 1, (Framing.CHUNKED, 0)),
        (None, b"chunked", 0, HttpCode.TRANSFER_ENCODING_HTTP10),
        (b"5", b"chunked", 1, HttpCode.BOTH_LENGTHS),
        (b"5", b"identity", 0, HttpCode.BOTH_LENGTHS),
        (None, b"gzip, chunked", 1, HttpCode.UNSUPPORTED_TRANSFER_ENCODING),
        (None, b"a,b ,\tchunked", 1, HttpCode.UNSUPPORTED_TRANSFER_ENCODING),
        (None, b"chunked, chunked", 1, HttpCode.BAD_TRANSFER_ENCODING),
        (None, b"gzip", 1, HttpCode.BAD_TRANSFER_ENCODING),
        (None, b"", 1, HttpCode.BAD_TRANSFER_ENCODING),
    ],
)
def test_framing(
    length: bytes | None, coding: bytes | None, minor: int, result: tuple[Framing, int] | HttpCode
) -> None:
    if isinstance(result, tuple):
        assert read_framing(length, coding, minor) == result
        return
    with pytest.raises(HttpError) as caught:
        read_framing(length, coding, minor)
    assert caught.value.code is result

import pytest

from sidecar.errors import Fault, PeerError
from sidecar.http.errors import HttpCode, HttpError, ResponseError


@pytest.mark.parametrize(
    ("code", "status"),
    [
        (HttpCode.TARGET_TOO_LONG, 414),
        (HttpCode.HEAD_TOO_LARGE, 431),
        (HttpCode.TOO_MANY_FIELDS, 431),
        (HttpCode.TRAILERS_TOO_LARGE, 431),
        (HttpCode.TOO_MANY_TRAILERS, 431),
        (HttpCode.UNSUPPORTED_TRANSFER_ENCODING, 501),
        (HttpCode.BAD_VERSION, 505),
        (HttpCode.BOTH_LENGTHS, 400),
        (HttpCode.TRUNCATED_BODY, 400),
    ],
)
def test_a_request_error_knows_its_answer(code: HttpCode, status: int) -> None:
    error = HttpError(code, "why")
    assert (error.code, error.status, error.fault, str(error)) == (code, status, Fault.PEER, "why")
    assert isinstance(error, PeerError)


@pytest.mark.parametrize("code", list(HttpCode))
def test_every_response_error_is_502_and_the_upstreams_fault(code: HttpCode) -> None:
    error = ResponseError(code, "why")
    assert (error.code, error.status, error.fault) == (code, 502, Fault.UPSTREAM)
    assert isinstance(error, HttpError)


def test_codes_are_words_for_logs() -> None:
    assert all(code.value == code.name.lower() for code in HttpCode)

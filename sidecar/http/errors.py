"""Why a message is refused: one stable code a defect, and the status that answers it."""

from __future__ import annotations

from enum import StrEnum
from typing import ClassVar, Final

from sidecar.errors import Fault, PeerError


class HttpCode(StrEnum):
    """One value a defect. The value goes to logs and metrics and is never renamed."""

    # the head as bytes
    BARE_LF = "bare_lf"
    BARE_CR = "bare_cr"
    CONTROL_BYTE = "control_byte"
    HEAD_TOO_LARGE = "head_too_large"
    TOO_MANY_FIELDS = "too_many_fields"
    TARGET_TOO_LONG = "target_too_long"
    # the request line
    BAD_REQUEST_LINE = "bad_request_line"
    BAD_METHOD = "bad_method"
    BAD_TARGET = "bad_target"
    BAD_TARGET_FORM = "bad_target_form"
    BAD_SCHEME = "bad_scheme"
    SECURE_SCHEME_ON_PLAINTEXT = "secure_scheme_on_plaintext"
    BAD_AUTHORITY = "bad_authority"
    BAD_VERSION = "bad_version"
    # the status line
    BAD_STATUS_LINE = "bad_status_line"
    # fields
    BAD_FIELD = "bad_field"
    BAD_FIELD_NAME = "bad_field_name"
    EMPTY_FIELD_NAME = "empty_field_name"
    SPACE_BEFORE_COLON = "space_before_colon"
    OBS_FOLD = "obs_fold"
    # Host
    MISSING_HOST = "missing_host"
    DUPLICATE_HOST = "duplicate_host"
    BAD_HOST = "bad_host"
    HOST_MISMATCH = "host_mismatch"
    # Authorization
    DUPLICATE_AUTHORIZATION = "duplicate_authorization"
    # framing
    BOTH_LENGTHS = "both_lengths"
    BAD_CONTENT_LENGTH = "bad_content_length"
    DUPLICATE_CONTENT_LENGTH = "duplicate_content_length"
    BAD_TRANSFER_ENCODING = "bad_transfer_encoding"
    UNSUPPORTED_TRANSFER_ENCODING = "unsupported_transfer_encoding"
    DUPLICATE_TRANSFER_ENCODING = "duplicate_transfer_encoding"
    TRANSFER_ENCODING_HTTP10 = "transfer_encoding_http10"
    FRAMING_LOOKALIKE = "framing_lookalike"
    FORBIDDEN_BODY = "forbidden_body"
    # the chunked coding
    BAD_CHUNK_SIZE = "bad_chunk_size"
    CHUNK_LINE_TOO_LONG = "chunk_line_too_long"
    BAD_CHUNK_END = "bad_chunk_end"
    TRAILERS_TOO_LARGE = "trailers_too_large"
    TOO_MANY_TRAILERS = "too_many_trailers"
    BODY_DISAGREEMENT = "body_disagreement"
    # the connection
    TRUNCATED_HEAD = "truncated_head"
    TRUNCATED_BODY = "truncated_body"
    NO_RESPONSE = "no_response"
    UNSOLICITED_BYTES = "unsolicited_bytes"
    UNSOLICITED_UPGRADE = "unsolicited_upgrade"
    BAD_UPGRADE = "bad_upgrade"
    TOO_MANY_INFORMATIONAL = "too_many_informational"


# RFC 9110 section 15; what is not named here is 400.
_STATUS: Final[dict[HttpCode, int]] = {
    HttpCode.TARGET_TOO_LONG: 414,
    HttpCode.HEAD_TOO_LARGE: 431,
    HttpCode.TOO_MANY_FIELDS: 431,
    HttpCode.TRAILERS_TOO_LARGE: 431,
    HttpCode.TOO_MANY_TRAILERS: 431,
    HttpCode.UNSUPPORTED_TRANSFER_ENCODING: 501,
    HttpCode.BAD_VERSION: 505,
}


class HttpError(PeerError):
    """What the peer sent is not a message that may be passed on; the connection must not be read any further.

    ``code`` is an :class:`HttpCode`; ``status`` is the answer to a request (400, 414, 431, 501 or 505).
    """

    code: HttpCode
    status: int

    def __init__(self, code: HttpCode, message: str) -> None:
        super().__init__(code, message)
        self.status = _STATUS.get(code, 400)


class ResponseError(HttpError):
    """The same about what an upstream sent: ``status`` is always 502, the answer to whoever asked."""

    fault: ClassVar[Fault] = Fault.UPSTREAM

    def __init__(self, code: HttpCode, message: str) -> None:
        super().__init__(code, message)
        self.status = 502

"""Why a token is refused, and why one cannot be had: stable codes."""

from __future__ import annotations

from enum import StrEnum
from typing import Final

from sidecar.errors import PeerError, UpstreamError


class TokenCode(StrEnum):
    """Why a token that arrived does not help its request; part of the log and of metrics, never renamed."""

    #: The request has none.
    MISSING = "token_missing"
    # What it is written like (RFC 7515, RFC 8725).
    TOO_LONG = "token_too_long"
    MALFORMED = "token_malformed"
    DUPLICATE_NAME = "token_duplicate_name"
    ALGORITHM = "token_algorithm"
    CRITICAL = "token_critical"
    EMBEDDED_KEY = "token_embedded_key"
    KEY_ID = "token_key_id"
    TYPE = "token_type"
    # What it says (RFC 7519 4.1).
    ISSUER = "token_issuer"
    SUBJECT = "token_subject"
    AUDIENCE = "token_audience"
    CLAIM = "token_claim"
    EXPIRED = "token_expired"
    NOT_YET_VALID = "token_not_yet_valid"
    ISSUED_IN_FUTURE = "token_issued_in_future"
    # Who signed it.
    KEY_UNKNOWN = "token_key_unknown"
    SIGNATURE = "token_signature"
    CHAIN = "token_chain"
    # Whether it is for this connection, and this request.
    NOT_BOUND = "token_not_bound"
    #: An incident: somebody else's token.
    BOUND_ELSEWHERE = "token_bound_elsewhere"
    #: Bound to the certificate that its owner had until a moment ago.
    ROTATED = "token_rotated"
    LIVES_TOO_LONG = "token_lives_too_long"
    CLAIM_VALUE = "token_claim_value"
    SCOPE = "token_scope"
    #: Nobody can say: the issuer's keys are not to be had. Never for a token that is bad by itself.
    ISSUER_UNAVAILABLE = "issuer_unavailable"


class TokenError(PeerError):
    """A token that is refused. Messages never hold any part of it."""

    def __init__(self, code: TokenCode, message: str) -> None:
        super().__init__(code, message)
        self.code: TokenCode = code


class SourceCode(StrEnum):
    """Why no token, or no key set, can be had; part of the log and of metrics, never renamed."""

    # The way to the issuer.
    UNREACHABLE = "issuer_unreachable"
    TIMEOUT = "issuer_timeout"
    #: The issuer is not who it should be, or does not speak TLS as it must.
    TLS = "issuer_tls"
    #: It answered with a status that is no answer; a redirect is one.
    STATUS = "issuer_status"
    TOO_LARGE = "issuer_answer_too_large"
    #: It answered with what is no JSON object, or lacks what must be in it.
    BAD_ANSWER = "issuer_bad_answer"
    #: Its metadata is about another issuer, or names an endpoint that may not be used.
    METADATA = "issuer_metadata"
    #: It says that we may not have the token (RFC 6749 5.2).
    REFUSED = "issuer_refused"
    #: Too many of our own requests to issuers wait already.
    BUSY = "issuer_queue_full"
    # What came.
    BAD_TOKEN = "token_unusable"  # noqa: S105 - a code
    NOT_BOUND = "token_not_bound_to_us"
    EXPIRED = "token_expired_on_arrival"
    # Sources on this machine.
    FILE = "token_file_unusable"
    COMMAND = "token_command_failed"
    COMMAND_TIMEOUT = "token_command_timeout"
    #: Our own key did not sign.
    SIGNING = "token_signing_failed"
    #: The source failed a moment ago, and is not asked again yet.
    BACKING_OFF = "token_source_backing_off"


#: What is the matter with us or with the configuration, and not with the issuer.
LOCAL: Final = frozenset(
    {SourceCode.BUSY, SourceCode.FILE, SourceCode.COMMAND, SourceCode.COMMAND_TIMEOUT, SourceCode.SIGNING}
)


class SourceError(UpstreamError):
    """No token, or no key set, can be had now. Messages never hold a token, a secret, or what the issuer sent."""

    def __init__(self, code: SourceCode, message: str, *, hint: str = "") -> None:
        super().__init__(code, message, hint=hint)
        self.code: SourceCode = code

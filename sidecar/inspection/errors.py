"""Why there is nothing to show of a peer."""

from __future__ import annotations

from enum import StrEnum

from sidecar.errors import UpstreamError


class InspectCode(StrEnum):
    """Stable codes, also in the JSON output."""

    UNREACHABLE = "peer_unreachable"
    TIMEOUT = "peer_timeout"
    CLOSED = "peer_closed"
    NOT_TLS = "not_tls"
    PLAIN_HTTP = "plain_http"
    TOO_MUCH = "handshake_too_large"
    HANDSHAKE = "handshake_failed"


class InspectError(UpstreamError):
    """The peer shows nothing. Messages hold nothing of what it sent but the words of TLS alerts."""

    def __init__(self, code: InspectCode, message: str, *, hint: str = "") -> None:
        super().__init__(code, message, hint=hint)
        self.code: InspectCode = code

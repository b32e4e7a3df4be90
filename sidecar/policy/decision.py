"""The two possible outcomes of a decision, as values: nothing reaches an upstream without a ``Permit``."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING, NamedTuple, TypeAlias

if TYPE_CHECKING:
    from sidecar.policy.paths import PathCode
    from sidecar.tokens.codes import TokenCode
    from sidecar.tokens.outcome import Admitted, Refused


class Reason(StrEnum):
    """Why a request was denied: stable codes of ``decision.reason`` in the log and of ``denied_total`` in the metrics.

    Ambiguous paths are denied with a code of `PathCode` instead, requests that lack nothing but a token with one of
    `TokenCode`; no value stands in two of them.
    """

    # Inbound, in the order in which they are looked at: the one named is the last step that some rule reached.
    CERTIFICATE_NOT_YET_VALID = "certificate_not_yet_valid"
    CERTIFICATE_EXPIRED = "certificate_expired"
    CALLER_NOT_NAMED = "caller_not_named"
    PIN_MISMATCH = "pin_mismatch"
    METHOD_REFUSED = "method_refused"
    PATH_NOT_ALLOWED = "path_not_allowed"
    METHOD_NOT_ALLOWED = "method_not_allowed"
    # Inbound, where a connection is decided and not a request.
    RULE_NEEDS_REQUEST = "rule_needs_request"
    # Outbound.
    WEB_PAGE = "web_page"
    HOST_MISMATCH = "host_mismatch"
    HOST_NOT_SERVED = "host_not_served"
    PASSTHROUGH_ONLY = "passthrough_only"


DenialReason: TypeAlias = "Reason | PathCode | TokenCode"

#: HTTP status of the answer to a denial. RFC 9110: 15.5.1 (400), 15.5.2 (401), 15.5.4 (403), 15.5.6 (405), 15.6.4 (503).
BAD_REQUEST = 400
UNAUTHORIZED = 401
FORBIDDEN = 403
NOT_ALLOWED = 405
UNAVAILABLE = 503


class Permit(NamedTuple):
    """A decision that lets one request, or one connection, pass.

    ``rule`` is the id of the rule that allowed it, ``admitted`` the token that the rule asked for. ``stolen``: it was allowed
    without a token, and came with somebody else's.
    """

    rule: str
    decision_id: str
    policy_version: str
    admitted: Admitted | None = None
    stolen: Refused | None = None


@dataclass(frozen=True, slots=True)
class Denial:
    """A decision that stops one request, or one connection.

    ``status`` is what an HTTP peer is told; the reason is for the log alone, since a hostile peer probes policy.
    ``refused`` says more where the request lacks nothing but a token.
    """

    reason: DenialReason
    decision_id: str
    policy_version: str
    status: int = FORBIDDEN
    refused: Refused | None = None

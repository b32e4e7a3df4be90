"""What a caller is told about its token: RFC 6750 3, and nothing of rules, scopes or reasons."""

from __future__ import annotations

import pytest

from sidecar.policy.decision import Denial, Reason
from sidecar.policy.paths import PathCode
from sidecar.policy.token_rules import decide_by_token
from sidecar.proxy.challenge import challenge
from sidecar.tokens.codes import TokenCode
from sidecar.tokens.outcome import Refused
from tests.support.jwts import REQUIREMENT

NONE = b'WWW-Authenticate: Bearer realm="sidecar"\r\n'
INVALID = b'WWW-Authenticate: Bearer realm="sidecar", error="invalid_token"\r\n'
SCOPE = b'WWW-Authenticate: Bearer realm="sidecar", error="insufficient_scope"\r\n'


def denied(code: TokenCode) -> Denial:
    """The denial that a rule comes to whose only lack is this."""
    refused = Refused(code, REQUIREMENT, detail="secret")
    verdict = decide_by_token([(0, "r", REQUIREMENT)], None, lambda _: refused, decision_id="d", version="v")
    assert isinstance(verdict, Denial)
    return verdict


@pytest.mark.parametrize("code", list(TokenCode))
def test_the_challenge_of_each_code(code: TokenCode) -> None:
    told = {TokenCode.MISSING: NONE, TokenCode.SCOPE: SCOPE, TokenCode.ISSUER_UNAVAILABLE: b""}
    assert challenge(denied(code)) == told.get(code, INVALID)


@pytest.mark.parametrize("reason", [*Reason, *PathCode])
@pytest.mark.parametrize("status", [400, 403, 405])
def test_a_denial_that_no_token_would_change_has_none(reason: Reason | PathCode, status: int) -> None:
    assert challenge(Denial(reason, "d", "v", status)) == b""

"""Rules that ask for a token: which of them a request meets, and what it is told when it meets none.

A request whose only lack is a token is told so (RFC 6750 3), since its caller may have one: everything else about it was
allowed already. Which requirement it failed, and why, stays in the log.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, TypeAlias

from sidecar.policy.decision import FORBIDDEN, UNAUTHORIZED, UNAVAILABLE, Denial, Permit
from sidecar.tokens.codes import TokenCode
from sidecar.tokens.outcome import Admitted, KeysWanted, Refused

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from sidecar.tokens.requirement import Requirement

#: The position of a rule, its id, and what it asks for.
Asking: TypeAlias = "tuple[int, str, Requirement]"
AskToken: TypeAlias = "Callable[[Requirement], Admitted | Refused | KeysWanted]"

_STATUS: Final = {TokenCode.SCOPE: FORBIDDEN, TokenCode.ISSUER_UNAVAILABLE: UNAVAILABLE}
#: Of several refusals the one that tells most is told: a stolen token before anything, then what is nearest to a permit.
_RANK: Final = {
    TokenCode.BOUND_ELSEWHERE: 0,
    TokenCode.ROTATED: 1,
    TokenCode.SCOPE: 2,
    TokenCode.ISSUER_UNAVAILABLE: 3,
    # How another issuer's token looks to a rule.
    TokenCode.ALGORITHM: 7,
    TokenCode.TYPE: 7,
    TokenCode.ISSUER: 8,
    TokenCode.MISSING: 9,
}
_ANY_OTHER: Final = 5
#: What no other rule about the same issuer can change: they are not asked, so that a bad signature is checked once.
_SETTLED: Final = frozenset(
    {
        TokenCode.MISSING,
        TokenCode.TOO_LONG,
        TokenCode.MALFORMED,
        TokenCode.DUPLICATE_NAME,
        TokenCode.ALGORITHM,
        TokenCode.CRITICAL,
        TokenCode.EMBEDDED_KEY,
        TokenCode.KEY_ID,
        TokenCode.TYPE,
        TokenCode.ISSUER,
        TokenCode.SUBJECT,
        TokenCode.CLAIM,
        TokenCode.EXPIRED,
        TokenCode.NOT_YET_VALID,
        TokenCode.ISSUED_IN_FUTURE,
        TokenCode.KEY_UNKNOWN,
        TokenCode.SIGNATURE,
        TokenCode.CHAIN,
        TokenCode.ISSUER_UNAVAILABLE,
    }
)


def decide_by_token(
    rules: Sequence[Asking],
    free: tuple[int, str] | None,
    ask: AskToken | None,
    *,
    decision_id: str,
    version: str,
) -> Permit | Denial | KeysWanted:
    """Decides a request that ``rules``, in their order, allow with a token, and ``free`` (where there is one) without."""
    told: Refused | None = None
    wanted: KeysWanted | None = None
    settled: tuple[str, ...] = ()
    for position, rule, requirement in rules:
        if free is not None and free[0] < position:
            break
        if requirement.issuer in settled:
            continue
        outcome = Refused(TokenCode.MISSING, requirement) if ask is None else ask(requirement)
        if isinstance(outcome, Admitted):
            return Permit(rule, decision_id, version, outcome)
        if isinstance(outcome, KeysWanted):
            wanted = wanted or outcome
            continue
        if outcome.code in _SETTLED:
            settled += (requirement.issuer,)
        if told is None or _rank(outcome) < _rank(told):
            told = outcome
    if free is not None:
        stolen = told is not None and told.code is TokenCode.BOUND_ELSEWHERE
        return Permit(free[1], decision_id, version, stolen=told if stolen else None)
    if wanted is not None:
        return wanted
    assert told is not None  # noqa: S101 - whoever calls this has rules
    return Denial(told.code, decision_id, version, _STATUS.get(told.code, UNAUTHORIZED), told)


def _rank(refused: Refused) -> int:
    return _RANK.get(refused.code, _ANY_OTHER)

"""Rules that ask for a token, told apart by what the request's token meets: which permit, and which denial, comes of it."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, TypeAlias

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sidecar.policy.decision import Denial, Permit
from sidecar.policy.token_rules import decide_by_token
from sidecar.tokens.codes import TokenCode
from sidecar.tokens.outcome import Admitted, KeysWanted, Refused
from sidecar.tokens.requirement import Requirement
from tests.support import jwts

if TYPE_CHECKING:
    from sidecar.policy.token_rules import Asking

#: What becomes of the token at a rule: it is admitted, keys are wanted, or it is refused with a code.
Fate: TypeAlias = "bool | str"
YES, KEYS = True, "keys"
TOKEN = jwts.verified()


@dataclass
class Asked:
    """Answers as the rules' fates say, and notes which were asked."""

    fates: dict[str, Fate]
    asked: list[str] = field(default_factory=list)

    def __call__(self, requirement: Requirement) -> Admitted | Refused | KeysWanted:
        self.asked.append(requirement.key)
        fate = self.fates[requirement.key]
        if fate is YES:
            return Admitted(requirement, TOKEN)
        return KeysWanted(requirement.issuer) if fate == KEYS else Refused(TokenCode(str(fate)), requirement)


def asking(*fates: Fate | tuple[str, Fate], start: int = 0) -> tuple[list[Asking], Asked]:
    """Rules with these fates, each about an issuer of its own unless one is named."""
    rules: list[Asking] = []
    ask = Asked({})
    for number, fate in enumerate(fates, start):
        issuer, what = fate if isinstance(fate, tuple) else (f"issuer {number}", fate)
        name = f"r{number}"
        rules.append((number, name, Requirement(name, issuer, frozenset({"a"}))))
        ask.fates[name] = what
    return rules, ask


def decide(
    *fates: Fate | tuple[str, Fate], free: tuple[int, str] | None = None, start: int = 0
) -> Permit | Denial | KeysWanted:
    rules, ask = asking(*fates, start=start)
    return decide_by_token(rules, free, ask, decision_id="d", version="v")


def told(*fates: Fate | tuple[str, Fate]) -> tuple[int, TokenCode, str]:
    """Status, code and rule of a denial."""
    verdict = decide(*fates)
    assert isinstance(verdict, Denial)
    assert verdict.refused is not None
    assert (verdict.decision_id, verdict.policy_version) == ("d", "v")
    assert verdict.reason is verdict.refused.code
    return verdict.status, verdict.refused.code, verdict.refused.requirement.key


def test_a_rule_whose_token_holds_allows() -> None:
    verdict = decide("token_audience", YES, YES)
    assert isinstance(verdict, Permit)
    assert (verdict.rule, verdict.decision_id, verdict.policy_version) == ("r1", "d", "v")
    assert verdict.admitted is not None
    assert verdict.admitted.requirement.key == "r1"


@pytest.mark.parametrize("code", list(TokenCode))
def test_what_each_refusal_is_told_as(code: TokenCode) -> None:
    """RFC 6750 3.1; a token that is bad by itself is never a 5xx."""
    status = {TokenCode.SCOPE: 403, TokenCode.ISSUER_UNAVAILABLE: 503}.get(code, 401)
    assert told(code) == (status, code, "r0")


def test_without_anybody_to_ask_no_token_is_there() -> None:
    rules, _ = asking(YES, YES)
    verdict = decide_by_token(rules, None, None, decision_id="d", version="v")
    assert isinstance(verdict, Denial)
    assert (verdict.status, verdict.reason) == (401, TokenCode.MISSING)


@pytest.mark.parametrize(
    ("codes", "first"),
    [
        (["token_missing", "token_issuer"], 1),
        (["token_issuer", "token_type"], 1),
        (["token_issuer", "token_algorithm"], 1),
        (["token_type", "token_expired"], 1),
        (["token_expired", "token_audience"], 0),
        (["token_audience", "token_expired"], 0),
        (["token_signature", "issuer_unavailable"], 1),
        (["issuer_unavailable", "token_scope"], 1),
        (["token_scope", "token_rotated"], 1),
        (["token_rotated", "token_bound_elsewhere"], 1),
        (["token_bound_elsewhere", "token_scope", "token_rotated", "issuer_unavailable"], 0),
    ],
)
def test_of_several_refusals_the_one_that_tells_most_is_told(codes: list[Fate], first: int) -> None:
    assert told(*codes)[1:] == (codes[first], f"r{first}")
    turned = list(reversed(codes))
    if codes[0] != "token_expired" and codes[1] != "token_expired":
        assert told(*turned)[1] == codes[first]


def test_one_permit_makes_up_for_every_refusal() -> None:
    for code in TokenCode:
        assert isinstance(decide(code, YES), Permit)
        assert isinstance(decide(YES, code), Permit)


# -- beside rules that ask for none -----------------------------------------------------------------------------------


def test_a_rule_without_a_token_allows_whatever_the_token_is() -> None:
    for code in (*TokenCode, KEYS):
        verdict = decide(code, free=(9, "free"))
        assert isinstance(verdict, Permit)
        assert verdict[:4] == ("free", "d", "v", None)


def test_the_first_rule_in_order_is_named() -> None:
    assert decide(YES, free=(1, "free")) == decide(YES)
    rules, ask = asking(YES, YES, start=1)
    assert decide_by_token(rules, (0, "free"), ask, decision_id="d", version="v") == Permit("free", "d", "v")
    assert ask.asked == []


def test_rules_behind_a_free_one_are_not_asked() -> None:
    rules, ask = asking("token_audience", YES)
    behind = [rules[0], (5, *rules[1][1:])]
    assert decide_by_token(behind, (3, "free"), ask, decision_id="d", version="v") == Permit("free", "d", "v")
    assert ask.asked == ["r0"]


# -- keys -------------------------------------------------------------------------------------------------------------


def test_keys_are_waited_for_only_if_nothing_else_allows() -> None:
    assert decide(KEYS, YES) == decide("token_issuer", YES)
    assert decide(KEYS, free=(1, "free")) == Permit("free", "d", "v")
    assert decide("token_scope", KEYS, KEYS) == KeysWanted("issuer 1")
    assert decide(KEYS, "token_bound_elsewhere") == KeysWanted("issuer 0")


# -- work -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "code",
    [
        *("token_missing", "token_malformed", "token_signature", "token_chain", "token_issuer", "token_expired"),
        *("token_not_yet_valid", "token_issued_in_future", "token_critical", "token_key_id", "token_embedded_key"),
        *("token_claim", "token_subject"),
    ],
)
def test_what_another_rule_cannot_change_is_asked_once_for_an_issuer(code: str) -> None:
    rules, ask = asking(("a", code), ("a", code), ("b", code), ("a", code), ("b", code))
    decide_by_token(rules, None, ask, decision_id="d", version="v")
    assert ask.asked == ["r0", "r2"]


@pytest.mark.parametrize("code", ["token_audience", "token_scope", "token_claim_value", "token_lives_too_long"])
def test_what_another_rule_may_see_otherwise_is_asked_again(code: str) -> None:
    assert isinstance(decide(("a", code), ("a", YES)), Permit)


@given(st.lists(st.sampled_from([YES, KEYS, *TokenCode]), min_size=1, max_size=6), st.integers(0, 7))
def test_a_request_is_allowed_exactly_if_some_rule_holds(fates: list[Fate], free: int) -> None:
    """Invariant: a permit comes of an admitted token or of a free rule, of the first of these; a denial of neither."""
    spare = (free, "free") if free <= len(fates) else None
    # Positions are doubled, so that the free rule has a place between any two.
    rules, ask = asking(*fates)
    rules = [(2 * position + 1, name, requirement) for position, name, requirement in rules]
    verdict = decide_by_token(rules, spare and (2 * free, "free"), ask, decision_id="d", version="v")
    good = [number for number, fate in enumerate(fates) if fate is YES and (spare is None or number < free)]
    if good:
        assert isinstance(verdict, Permit)
        assert verdict.rule == f"r{good[0]}"
    elif spare is not None:
        assert isinstance(verdict, Permit)
        assert verdict[:4] == ("free", "d", "v", None)
    elif KEYS in fates:
        assert isinstance(verdict, KeysWanted)
    else:
        assert isinstance(verdict, Denial)
        assert verdict.status in {401, 403, 503}
        assert (verdict.status == 503) == (verdict.reason is TokenCode.ISSUER_UNAVAILABLE)


def test_what_passes_without_a_token_and_brings_somebody_elses_is_told() -> None:
    permit = decide(TokenCode.SCOPE, TokenCode.BOUND_ELSEWHERE, free=(9, "free"))
    assert isinstance(permit, Permit)
    assert (permit.rule, permit.admitted) == ("free", None)
    assert permit.stolen is not None
    assert permit.stolen.code is TokenCode.BOUND_ELSEWHERE
    for other in (TokenCode.MISSING, TokenCode.ROTATED, TokenCode.SIGNATURE):
        permit = decide(other, free=(9, "free"))
        assert isinstance(permit, Permit)
        assert permit.stolen is None

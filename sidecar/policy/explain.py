"""Why a caller may do something, or may not: the verdict of the table that the proxy runs, and the rule that comes nearest.

The verdict is `PeerRules.decide`'s own. What is said beside it, which rule comes nearest and what of it does not hold, is
found by asking each rule by itself, condition by condition; a rule of which everything holds is one that the table lets
allow, and the other way round.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from itertools import count
from typing import TYPE_CHECKING, Final

from sidecar.identity.peer import Peer
from sidecar.identity.pins import DIGEST_BYTES, Pin
from sidecar.policy.decision import Denial, Permit
from sidecar.policy.paths import PathError, check_path
from sidecar.policy.table import ASTERISK, REFUSED_METHODS, Table
from sidecar.tokens.outcome import Admitted, KeysWanted
from sidecar.tokens.requirement import Verified

if TYPE_CHECKING:
    from collections.abc import Sequence

    from sidecar.identity.pattern import IdPattern
    from sidecar.identity.spiffe import SpiffeId
    from sidecar.policy.rules import Rule
    from sidecar.tokens.requirement import Requirement

_FOR_EVER: Final = float("inf")


class Condition(StrEnum):
    """What a rule may ask for, in the order in which the table looks at it."""

    CALLER = "caller"
    PIN = "pin"
    PATH = "path"
    METHOD = "method"
    TOKEN = "token"  # noqa: S105 - a condition's name


_STAGES: Final = tuple(Condition)


@dataclass(frozen=True, slots=True)
class Question:
    """May this caller do this? ``pin`` None: the key is not known, and matches no pin.

    ``path`` is without a query. ``token``: as if a token came along that meets whatever is asked of it. ``method`` and
    ``path`` empty: about a connection whose bytes nobody looks into.
    """

    caller: SpiffeId
    pin: Pin | None = None
    method: bytes = b""
    path: bytes = b""
    token: bool = False

    @property
    def about_connection(self) -> bool:
        """Whether there is no request to ask about."""
        return not self.method


@dataclass(frozen=True, slots=True)
class Near:
    """The rule that comes nearest, and what of it does not hold."""

    rule: Rule
    missing: tuple[Condition, ...]


@dataclass(frozen=True, slots=True)
class Explanation:
    """``rule`` is the one that allows. ``near`` is there where a rule could have allowed it, and none does."""

    verdict: Permit | Denial
    rule: Rule | None = None
    near: Near | None = None


def explain(rules: Sequence[Rule], version: str, question: Question) -> Explanation:
    """Decides as the proxy does, certificates and their times aside, and says what comes nearest to a permit."""
    peer = Table.compile(rules, version).for_peer(_peer(question, rules))
    if question.about_connection:
        verdict: Permit | Denial | KeysWanted = peer.decide_connection(decision_id="", now=0)
    else:
        ask = _met if question.token else None
        verdict = peer.decide(question.method, question.path, decision_id="", now=0, ask=ask)
    if isinstance(verdict, KeysWanted):
        raise TypeError("no token that was only supposed needs keys")
    if isinstance(verdict, Permit):
        return Explanation(verdict, rule=next(rule for rule in rules if rule.id == verdict.rule))
    return Explanation(verdict, near=None if _hopeless(question) else nearest(rules, question))


def missing(rule: Rule, question: Question) -> tuple[Condition, ...]:
    """Returns what of a rule does not hold, in the order of `Condition`; nothing where the rule would allow."""
    holds = {
        Condition.CALLER: rule.caller.matches(question.caller),
        Condition.PIN: not rule.pins or question.pin in rule.pins,
        Condition.PATH: not rule.paths or _on_path(rule, question),
        Condition.METHOD: not rule.methods or question.method in rule.methods,
        Condition.TOKEN: rule.token is None or (question.token and not question.about_connection),
    }
    return tuple(condition for condition, met in holds.items() if not met)


def nearest(rules: Sequence[Rule], question: Question) -> Near | None:
    """Returns the rule that gets furthest: whose first unmet condition comes last, of these the one with the fewest.

    Of rules for other callers it is the one whose name has most in common with the caller's; of equal ones the first.
    """
    found = [Near(rule, missing(rule, question)) for rule in rules]
    return min(found, key=lambda near: _distance(near, question), default=None)


def _distance(near: Near, question: Question) -> tuple[int, int, int]:
    stage = _STAGES.index(near.missing[0]) if near.missing else len(_STAGES)
    other_caller = Condition.CALLER in near.missing
    return (-stage, -_in_common(near.rule.caller, question.caller) if other_caller else 0, len(near.missing))


def _hopeless(question: Question) -> bool:
    """Says whether no rule could ever allow this, whoever asks."""
    if question.about_connection or question.path == ASTERISK:
        return False
    try:
        check_path(question.path, strict=True)
    except PathError:
        return True
    return question.method in REFUSED_METHODS


def _in_common(pattern: IdPattern, caller: SpiffeId) -> int:
    """Segments from the left that are the same, the trust domain's counted as one."""
    if pattern.trust_domain != caller.trust_domain:
        return 0
    count = 1
    for one, other in zip(pattern.segments, caller.segments, strict=False):
        if one != other:
            break
        count += 1
    return count


def _on_path(rule: Rule, question: Question) -> bool:
    if question.path == ASTERISK:  # about the server as a whole: only a rule without paths can allow it
        return False
    return any(pattern.matches(question.path) for pattern in rule.paths)


def _peer(question: Question, rules: Sequence[Rule]) -> Peer:
    """What the table needs of a caller. Nobody has proven anything here, and nothing but this module sees it."""
    named = {pin for rule in rules for pin in rule.pins}
    unknown = next(pin for pin in map(_numbered, count()) if pin not in named)
    return Peer(
        id=question.caller,
        pin=question.pin or unknown,
        serial="",
        leaf_sha256=b"",
        not_after=_FOR_EVER,
        not_before=-_FOR_EVER,
    )


def _numbered(number: int) -> Pin:
    return Pin(number.to_bytes(DIGEST_BYTES))


def _met(requirement: Requirement) -> Admitted:
    """Takes a token to be good: what there is of it is never looked at."""
    audience = min(requirement.audience, default="")
    nothing = Verified(
        issuer=requirement.issuer,
        subject=None,
        id=None,
        audience=audience,
        scopes=requirement.scopes,
        issued=0,
        expires=_FOR_EVER,
        not_before=0,
        bound_to=None,
        key_id=None,
        claims={},
    )
    return Admitted(requirement, nothing)

"""What ``sidecar explain`` says of one entry: as lines for people, and as plain data."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from sidecar.config.faults import printable
from sidecar.policy.decision import Permit, Reason
from sidecar.policy.explain import Condition, missing
from sidecar.policy.paths import PathError, check_path
from sidecar.tokens.codes import TokenCode

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from pathlib import Path

    from sidecar.policy.explain import Explanation, Question
    from sidecar.policy.rules import Rule

_SAYS: Final[dict[str, str]] = {
    Reason.CALLER_NOT_NAMED: "no rule names this caller",
    Reason.PIN_MISMATCH: "every rule that names this caller asks for another key",
    Reason.METHOD_REFUSED: "CONNECT and TRACE are refused whatever the rules say",
    Reason.PATH_NOT_ALLOWED: "no rule that names this caller and key allows the path",
    Reason.METHOD_NOT_ALLOWED: "the path is allowed, with other methods",
    Reason.RULE_NEEDS_REQUEST: "no rule that names this caller and key allows a connection whose bytes nobody looks into",
    TokenCode.MISSING: "all that is missing is a token",
}


@dataclass(frozen=True, slots=True)
class Held:
    """One condition of a rule: what it asks for, and whether that is so; ``says`` is what to do where it is not."""

    condition: str
    wanted: str
    holds: bool
    says: str = ""


@dataclass(frozen=True, slots=True)
class Answer:
    """What one entry says. ``rule`` and ``line`` are those of the rule that allows, or that comes nearest.

    ``status`` is what an HTTP client would be answered, None where it is allowed or there is no HTTP. ``leads``: where to.
    """

    entry: str
    asked: str
    allowed: bool
    reason: str = ""
    says: str = ""
    status: int | None = None
    rule: str = ""
    line: int = 0
    conditions: tuple[Held, ...] = ()
    leads: str = ""


def answer_of(entry: str, question: Question, explanation: Explanation, lines: Mapping[str, int]) -> Answer:
    """Puts an explanation into words; ``lines`` says where each rule stands, by its id."""
    asked = "a connection" if question.about_connection else f"{text_of(question.method)} {text_of(question.path)}"
    verdict = explanation.verdict
    if isinstance(verdict, Permit):
        return Answer(entry, asked, allowed=True, rule=verdict.rule, line=lines.get(verdict.rule, 0))
    rule = explanation.near.rule if explanation.near is not None else None
    return Answer(
        entry,
        asked,
        allowed=False,
        reason=str(verdict.reason),
        says=_SAYS.get(verdict.reason) or ambiguity(question.path),
        status=None if question.about_connection else verdict.status,
        rule=rule.id if rule else "",
        line=lines.get(rule.id, 0) if rule else 0,
        conditions=tuple(_conditions(rule, question)) if rule else (),
    )


def lines_of(answer: Answer, file: Path) -> Iterator[str]:
    """Yields what people read of an answer."""
    place = f"{answer.rule} ({printable(file.name)}:{answer.line})" if answer.line else answer.rule
    if answer.allowed:
        yield f"  {answer.entry}: {answer.asked}: allow, by {place}"
        if answer.leads:
            yield f"    {answer.leads}"
        return
    status = f" ({answer.status})" if answer.status else ""
    yield f"  {answer.entry}: {answer.asked}: deny{status}, {answer.reason}: {answer.says}"
    if answer.rule:
        yield f"    nearest: {place}"
    for held in answer.conditions:
        yield f"      {held.condition:7} {held.wanted}: {'holds' if held.holds else 'missing' + held.says}"


def plain(answer: Answer) -> dict[str, Any]:
    """Returns an answer as JSON has it."""
    found: dict[str, Any] = {
        "entry": answer.entry,
        "asked": answer.asked,
        "verdict": "allow" if answer.allowed else "deny",
    }
    place = {"rule": answer.rule, "line": answer.line} if answer.rule else None
    if answer.allowed:
        return found | (place or {}) | ({"leads": answer.leads} if answer.leads else {})
    if place is not None:
        place["conditions"] = [
            {"condition": str(held.condition), "wanted": held.wanted, "holds": held.holds} for held in answer.conditions
        ]
    return found | {"reason": answer.reason, "says": answer.says, "status": answer.status, "nearest": place}


def _conditions(rule: Rule, question: Question) -> Iterator[Held]:
    unmet = missing(rule, question)
    for condition, (wanted, otherwise) in _wanted(rule, question).items():
        holds = condition not in unmet
        yield Held(condition, wanted, holds, "" if holds else otherwise)


def _wanted(rule: Rule, question: Question) -> dict[Condition, tuple[str, str]]:
    """Returns what a rule asks for, and what is said where that is not so."""
    pins = " ".join(sorted(map(str, rule.pins)))
    token = f"one of {rule.token.issuer}" + _scopes(rule) if rule.token else "none"
    key = f", the key has {question.pin}" if question.pin else ", the key is not told: --pin"
    return {
        Condition.CALLER: (str(rule.caller), f", the caller is {question.caller}"),
        Condition.PIN: (pins or "any", key),
        Condition.PATH: (" ".join(map(str, rule.paths)) or "any", f", the path is {text_of(question.path)}"),
        Condition.METHOD: (
            " ".join(sorted(map(text_of, rule.methods))) or "any",
            f", it is {text_of(question.method)}",
        ),
        Condition.TOKEN: (token, ", and not looked at here: --with-token supposes a good one"),
    }


def _scopes(rule: Rule) -> str:
    scopes = sorted(rule.token.scopes) if rule.token else []
    return f" with {' '.join(scopes)}" if scopes else ""


def ambiguity(path: bytes, *, strict: bool = True) -> str:
    """Says what is ambiguous about a path; nothing where nothing is."""
    try:
        check_path(path, strict=strict)
    except PathError as error:
        return f"{error}, which servers read differently: refused whatever the rules say"
    return ""


def text_of(value: bytes) -> str:
    """Returns bytes of a request as people may read them."""
    return printable(value.decode("ascii", "backslashreplace"))

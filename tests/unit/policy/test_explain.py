"""An explanation's verdict is the table's own, and the nearest rule's missing conditions, once met, lead to a permit."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sidecar.identity.pattern import IdPattern, Tail
from sidecar.identity.pins import Pin
from sidecar.identity.spiffe import SpiffeId
from sidecar.policy.decision import Denial, Permit, Reason
from sidecar.policy.explain import Condition, Question, explain, missing, nearest
from sidecar.policy.paths import PathCode
from sidecar.policy.table import Table
from sidecar.tokens.codes import TokenCode
from sidecar.tokens.requirement import Requirement
from tests.support.rules import NOW, PLANNER, pin, proven, rule

if TYPE_CHECKING:
    from sidecar.policy.rules import Rule

CALLERS = [f"spiffe://{domain}/{path}" for domain in ("td", "tx") for path in ("a", "a/b", "a/b/c", "b")]
PATTERNS = [*CALLERS, *(f"{name}{tail}" for name in CALLERS for tail in ("/*", "/**"))]
PATHS = ["/", "/mcp", "/mcp/x", "/mcp/x/y"]
PATH_PATTERNS = ["/", "/mcp", "/mcp/*", "/mcp/**", "/**"]
METHODS = ["GET", "POST", "OPTIONS"]
TOKEN = Requirement("r.token", "corp", frozenset({"a"}), scopes=frozenset({"read"}))

rules_of_any_kind = st.lists(
    st.builds(
        rule,
        st.sampled_from(PATTERNS),
        pins=st.sets(st.integers(0, 2)),
        methods=st.sets(st.sampled_from(METHODS)),
        paths=st.sets(st.sampled_from(PATH_PATTERNS)),
    ).flatmap(lambda made: st.sampled_from([made, replace(made, token=TOKEN)])),
    max_size=6,
).map(lambda rules: [replace(each, id=f"r{n}") for n, each in enumerate(rules)])
requests = st.builds(
    Question,
    st.sampled_from(CALLERS).map(SpiffeId.parse),
    st.none() | st.integers(0, 3).map(pin),
    st.sampled_from([*METHODS, "CONNECT"]).map(str.encode),
    st.sampled_from([*PATHS, "/a/../b"]).map(str.encode),
    st.booleans(),
) | st.builds(
    Question,
    st.sampled_from(CALLERS).map(SpiffeId.parse),
    method=st.just(b"OPTIONS"),
    path=st.just(b"*"),
    token=st.booleans(),
)
connections = st.builds(Question, st.sampled_from(CALLERS).map(SpiffeId.parse), st.none() | st.integers(0, 3).map(pin))
hopeless = (b"CONNECT", b"/a/../b")


def question(caller: str = PLANNER, **more: object) -> Question:
    return replace(Question(SpiffeId.parse(caller), method=b"GET", path=b"/mcp"), **more)


@given(rules_of_any_kind, requests)
def test_the_verdict_is_the_tables(rules: list[Rule], asked: Question) -> None:
    """The same verdict as for a proven peer whose request has no token, or is of no rule that asks for one."""
    if asked.token:
        rules = [replace(each, token=None) for each in rules]
    peer = proven(str(asked.caller))
    # A key that is not told matches no pin of these.
    table = Table.compile(rules, "v").for_peer(replace(peer, pin=asked.pin or pin(9)))
    assert explain(rules, "v", asked).verdict == table.decide(asked.method, asked.path, decision_id="", now=NOW)


@given(rules_of_any_kind, connections)
def test_the_verdict_on_a_connection_is_the_tables(rules: list[Rule], asked: Question) -> None:
    table = Table.compile(rules, "v").for_peer(replace(proven(str(asked.caller)), pin=asked.pin or pin(9)))
    assert explain(rules, "v", asked).verdict == table.decide_connection(decision_id="", now=NOW)


@given(rules_of_any_kind, requests | connections)
def test_it_is_allowed_where_nothing_of_some_rule_is_missing(rules: list[Rule], asked: Question) -> None:
    """The conditions one by one, and the table, agree on every request that any rule could allow."""
    explanation = explain(rules, "v", asked)
    if asked.method in hopeless or asked.path in hopeless:
        assert explanation.near is None
        assert isinstance(explanation.verdict, Denial)
        return
    allowing = [each for each in rules if not missing(each, asked)]
    assert isinstance(explanation.verdict, Permit) is bool(allowing)
    assert explanation.rule == (allowing[0] if allowing else None)
    assert (explanation.near is None) is (bool(allowing) or not rules)


@given(rules_of_any_kind, requests | connections)
def test_what_is_missing_leads_to_a_permit_once_it_is_there(rules: list[Rule], asked: Question) -> None:
    """Meeting the nearest rule's missing conditions, and nothing else, makes the verdict a permit."""
    near = explain(rules, "v", asked).near
    if near is None:
        return
    assert near.missing
    if asked.about_connection and {Condition.PATH, Condition.METHOD, Condition.TOKEN} & set(near.missing):
        return  # of a connection there is nothing to meet them with
    if asked.path == b"*" and Condition.METHOD not in near.missing:
        asked = replace(asked, path=b"*")
    fixed = fix(near.rule, near.missing, asked)
    assert isinstance(explain(rules, "v", fixed).verdict, Permit)


def fix(near: Rule, unmet: tuple[Condition, ...], asked: Question) -> Question:
    for condition in unmet:
        if condition is Condition.CALLER:
            more = {Tail.EXACT: "", Tail.ONE: "/x", Tail.MANY: "/x/y"}[near.caller.tail]
            plain = str(near.caller).removesuffix(near.caller.tail.value)
            asked = replace(asked, caller=SpiffeId.parse(plain + more))
        elif condition is Condition.PIN:
            asked = replace(asked, pin=min(near.pins, key=str))
        elif condition is Condition.METHOD:
            asked = replace(asked, method=min(near.methods))
        elif condition is Condition.PATH:
            path = next(path for path in PATHS if any(pattern.matches(path.encode()) for pattern in near.paths))
            asked = replace(asked, path=path.encode())
        else:
            asked = replace(asked, token=True)
    return asked


@pytest.mark.parametrize(
    ("asked", "reason"),
    [
        (question("spiffe://example.org/agent/other/1"), Reason.CALLER_NOT_NAMED),
        (question("spiffe://example.org/agent/pinned/1"), Reason.PIN_MISMATCH),
        (question(path=b"/other"), Reason.PATH_NOT_ALLOWED),
        (question(method=b"PUT"), Reason.METHOD_NOT_ALLOWED),
        (question("spiffe://example.org/agent/token/1"), TokenCode.MISSING),
    ],
)
def test_the_nearest_rule_lacks_what_the_reason_says(asked: Question, reason: Reason) -> None:
    rules = [
        rule("spiffe://example.org/agent/pinned/1", pins=[1], id="pinned"),
        rule(methods=["GET"], paths=["/mcp"], id="restricted"),
        replace(rule("spiffe://example.org/agent/token/1", id="token"), token=TOKEN),
    ]
    explanation = explain(rules, "v", asked)
    assert isinstance(explanation.verdict, Denial)
    assert explanation.verdict.reason is reason
    assert explanation.near is not None
    of = {
        Condition.CALLER: Reason.CALLER_NOT_NAMED,
        Condition.PIN: Reason.PIN_MISMATCH,
        Condition.PATH: Reason.PATH_NOT_ALLOWED,
        Condition.METHOD: Reason.METHOD_NOT_ALLOWED,
        Condition.TOKEN: TokenCode.MISSING,
    }
    assert [of[condition] for condition in explanation.near.missing] == [reason]


def test_of_rules_for_others_the_name_that_has_most_in_common_is_nearest() -> None:
    rules = [
        rule("spiffe://other.org/agent/planner/2", id="another domain"),
        rule("spiffe://example.org/agent/tools/1", id="another agent"),
        rule("spiffe://example.org/agent/planner/2", methods=["PUT"], id="another instance"),
        rule("spiffe://example.org/agent/planner/3", methods=["PUT"], id="and another"),
    ]
    near = nearest(rules, question())
    assert near is not None
    assert (near.rule.id, near.missing) == ("another instance", (Condition.CALLER, Condition.METHOD))


def test_of_rules_that_get_equally_far_the_one_that_lacks_least_is_nearest() -> None:
    rules = [
        rule(paths=["/x"], methods=["PUT"], id="two"),
        rule(paths=["/x"], id="one"),
        rule(paths=["/y"], id="later"),
    ]
    near = nearest(rules, question())
    assert near is not None
    assert near.rule.id == "one"


def test_a_key_that_is_not_told_matches_no_pin_whatever_it_is() -> None:
    zero, one = Pin(bytes(32)), Pin((1).to_bytes(32))
    rules = [replace(rule(id="odd"), pins=frozenset({zero, one}))]
    verdict = explain(rules, "v", question()).verdict
    assert isinstance(verdict, Denial)
    assert verdict.reason is Reason.PIN_MISMATCH
    assert isinstance(explain(rules, "v", question(pin=zero)).verdict, Permit)


def test_a_path_that_servers_read_differently_is_near_to_no_rule() -> None:
    explanation = explain([rule(paths=["/x"])], "v", question(path=b"/a/../b"))
    assert isinstance(explanation.verdict, Denial)
    assert explanation.verdict.reason is PathCode.DOT_SEGMENT
    assert explanation.near is None


def test_no_rules_at_all_have_no_nearest() -> None:
    assert explain([], "v", question()).near is None


def test_an_allowed_request_names_its_rule() -> None:
    rules = [rule(paths=["/x"], id="no"), rule(id="yes"), rule(id="later")]
    explanation = explain(rules, "v", question())
    assert isinstance(explanation.verdict, Permit)
    assert explanation.verdict.policy_version == "v"
    assert explanation.rule == rules[1]


def test_the_pattern_of_the_tests_is_the_configurations() -> None:
    assert {str(IdPattern.parse(text)) for text in PATTERNS} == set(PATTERNS)

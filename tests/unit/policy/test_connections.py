"""Decisions about connections whose bytes nobody looks into: once each, by who the peer is and nothing else."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sidecar.policy.decision import Permit, Reason
from sidecar.policy.routes import ConnectionRoute
from sidecar.policy.table import Table
from tests.support.rules import NOW, PLANNER, proven, rule

if TYPE_CHECKING:
    from sidecar.policy.rules import Rule

OTHER = "spiffe://example.org/agent/other/1"


def outcome(rules: list[Rule], *, key: int = 1, name: str = PLANNER, now: float = NOW) -> str:
    """Returns the id of the rule that allows, or the reason for the denial."""
    verdict = Table.compile(rules, "v1").for_peer(proven(name, key=key)).decide_connection(decision_id="d", now=now)
    assert (verdict.decision_id, verdict.policy_version) == ("d", "v1")
    return verdict.rule if isinstance(verdict, Permit) else str(verdict.reason)


def test_a_rule_that_names_the_caller_allows_its_connection() -> None:
    assert outcome([rule(OTHER, id="a"), rule(id="b"), rule("spiffe://example.org/agent/**", id="c")]) == "b"
    assert outcome([rule("spiffe://example.org/agent/**", id="c"), rule(id="b")]) == "c", "the first in the file"


def test_nobody_else_is_let_through() -> None:
    assert outcome([]) == Reason.CALLER_NOT_NAMED
    assert outcome([rule()], name=OTHER) == Reason.CALLER_NOT_NAMED


@pytest.mark.threat(13)
def test_threat_13_the_key_is_one_of_the_pins() -> None:
    assert outcome([rule(pins=[2, 1])]) == "rule"
    assert outcome([rule(pins=[2])]) == Reason.PIN_MISMATCH


@pytest.mark.parametrize("parts", [{"methods": ["GET"]}, {"paths": ["/**"]}, {"methods": ["GET"], "paths": ["/a"]}])
def test_a_rule_with_methods_or_paths_never_allows_a_connection(parts: dict[str, list[str]]) -> None:
    """The configuration refuses such a rule; what comes through all the same stays shut."""
    assert outcome([rule(**parts)]) == Reason.RULE_NEEDS_REQUEST  # type: ignore[arg-type]
    assert outcome([rule(**parts, pins=[1])]) == Reason.RULE_NEEDS_REQUEST  # type: ignore[arg-type]
    assert outcome([rule(**parts), rule(id="all")]) == "all"  # type: ignore[arg-type]


def test_another_keys_rule_lends_nothing_to_a_rule_for_requests() -> None:
    assert outcome([rule(methods=["GET"]), rule(pins=[2])]) == Reason.RULE_NEEDS_REQUEST


@pytest.mark.parametrize(
    ("now", "expected"),
    [
        (NOW - 100, "rule"),
        (NOW + 100, "rule"),
        (NOW - 100.1, Reason.CERTIFICATE_NOT_YET_VALID),
        (NOW + 100.1, Reason.CERTIFICATE_EXPIRED),
    ],
)
def test_the_callers_chain_is_valid_now(now: float, expected: str) -> None:
    assert outcome([rule()], now=now) == expected


@given(
    st.lists(
        st.tuples(
            st.sampled_from([PLANNER, OTHER, "spiffe://example.org/agent/planner/*"]),
            st.sampled_from([(), (1,), (2,), (1, 2)]),
            st.sampled_from([(), ("GET",)]),
            st.sampled_from([(), ("/**",)]),
        ),
        max_size=5,
    )
)
def test_a_connection_is_allowed_exactly_if_some_rule_without_conditions_on_requests_names_caller_and_key(
    parts: list[tuple[str, tuple[int, ...], tuple[str, ...], tuple[str, ...]]],
) -> None:
    """Invariant: the compiled table agrees with reading the rules one by one."""
    rules = [rule(c, id=str(n), pins=p, methods=m, paths=q) for n, (c, p, m, q) in enumerate(parts)]
    peer = proven()
    allowing = [
        r.id
        for r in rules
        if r.caller.matches(peer.id) and (not r.pins or peer.pin in r.pins) and not r.methods and not r.paths
    ]
    got = outcome(rules)
    assert got == allowing[0] if allowing else got in set(Reason)


def test_an_outbound_connection_is_permitted_by_its_entry() -> None:
    route = ConnectionRoute("outbound.tools", "v2")
    assert route.decide_connection(decision_id="d") == Permit("outbound.tools", "d", "v2")

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sidecar.policy.decision import Denial, DenialReason, Permit, Reason
from sidecar.policy.paths import PathCode, PathError, check_path
from sidecar.policy.table import Table, decide
from sidecar.tokens.codes import TokenCode
from sidecar.tokens.outcome import Admitted, KeysWanted, Refused
from sidecar.tokens.requirement import Requirement
from tests.support import jwts
from tests.support.rules import NOW, proven, rule

if TYPE_CHECKING:
    from collections.abc import Iterable

    from sidecar.identity.peer import Peer
    from sidecar.policy.rules import Rule
    from sidecar.policy.token_rules import AskToken


def outcome(
    rules: list[Rule], peer: Peer, method: str = "GET", path: str = "/mcp", *, now: float = NOW
) -> str | DenialReason:
    """Returns the id of the rule that allows, or the reason for the denial."""
    verdict = decide(Table.compile(rules, "v1"), peer, method.encode(), path.encode(), decision_id="d", now=now)
    assert verdict.decision_id == "d"
    assert verdict.policy_version == "v1"
    return verdict.rule if isinstance(verdict, Permit) else verdict.reason


def status(rules: list[Rule], method: str, path: str) -> int:
    verdict = decide(Table.compile(rules, "v1"), proven(), method.encode(), path.encode(), decision_id="d", now=NOW)
    return verdict.status if isinstance(verdict, Denial) else 200


def test_an_empty_table_denies() -> None:
    assert outcome([], proven()) is Reason.CALLER_NOT_NAMED
    verdict = decide(Table("v1"), proven(), b"GET", b"/", decision_id="d", now=NOW)
    assert verdict == Denial(Reason.CALLER_NOT_NAMED, "d", "v1", 403)


def test_a_rule_without_restrictions_allows_its_caller_everything() -> None:
    for method, path in (("GET", "/"), ("POST", "/a/b"), ("X-ODD", "/%61"), ("OPTIONS", "*")):
        assert outcome([rule(id="all")], proven(), method, path) == "all"


@pytest.mark.threat(7)
@pytest.mark.parametrize(
    ("caller", "yes", "no"),
    [
        (
            "spiffe://td/agent/a",
            ["spiffe://td/agent/a"],
            [
                "spiffe://td/agent/ab",
                "spiffe://td/agent/a/1",
                "spiffe://td/agent",
                "spiffe://td/agent/A",
                "spiffe://td.evil/agent/a",
                "spiffe://evil-td/agent/a",
                "spiffe://td/evil/agent/a",
                "spiffe://td",
            ],
        ),
        (
            "spiffe://td/agent/a/*",
            ["spiffe://td/agent/a/1", "spiffe://td/agent/a/x"],
            [
                "spiffe://td/agent/a",
                "spiffe://td/agent/ab/1",
                "spiffe://td/agent/a/1/2",
                "spiffe://td.evil/agent/a/1",
                "spiffe://evil-td/agent/a/1",
            ],
        ),
        (
            "spiffe://td/agent/**",
            ["spiffe://td/agent/a", "spiffe://td/agent/a/b/c/d"],
            ["spiffe://td/agent", "spiffe://td/agents/a", "spiffe://td.evil/agent/a", "spiffe://td", "spiffe://tx/a"],
        ),
    ],
)
def test_threat_7_callers_are_compared_in_whole_segments(caller: str, yes: list[str], no: list[str]) -> None:
    assert {outcome([rule(caller, id="r")], proven(name)) for name in yes} == {"r"}
    assert {outcome([rule(caller)], proven(name)) for name in no} == {Reason.CALLER_NOT_NAMED}
    assert {status_of(rule(caller), name) for name in no} == {403}


def status_of(one: Rule, name: str) -> int:
    verdict = decide(Table.compile([one], "v1"), proven(name), b"GET", b"/", decision_id="d", now=NOW)
    assert isinstance(verdict, Denial)
    return verdict.status


@pytest.mark.threat(13)
def test_threat_13_a_pin_is_required_in_addition_to_the_name() -> None:
    rules = [rule(id="pinned", pins=[1])]
    assert outcome(rules, proven(key=1)) == "pinned"
    assert outcome(rules, proven(key=2)) is Reason.PIN_MISMATCH
    assert outcome(rules, proven("spiffe://example.org/agent/other/1", key=1)) is Reason.CALLER_NOT_NAMED


@pytest.mark.threat(13)
def test_threat_13_a_backup_pin_carries_a_peer_through_the_change_of_its_key() -> None:
    rules = [rule(id="pinned", pins=[1, 2])]
    assert [outcome(rules, proven(key=key)) for key in (1, 2, 3)] == ["pinned", "pinned", Reason.PIN_MISMATCH]


@pytest.mark.threat(13)
def test_threat_13_a_rule_with_another_pin_does_not_match_but_others_do() -> None:
    rules = [rule(id="pinned", pins=[1]), rule(id="read", methods=["GET"])]
    assert outcome(rules, proven(key=1), "POST") == "pinned"
    assert outcome(rules, proven(key=2), "GET") == "read"
    assert outcome(rules, proven(key=2), "POST") is Reason.METHOD_NOT_ALLOWED


RULES_FOR_REASONS = [
    rule(id="tools", pins=[1], methods=["GET"], paths=["/tools/**"]),
    rule(id="mcp", pins=[1], methods=["POST"], paths=["/mcp"]),
]


@pytest.mark.parametrize(
    ("peer", "method", "path", "expected"),
    [
        (proven(), "GET", "/tools/x", "tools"),
        (proven(), "POST", "/mcp", "mcp"),
        (proven(), "DELETE", "/mcp", Reason.METHOD_NOT_ALLOWED),
        (proven(), "GET", "/mcp", Reason.METHOD_NOT_ALLOWED),
        (proven(), "get", "/tools/x", Reason.METHOD_NOT_ALLOWED),
        (proven(), "GET", "/other", Reason.PATH_NOT_ALLOWED),
        (proven(), "DELETE", "/other", Reason.PATH_NOT_ALLOWED),
        (proven(), "OPTIONS", "*", Reason.PATH_NOT_ALLOWED),
        (proven(), "TRACE", "/mcp", Reason.METHOD_REFUSED),
        (proven(), "CONNECT", "", Reason.METHOD_REFUSED),
        (proven(), "GET", "/tools/../mcp", PathCode.DOT_SEGMENT),
        (proven(), "GET", "*", PathCode.RELATIVE),
        (proven(key=2), "GET", "/tools/../mcp", Reason.PIN_MISMATCH),
        (proven(key=2), "TRACE", "/tools/x", Reason.PIN_MISMATCH),
        (proven("spiffe://example.org/x"), "CONNECT", "//", Reason.CALLER_NOT_NAMED),
        (proven("spiffe://example.org/x", not_after=NOW - 1), "GET", "/mcp", Reason.CERTIFICATE_EXPIRED),
        (proven(not_before=NOW + 1), "POST", "/mcp", Reason.CERTIFICATE_NOT_YET_VALID),
    ],
)
def test_the_reason_is_the_last_step_that_a_rule_reached(
    peer: Peer, method: str, path: str, expected: str | Reason
) -> None:
    assert outcome(RULES_FOR_REASONS, peer, method, path) == expected


@pytest.mark.parametrize(
    ("method", "path", "expected"),
    [
        ("GET", "/tools/x", 200),
        ("PUT", "/tools/x", 403),
        ("GET", "/x", 403),
        ("GET", "//tools", 400),
        ("TRACE", "/tools/x", 405),
        ("CONNECT", "", 405),
    ],
)
def test_what_the_caller_is_told(method: str, path: str, expected: int) -> None:
    assert status(RULES_FOR_REASONS, method, path) == expected


def test_certificates_are_valid_up_to_and_including_their_last_second() -> None:
    rules = [rule(id="r")]
    peer = proven(not_before=NOW, not_after=NOW + 10)
    moments = (NOW - 0.1, NOW, NOW + 10, NOW + 10.1)
    assert [outcome(rules, peer, now=moment) for moment in moments] == [
        Reason.CERTIFICATE_NOT_YET_VALID,
        "r",
        "r",
        Reason.CERTIFICATE_EXPIRED,
    ]


@pytest.mark.threat(51)
def test_threat_51_a_clock_that_jumped_back_behind_the_certificate_denies() -> None:
    assert outcome([rule()], proven(), now=0.0) is Reason.CERTIFICATE_NOT_YET_VALID


@pytest.mark.threat(16)
@pytest.mark.parametrize(
    ("path", "expected"),
    [
        ("/public/x", 200),
        ("/admin", 403),
        ("/ADMIN", 403),
        ("/%61dmin", 403),
        ("/%2561dmin", 403),
        ("/admin;x", 403),
        ("/admin/", 403),
        ("/publicx", 403),
        ("//admin", 400),
        ("/x/../admin", 400),
        ("/public/../admin", 400),
        ("/public/..;/admin", 400),
        ("/public/%2e%2e/admin", 400),
        ("/public/%2E./admin", 400),
        ("/public/..%2fadmin", 400),
        ("/public/..%5cadmin", 400),
        ("/public/%252e%252e/admin", 200),  # one decoding, as RFC 3986 2.4 demands: the segment's name is "%2e%2e"
        ("/public/..%c0%afadmin", 400),
        ("/public//admin", 400),
        ("/public/;/admin", 400),
        ("/public/./admin", 400),
        ("/admin%2f", 400),
        ("/admin%5c", 400),
        ("/admin\\", 400),
        ("/public\\..\\admin", 400),
        ("/a%00", 400),
        ("/public/a%00.png", 400),
        ("/public/%", 400),
        ("/public/a#b", 400),
        ("/public/a b", 400),
        ("/public/\x80", 400),
        ("http://host/public/x", 400),
        ("", 400),
    ],
)
def test_threat_16_the_decision_is_made_on_exactly_the_bytes_that_are_sent(path: str, expected: int) -> None:
    rules = [rule(paths=["/public/**"])]
    verdict = decide(Table.compile(rules, "v1"), proven(), b"GET", path.encode("latin-1"), decision_id="d", now=NOW)
    assert (verdict.status if isinstance(verdict, Denial) else 200) == expected


@pytest.mark.threat(16)
def test_threat_16_ambiguous_paths_are_refused_where_no_rule_names_paths_too() -> None:
    assert status([rule()], "GET", "/x/../admin") == 400


def test_of_several_rules_the_first_is_named() -> None:
    rules = [
        rule("spiffe://example.org/agent/**", id="below", paths=["/**"]),
        rule("spiffe://example.org/agent/planner/*", id="child"),
        rule(id="exact", paths=["/mcp"]),
    ]
    for shift in range(3):
        turned = rules[shift:] + rules[:shift]
        assert outcome(turned, proven()) == turned[0].id


def test_rules_of_one_caller_add_up() -> None:
    rules = [rule(id="get", methods=["GET"]), rule(id="post", methods=["POST"]), rule(id="again", methods=["GET"])]
    assert [outcome(rules, proven(), method) for method in ("GET", "POST", "PUT")] == [
        "get",
        "post",
        Reason.METHOD_NOT_ALLOWED,
    ]


def test_a_rule_for_any_method_and_one_for_this_are_told_apart_by_their_order() -> None:
    rules = [rule(id="any"), rule(id="get", methods=["GET"])]
    assert [outcome(rules, proven(), method) for method in ("GET", "POST")] == ["any", "any"]
    rules.reverse()
    assert [outcome(rules, proven(), method) for method in ("GET", "POST")] == ["get", "any"]


def test_what_a_table_has_for_a_peer_is_found_once_for_a_connection() -> None:
    table = Table.compile([rule(id="r", paths=["/mcp"])], "v7")
    own = table.for_peer(proven(not_after=NOW + 5))
    assert own.version == "v7"
    assert own.decide(b"GET", b"/mcp", decision_id="1", now=NOW) == Permit("r", "1", "v7")
    assert own.decide(b"GET", b"/x", decision_id="2", now=NOW) == Denial(Reason.PATH_NOT_ALLOWED, "2", "v7")
    # Time goes on while a connection lives: the certificate is looked at in every decision.
    assert own.decide(b"GET", b"/mcp", decision_id="3", now=NOW + 6) == Denial(Reason.CERTIFICATE_EXPIRED, "3", "v7")


CALLERS = st.sampled_from(
    [
        "spiffe://td/a",
        "spiffe://td/a/b",
        "spiffe://td/a/*",
        "spiffe://td/a/**",
        "spiffe://td/a/b/*",
        "spiffe://td/a/b/**",
        "spiffe://te/a/**",
    ]
)
RULES = st.builds(
    rule,
    CALLERS,
    pins=st.sets(st.integers(1, 2), max_size=2),
    methods=st.sets(st.sampled_from(["GET", "POST"]), max_size=2),
    paths=st.lists(
        st.sampled_from(["/", "/x", "/x/", "/x/y", "/*", "/**", "/x/*", "/x/**", "/**/y", "/*/y"]), max_size=3
    ),
)
PEERS = st.builds(
    proven,
    st.sampled_from(["spiffe://td", "spiffe://td/a", "spiffe://td/a/b", "spiffe://td/a/b/c", "spiffe://te/a/b"]),
    key=st.integers(1, 3),
)


def reference(rules: list[Rule], peer: Peer, method: bytes, path: bytes) -> str | DenialReason:
    """The same by looking at one rule after the other."""
    named = [one for one in rules if one.caller.matches(peer.id)]
    if not named:
        return Reason.CALLER_NOT_NAMED
    pinned = [one for one in named if not one.pins or peer.pin in one.pins]
    if not pinned:
        return Reason.PIN_MISMATCH
    if method in {b"CONNECT", b"TRACE"}:
        return Reason.METHOD_REFUSED
    if (method, path) != (b"OPTIONS", b"*"):
        try:
            check_path(path, strict=True)
        except PathError as error:
            return error.code
    placed = [one for one in pinned if not one.paths or any(pattern.matches(path) for pattern in one.paths)]
    if not placed:
        return Reason.PATH_NOT_ALLOWED
    allowing = [one for one in placed if not one.methods or method in one.methods]
    return allowing[0].id if allowing else Reason.METHOD_NOT_ALLOWED


#: Names of tokens that a rule may ask for.
TOKENS = st.sampled_from(["red", "blue"])
VERIFIED = jwts.verified()


def asking(one: Rule, token: str | None) -> Rule:
    """The same rule for requests with that token alone."""
    return replace(one, token=None if token is None else Requirement(token, "corp", frozenset({"a"})))


def meeting(tokens: Iterable[str]) -> AskToken:
    """Asks about a request that has these tokens, of which real ones have but one."""

    def ask(requirement: Requirement) -> Admitted | Refused:
        if requirement.key in tokens:
            return Admitted(requirement, VERIFIED)
        return Refused(TokenCode.AUDIENCE, requirement)

    return ask


ASKING_RULES = st.builds(asking, RULES, st.none() | TOKENS)


@given(
    st.lists(ASKING_RULES, max_size=8),
    PEERS,
    st.sampled_from(["GET", "POST", "OPTIONS", "TRACE"]),
    st.sampled_from(["/", "/x", "/x/", "/x/y", "/y", "/x/y/z", "/x/../y", "*"]),
    st.frozensets(TOKENS),
)
def test_the_compiled_table_decides_as_a_loop_over_the_rules(
    drawn: list[Rule], peer: Peer, method: str, path: str, met: frozenset[str]
) -> None:
    """Look-ups give the rule or reason that looking at every rule in turn gives."""
    rules = [replace(one, id=f"r{i}") for i, one in enumerate(drawn)]
    matching = [one for one in rules if one.token is None or one.token.key in met]
    asked = (peer, method.encode(), path.encode())
    with_any, expected = reference(rules, *asked), reference(matching, *asked)
    if isinstance(expected, Reason | PathCode):
        # Where a rule matches but for its token, that is what is missing.
        expected = with_any if isinstance(with_any, Reason | PathCode) else TokenCode.AUDIENCE
    verdict = decide(
        Table.compile(rules, "v1"), peer, method.encode(), path.encode(), decision_id="d", now=NOW, ask=meeting(met)
    )
    assert not isinstance(verdict, KeysWanted)
    assert (verdict.rule if isinstance(verdict, Permit) else verdict.reason) == expected


@given(
    st.lists(ASKING_RULES, max_size=8),
    PEERS,
    st.sampled_from(["GET", "POST", "OPTIONS", "TRACE", "CONNECT"]) | st.text(max_size=6),
    st.binary(max_size=20) | st.sampled_from([b"/x", b"/x/y", b"*"]),
    st.floats(0, 4e9),
)
def test_a_decision_is_always_given(drawn: list[Rule], peer: Peer, method: str, path: bytes, now: float) -> None:
    """Whatever is asked, decide returns a permit or a denial with a known status; it raises nothing."""
    verdict = decide(Table.compile(drawn, "v"), peer, method.encode(), path, decision_id="d", now=now)
    assert isinstance(verdict, Permit) or (isinstance(verdict, Denial) and verdict.status in {400, 401, 403, 405})


@given(
    st.lists(ASKING_RULES, max_size=4),
    PEERS,
    st.lists(
        st.tuples(
            st.sampled_from([b"GET", b"POST", b"TRACE"]),
            st.sampled_from([b"/a", b"/b", b"/x", b"/a/../b"]),
            st.booleans(),
            st.frozensets(TOKENS),
        ),
        max_size=8,
    ),
)
def test_what_repeats_itself_is_decided_as_if_it_came_for_the_first_time(
    drawn: list[Rule], peer: Peer, requests: list[tuple[bytes, bytes, bool, frozenset[str]]]
) -> None:
    """Invariant: what was decided before on a connection changes no decision on it, not even once a certificate ends, nor
    does the token of one request help another."""
    table = Table.compile(drawn, "v1")
    rules = table.for_peer(peer)
    for method, path, late, met in requests:
        now = peer.not_after + 1 if late else NOW
        fresh = decide(table, peer, method, path, decision_id="d", now=now, ask=meeting(met))
        assert rules.decide(method, path, decision_id="d", now=now, ask=meeting(met)) == fresh


def count_lookups(size: int, token: str | None = None) -> int:
    """Returns how many look-ups a decision takes with so many rules: in dictionaries, and of the request's token."""
    rules = [rule(f"spiffe://example.org/agent/a{i}/*", paths=["/mcp", f"/t{i}/**"]) for i in range(size)]
    rules.append(rule("spiffe://example.org/agent/**", id="last", paths=["/mcp", "/tools/*"]))
    table = Table.compile([asking(one, token) for one in rules], "v")
    looked = 0

    class Counting(dict[object, object]):
        def get(self, key: object, default: object = None, /) -> object:
            nonlocal looked
            looked += 1
            return super().get(key, default)

    for name in ("_exact", "_children", "_below"):
        setattr(table, name, Counting(getattr(table, name)))

    def ask(requirement: Requirement) -> Admitted | Refused | KeysWanted:
        nonlocal looked
        looked += 1
        return meeting(["red"])(requirement)

    verdict = decide(table, proven(), b"GET", b"/tools/x", decision_id="d", now=NOW, ask=ask)
    assert isinstance(verdict, Permit)
    assert verdict.rule == "last"
    return looked


def test_ten_thousand_rules_take_as_many_lookups_as_ten() -> None:
    assert count_lookups(10) == count_lookups(10_000) > 0
    assert count_lookups(10, "red") == count_lookups(10_000, "red") == count_lookups(10) + 1


# -- rules that ask for a token ---------------------------------------------------------------------------------------


def with_token(rules: list[Rule], *met: str, method: str = "GET", path: str = "/mcp", key: int = 1) -> str:
    """The rule that allows a request with these tokens, or the reason for its denial."""
    table = Table.compile(rules, "v1")
    verdict = decide(table, proven(key=key), method.encode(), path.encode(), decision_id="d", now=NOW, ask=meeting(met))
    assert not isinstance(verdict, KeysWanted)
    return verdict.rule if isinstance(verdict, Permit) else verdict.reason


def test_a_table_says_whether_it_asks_for_tokens() -> None:
    assert not Table.compile([rule()], "v").asks
    assert Table.compile([rule(), asking(rule(), "red")], "v").asks


def test_rules_with_and_without_tokens_are_a_union() -> None:
    rules = [
        asking(rule(id="red"), "red"),
        asking(rule(id="blue", methods=["POST"]), "blue"),
        rule(id="get", paths=["/x"]),
    ]
    assert with_token(rules, "red") == "red"
    assert with_token(rules, "blue") == TokenCode.AUDIENCE
    assert with_token(rules, "blue", method="POST") == "blue"
    assert with_token(rules, path="/x") == "get"
    assert with_token(rules, "red", path="/x") == "red"
    assert with_token(rules) == TokenCode.AUDIENCE


def test_the_first_rule_that_matches_is_named_with_tokens_too() -> None:
    rules = [
        rule(id="free", methods=["GET"]),
        asking(rule(id="red"), "red"),
        asking(rule(id="blue", paths=["/**"]), "blue"),
    ]
    for shift in range(3):
        turned = rules[shift:] + rules[:shift]
        assert with_token(turned, "red", "blue") == turned[0].id


def test_a_rule_is_asked_once_for_all_of_its_paths_and_patterns() -> None:
    one = asking(rule(id="two", paths=["/mcp", "/**", "/*"], methods=["GET", "POST"], pins=[1, 2]), "red")
    asked: list[Requirement] = []

    def ask(requirement: Requirement) -> Refused:
        asked.append(requirement)
        return Refused(TokenCode.SCOPE, requirement)

    verdict = decide(Table.compile([one], "v"), proven(), b"GET", b"/mcp", decision_id="d", now=NOW, ask=ask)
    assert isinstance(verdict, Denial)
    assert (verdict.status, verdict.reason) == (403, TokenCode.SCOPE)
    assert asked == [one.token]


def test_a_token_opens_nothing_that_its_rule_does_not() -> None:
    rules = [asking(rule(id="red", methods=["GET"], paths=["/mcp"], pins=[1]), "red")]
    assert with_token(rules, "red") == "red"
    assert with_token(rules, "red", method="POST") == Reason.METHOD_NOT_ALLOWED
    assert with_token(rules, "red", path="/x") == Reason.PATH_NOT_ALLOWED
    assert with_token(rules, "red", path="/mcp/../x") == PathCode.DOT_SEGMENT
    assert with_token(rules, "red", method="TRACE") == Reason.METHOD_REFUSED
    assert with_token(rules, "red", key=2) == Reason.PIN_MISMATCH


def test_nobody_is_asked_about_a_token_where_something_else_is_wrong() -> None:
    def ask(_: Requirement) -> Admitted:
        pytest.fail("a token was looked at")

    table = Table.compile([asking(rule(methods=["GET"], paths=["/mcp"], pins=[1]), "red")], "v")
    for method, path, peer, now in (
        (b"POST", b"/mcp", proven(), NOW),
        (b"GET", b"/x", proven(), NOW),
        (b"GET", b"//mcp", proven(), NOW),
        (b"GET", b"/mcp", proven(key=2), NOW),
        (b"GET", b"/mcp", proven("spiffe://example.org/other"), NOW),
        (b"GET", b"/mcp", proven(), NOW + 1000),
    ):
        verdict = decide(table, peer, method, path, decision_id="d", now=now, ask=ask)
        assert isinstance(verdict, Denial)
        assert verdict.refused is None


def test_without_anybody_to_ask_a_rule_with_a_token_never_matches() -> None:
    rules = [asking(rule(), "red")]
    assert outcome(rules, proven()) == TokenCode.MISSING
    assert status(rules, "GET", "/") == 401


def test_a_connection_that_nobody_looks_into_is_never_allowed_by_a_rule_with_a_token() -> None:
    red, free = asking(rule(id="red"), "red"), rule(id="free")
    for rules, expected in (([red], Reason.RULE_NEEDS_REQUEST), ([red, free], "free"), ([free, red], "free")):
        verdict = Table.compile(rules, "v").for_peer(proven()).decide_connection(decision_id="d", now=NOW)
        assert (verdict.rule if isinstance(verdict, Permit) else verdict.reason) == expected


def test_keys_that_are_wanted_are_asked_for_again_on_the_same_connection() -> None:
    own = Table.compile([asking(rule(id="red"), "red")], "v").for_peer(proven())

    def keys(requirement: Requirement) -> KeysWanted:
        return KeysWanted(requirement.issuer)

    assert own.decide(b"GET", b"/", decision_id="1", now=NOW, ask=keys) == KeysWanted("corp")
    verdict = own.decide(b"GET", b"/", decision_id="1", now=NOW, ask=meeting(["red"]))
    assert isinstance(verdict, Permit)
    assert own.decide(b"GET", b"/", decision_id="2", now=NOW, ask=keys) == KeysWanted("corp")

"""Whether a token helps its request: its time, its certificate, scopes and claims, and the keys that there are."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sidecar.tokens.codes import TokenCode
from sidecar.tokens.outcome import Admitted, Refused
from tests.support import jwts
from tests.support.ca import keypair, rsa_keypair
from tests.support.jwts import (
    AUDIENCE,
    DROP,
    ISSUER,
    NOW,
    OF_SELF,
    OTHER_LEAF,
    REQUIREMENT,
    Court,
    Holder,
    b64,
    caller,
    jwk,
    key,
    key_set,
    token,
)

if TYPE_CHECKING:
    from sidecar.tokens.requirement import Verified

PUBLIC = key().public_key()
MINE = keypair("attacker")
GOOD = token()


def test_no_token() -> None:
    assert Court().code(None) == TokenCode.MISSING
    assert Court(Holder(None, refresh=True)).code(None) == TokenCode.MISSING


def test_an_issuer_without_types_such_as_kubernetes() -> None:
    court = Court(issuer=replace(ISSUER, typ=None))
    assert court.code(token({"typ": DROP})) == "admitted"
    assert court.code(GOOD) == TokenCode.TYPE
    assert court.code(token({"typ": "JWT"})) == TokenCode.TYPE


# -- time -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("said", "leeway", "later", "expected"),
    [
        ({}, 30, 629, "admitted"),
        ({}, 30, 630, TokenCode.EXPIRED),
        ({}, 30, 629.75, "admitted"),
        ({}, 0, 599, "admitted"),
        ({}, 0, 600, TokenCode.EXPIRED),
        ({}, 30, -30, "admitted"),
        ({}, 30, -31, TokenCode.NOT_YET_VALID),
        ({}, 0, 0, "admitted"),
        ({}, 0, -1, TokenCode.NOT_YET_VALID),
        ({"nbf": int(NOW) + 100}, 30, 70, "admitted"),
        ({"nbf": int(NOW) + 100}, 30, 69, TokenCode.NOT_YET_VALID),
        # An old nbf does not stand in for iat.
        ({"nbf": int(NOW) - 100}, 30, -30, "admitted"),
        ({"nbf": int(NOW) - 100}, 30, -31, TokenCode.ISSUED_IN_FUTURE),
    ],
)
def test_its_time_to_the_second(said: dict[str, Any], leeway: float, later: float, expected: str) -> None:
    good, court = token(said=said), Court(issuer=replace(ISSUER, leeway=float(leeway)))
    assert court.code(good, now=NOW + later) == expected
    # A remembered one is held to its time like a new one.
    court.code(good, now=NOW + 200)
    assert court.code(good, now=NOW + later) == expected


@pytest.mark.parametrize(
    ("life", "expected"), [(900, "admitted"), (901, TokenCode.LIVES_TOO_LONG), (900.5, TokenCode.LIVES_TOO_LONG)]
)
def test_how_long_it_may_live(life: float, expected: str) -> None:
    assert Court().code(token(said={"exp": NOW + life})) == expected
    # It is not what is left that counts.
    assert Court().code(token(said={"iat": NOW - 100, "nbf": NOW, "exp": NOW + life - 100})) == expected


def test_a_token_that_lives_too_long_but_is_good_otherwise_is_told_with_its_life() -> None:
    outcome = Court().outcome(token(said={"exp": int(NOW) + 86400}))
    assert isinstance(outcome, Refused)
    assert outcome.code is TokenCode.LIVES_TOO_LONG
    assert outcome.token is not None
    assert (outcome.token.key_id, outcome.token.subject) == (jwts.KEY_ID, "planner")
    assert outcome.detail == "it lives 86400 s, and inbound[0].allow[0].token.max_lifetime is 900 s, signed by k1"


# -- the certificate --------------------------------------------------------------------------------------------------

LAX = replace(REQUIREMENT, bound=False)


@pytest.mark.threat(22)
@pytest.mark.parametrize(
    ("cnf", "strict", "lax"),
    [
        (jwts.confirmation(), "admitted", "admitted"),
        (DROP, TokenCode.NOT_BOUND, "admitted"),
        (jwts.confirmation(OTHER_LEAF), TokenCode.BOUND_ELSEWHERE, TokenCode.BOUND_ELSEWHERE),
        (None, TokenCode.NOT_BOUND, TokenCode.NOT_BOUND),
        ({}, TokenCode.NOT_BOUND, TokenCode.NOT_BOUND),
        ({"jkt": b64(jwts.LEAF)}, TokenCode.NOT_BOUND, TokenCode.NOT_BOUND),
        ({**jwts.confirmation(), "jkt": "x"}, TokenCode.NOT_BOUND, TokenCode.NOT_BOUND),
        ({"x5t#S256": b64(jwts.LEAF) + "="}, TokenCode.NOT_BOUND, TokenCode.NOT_BOUND),
        ({"x5t#S256": jwts.LEAF.hex()}, TokenCode.NOT_BOUND, TokenCode.NOT_BOUND),
        ({"x5t#S256": b64(jwts.LEAF[:31])}, TokenCode.NOT_BOUND, TokenCode.NOT_BOUND),
    ],
)
def test_threat_22_a_token_is_for_the_connection_of_the_certificate_it_names(
    cnf: object, strict: str, lax: str
) -> None:
    good = token(said={"cnf": cnf})
    court = Court()
    assert (court.code(good), court.code(good, LAX)) == (strict, lax)
    assert (Court().code(good, LAX), Court().code(good)) == (lax, strict)


@pytest.mark.threat(22)
def test_threat_22_an_incident_comes_first_whatever_else_is_wrong() -> None:
    stolen = token(said={"cnf": jwts.confirmation(OTHER_LEAF), "scope": "", "exp": int(NOW) + 86400})
    outcome = Court().outcome(stolen, replace(REQUIREMENT, scopes=frozenset({"x"}), claims=((("a",), 1),)))
    assert isinstance(outcome, Refused)
    assert outcome.code is TokenCode.BOUND_ELSEWHERE
    assert outcome.token is not None


@pytest.mark.threat(22)
@pytest.mark.parametrize("private", [MINE, keypair("attacker 2")])
def test_threat_22_nobody_is_accused_by_a_token_that_the_issuer_did_not_sign(private: Any) -> None:
    forged = token(said={"cnf": jwts.confirmation(OTHER_LEAF)}, private=private)
    assert Court().code(forged) == TokenCode.SIGNATURE
    assert Court(Holder(None)).code(forged) == TokenCode.ISSUER_UNAVAILABLE
    assert Court(Holder(key_set(jwk(PUBLIC, kid="k2")))).code(forged) == TokenCode.KEY_UNKNOWN


def test_a_certificate_that_the_same_caller_showed_a_moment_ago() -> None:
    court, earlier = Court(), token(said={"cnf": jwts.confirmation(OTHER_LEAF)})
    me = caller()
    court.leaves.note("spiffe://example.org/agent/other/1", OTHER_LEAF, NOW)
    assert court.code(earlier) == TokenCode.BOUND_ELSEWHERE
    court.leaves.note(str(me.id), OTHER_LEAF, NOW)
    assert court.code(earlier, now=NOW + 60) == TokenCode.ROTATED
    assert court.code(earlier, LAX, now=NOW + 60) == TokenCode.ROTATED
    assert court.code(earlier, now=NOW + 60.5) == TokenCode.BOUND_ELSEWHERE


# -- scopes and claims ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("scope", "expected"),
    [
        ("a b", "admitted"),
        ("b c a", "admitted"),
        (["b", "a"], "admitted"),
        ("a", TokenCode.SCOPE),
        ("", TokenCode.SCOPE),
        (DROP, TokenCode.SCOPE),
        ("ab", TokenCode.SCOPE),
        ("A B", TokenCode.SCOPE),
        ("a\tb", TokenCode.SCOPE),
        ("a,b", TokenCode.SCOPE),
        (["a b"], TokenCode.SCOPE),
        ("aa bb", TokenCode.SCOPE),
        ({"a": 1, "b": 1}, TokenCode.CLAIM),
    ],
)
def test_all_scopes_are_needed(scope: object, expected: str) -> None:
    assert Court().code(token(said={"scope": scope}), replace(REQUIREMENT, scopes=frozenset("ab"))) == expected


ONE = [1, 1.0, True, "1", "true", [1], None, DROP]


@pytest.mark.parametrize("wanted", [1, True, "1", "true"])
@pytest.mark.parametrize("found", ONE)
def test_claims_are_equal_in_type_too(wanted: Any, found: object) -> None:
    same = type(found) is type(wanted) and found == wanted
    asking = replace(REQUIREMENT, claims=((("x",), wanted),))
    assert Court().code(token(said={"x": found}), asking) == ("admitted" if same else TokenCode.CLAIM_VALUE)


@pytest.mark.parametrize(
    ("said", "expected"),
    [
        ({"a": {"b": {"c": "x"}}}, "admitted"),
        ({"a": {"b": {"c": "x", "d": 1}}, "c": "y"}, "admitted"),
        ({"a": {"b": {"c": "X"}}}, TokenCode.CLAIM_VALUE),
        ({"a": {"b": "c"}}, TokenCode.CLAIM_VALUE),
        ({"a": {"b": ["c", "x"]}}, TokenCode.CLAIM_VALUE),
        ({"a": [{"b": {"c": "x"}}]}, TokenCode.CLAIM_VALUE),
        ({"a.b.c": "x"}, TokenCode.CLAIM_VALUE),
        ({"a": {"b.c": "x"}}, TokenCode.CLAIM_VALUE),
        ({"a": None}, TokenCode.CLAIM_VALUE),
        ({"a": {"b": {"c": ["x"]}}}, TokenCode.CLAIM_VALUE),
        ({}, TokenCode.CLAIM_VALUE),
    ],
)
def test_claims_within_claims(said: dict[str, Any], expected: str) -> None:
    outcome = Court().outcome(token(said=said), replace(REQUIREMENT, claims=((("a", "b", "c"), "x"),)))
    if expected == "admitted":
        assert isinstance(outcome, Admitted)
        return
    assert isinstance(outcome, Refused)
    assert (outcome.code, outcome.detail) == (expected, "the claim a.b.c is another")


def test_all_claims_are_needed() -> None:
    asking = replace(REQUIREMENT, claims=((("x",), 1), (("y",), 2)))
    found = [Court().code(token(said=said), asking) for said in ({"x": 1, "y": 2}, {"x": 1}, {"y": 2})]
    assert found == ["admitted", TokenCode.CLAIM_VALUE, TokenCode.CLAIM_VALUE]


def test_a_token_that_lacks_nothing_but_scopes_and_one_that_lacks_more() -> None:
    asking = replace(REQUIREMENT, scopes=frozenset({"x"}), claims=((("x",), 1),))
    assert Court().code(token(said={"x": 1}), asking) == TokenCode.SCOPE
    assert Court().code(token(), asking) == TokenCode.CLAIM_VALUE


# -- keys -------------------------------------------------------------------------------------------------------------


@pytest.mark.threat(23)
@pytest.mark.parametrize(
    ("keys", "refresh", "waited", "expected"),
    [
        (None, True, False, "keys wanted"),
        (None, True, True, TokenCode.ISSUER_UNAVAILABLE),
        (None, False, False, TokenCode.ISSUER_UNAVAILABLE),
        (key_set(jwk(PUBLIC, kid="k2")), True, False, "keys wanted"),
        (key_set(jwk(PUBLIC, kid="k2")), True, True, TokenCode.KEY_UNKNOWN),
        (key_set(jwk(PUBLIC, kid="k2")), False, False, TokenCode.KEY_UNKNOWN),
        (key_set(jwk(PUBLIC, kid=DROP)), False, False, TokenCode.KEY_UNKNOWN),
        (key_set(jwk(rsa_keypair().public_key())), False, False, TokenCode.KEY_UNKNOWN),
        # A key that is there does not sign better when it is fetched again.
        (key_set(jwk(MINE.public_key())), True, False, TokenCode.SIGNATURE),
    ],
)
def test_threat_23_keys_are_asked_for_only_where_they_can_help(
    keys: Any, refresh: bool, waited: bool, expected: str
) -> None:
    assert Court(Holder(keys, refresh)).code(GOOD, waited=waited) == expected


@pytest.mark.threat(23)
def test_threat_23_a_flood_of_unknown_keys_waits_only_while_waiting_is_allowed() -> None:
    court = Court(Holder(refresh=True))
    flood = [token({"kid": f"k-{number}"}) for number in range(1000, 1050)]
    assert {court.code(each) for each in flood} == {"keys wanted"}
    court.holder.refresh = False
    assert {court.code(each) for each in flood} == {TokenCode.KEY_UNKNOWN}
    assert court.code(GOOD) == "admitted"


def test_a_rotation_of_keys() -> None:
    new, holder = keypair("issuer's next"), Holder()
    court, renewed = Court(holder), token({"kid": "k2"}, private=new)
    assert (court.code(GOOD), court.code(renewed)) == ("admitted", TokenCode.KEY_UNKNOWN)
    holder.keys = key_set(jwk(PUBLIC), jwk(new.public_key(), kid="k2"))
    assert (court.code(GOOD), court.code(renewed)) == ("admitted", "admitted")
    holder.keys = key_set(jwk(new.public_key(), kid="k2"))
    assert (court.code(GOOD), court.code(renewed)) == (TokenCode.KEY_UNKNOWN, "admitted")
    # The name of the old key with another one behind it.
    holder.keys = key_set(jwk(new.public_key()))
    assert (court.code(GOOD), court.code(renewed)) == (TokenCode.SIGNATURE, TokenCode.KEY_UNKNOWN)


# -- properties -------------------------------------------------------------------------------------------------------

ANY = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=4), inner, max_size=3),
    max_leaves=8,
)
SAID = st.dictionaries(
    st.sampled_from(["iss", "sub", "aud", "exp", "iat", "nbf", "jti", "scope", "cnf", "x"]), ANY, max_size=4
)
HEADERS = st.dictionaries(st.sampled_from(["alg", "typ", "kid", "crit", "jwk", "jku", "x5c"]), ANY, max_size=3)


@given(st.integers(0, len(GOOD) - 1), st.integers(0, 255))
def test_no_byte_of_a_token_may_be_another(where: int, byte: int) -> None:
    """Invariant: no token that was not signed by a key of the set is ever admitted, even if it was but for one byte."""
    forged = GOOD[:where] + bytes([byte]) + GOOD[where + 1 :]
    court = Court()
    court.code(GOOD)
    assert (court.code(forged) == "admitted") is (forged == GOOD)


@given(HEADERS, SAID)
def test_nobody_else_can_sign(head: dict[str, Any], said: dict[str, Any]) -> None:
    """Invariant: whatever a token says, one by another key is refused, and neither a reason to accuse anybody nor a 5xx."""
    outcome = Court().outcome(token(head, said, private=MINE, algorithm="ES256"))
    assert isinstance(outcome, Refused)
    assert outcome.token is None
    assert outcome.code not in {TokenCode.BOUND_ELSEWHERE, TokenCode.ROTATED, TokenCode.ISSUER_UNAVAILABLE}


@given(HEADERS, SAID, st.floats(0, 4e9), st.booleans())
def test_a_signed_token_is_admitted_or_refused(
    head: dict[str, Any], said: dict[str, Any], now: float, own: bool
) -> None:
    """Invariant: whatever an issuer signs, judge raises nothing; what it admits holds at that time on that connection."""
    court = Court(bundles={})
    outcome = court.outcome(token(head, said, algorithm="ES256"), OF_SELF if own else REQUIREMENT, now=now)
    if isinstance(outcome, Admitted):
        found: Verified = outcome.token
        assert found.issuer == ISSUER.issuer
        assert found.bound_to == jwts.LEAF
        assert found.audience == AUDIENCE
        assert found.issued - 30 <= now < found.expires + 30
        assert found.expires - found.issued <= 900
    else:
        assert isinstance(outcome, Refused)

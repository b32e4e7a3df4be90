"""What is remembered of good tokens: that their signature holds, and nothing that a request can change."""

from __future__ import annotations

import hashlib
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sidecar.tokens import judge as judge_module
from sidecar.tokens.codes import TokenCode
from sidecar.tokens.judge import Known, Memory, trust_version
from sidecar.tokens.keyset import signature_holds
from sidecar.tokens.outcome import Admitted
from sidecar.tokens.token import MAX_BYTES
from tests.support import jwts
from tests.support.ca import Ca, keypair
from tests.support.jwts import (
    DROP,
    ISSUER,
    NOW,
    OF_SELF,
    OTHER_LEAF,
    REQUIREMENT,
    Court,
    Holder,
    caller,
    jwk,
    key,
    key_set,
    token,
)

if TYPE_CHECKING:
    from collections.abc import Callable

PUBLIC = key().public_key()
MINE = keypair("attacker")
GOOD = token()
LAX = replace(REQUIREMENT, bound=False)


@pytest.fixture
def checked(monkeypatch: pytest.MonkeyPatch) -> list[bytes]:
    """The tokens whose signatures were checked."""
    found: list[bytes] = []

    def counting(what: bytes, public: Any, algorithm: str) -> bool:
        found.append(what)
        return signature_holds(what, public, algorithm)

    monkeypatch.setattr(judge_module, "signature_holds", counting)
    monkeypatch.setattr("sidecar.tokens.self_signed.signature_holds", counting)
    return found


def test_a_signature_is_checked_once(checked: list[bytes]) -> None:
    court = Court()
    assert {court.code(GOOD) for _ in range(5)} == {"admitted"}
    assert checked == [GOOD]
    identity = Ca().leaf()
    own = jwts.self_signed(identity)
    assert {court.code(own, OF_SELF, peer=jwts.holder_of(identity)) for _ in range(5)} == {"admitted"}
    assert checked == [GOOD, own]


def test_only_a_signature_that_holds_is_remembered(checked: list[bytes]) -> None:
    court, forged = Court(), token(private=MINE)
    assert {court.code(forged) for _ in range(3)} == {TokenCode.SIGNATURE}
    assert checked == [forged] * 3
    assert len(court.memory._found) == 0


AGAIN: list[tuple[str, Callable[[Court], str], str]] = [
    ("expired", lambda court: court.code(GOOD, now=NOW + 631), TokenCode.EXPIRED),
    ("clock back", lambda court: court.code(GOOD, now=NOW - 100), TokenCode.NOT_YET_VALID),
    ("other connection", lambda court: court.code(GOOD, peer=caller(OTHER_LEAF)), TokenCode.BOUND_ELSEWHERE),
    ("audience", lambda court: court.code(GOOD, replace(REQUIREMENT, audience=frozenset({"x"}))), TokenCode.AUDIENCE),
    ("scopes", lambda court: court.code(GOOD, replace(REQUIREMENT, scopes=frozenset({"x"}))), TokenCode.SCOPE),
    ("claims", lambda court: court.code(GOOD, replace(REQUIREMENT, claims=((("a",), 1),))), TokenCode.CLAIM_VALUE),
    ("lifetime", lambda court: court.code(GOOD, replace(REQUIREMENT, max_lifetime=599.0)), TokenCode.LIVES_TOO_LONG),
    ("still good", lambda court: court.code(GOOD), "admitted"),
]


@pytest.mark.parametrize(("ask", "expected"), [row[1:] for row in AGAIN], ids=[row[0] for row in AGAIN])
def test_a_remembered_token_is_judged_anew(ask: Callable[[Court], str], expected: str, checked: list[bytes]) -> None:
    court = Court()
    assert ask(court) == expected
    assert court.code(GOOD) == "admitted"
    del checked[:]
    assert ask(court) == expected
    assert checked == []


def test_a_remembered_token_is_forgotten_with_its_keys(checked: list[bytes]) -> None:
    holder = Holder()
    court = Court(holder)
    assert court.code(GOOD) == "admitted"
    holder.keys = None
    assert court.code(GOOD) == TokenCode.ISSUER_UNAVAILABLE
    holder.refresh = True
    assert court.code(GOOD) == "keys wanted"
    holder.keys = key_set(jwk(PUBLIC), jwk(MINE.public_key(), kid="k2"))
    assert court.code(GOOD) == "admitted"
    assert checked == [GOOD, GOOD]
    assert len(court.memory._found) == 1
    holder.keys = key_set(jwk(MINE.public_key()))
    assert court.code(GOOD) == TokenCode.SIGNATURE


def test_a_remembered_token_is_forgotten_with_the_trust_it_was_checked_with(checked: list[bytes]) -> None:
    ca, other = Ca(), Ca(key="stranger")
    identity = ca.leaf()
    own, peer = jwts.self_signed(identity), jwts.holder_of(identity)
    first = Court(bundles=ca.bundles)
    assert first.code(own, OF_SELF, peer=peer) == "admitted"
    # A reload that keeps the trust keeps the memory.
    assert Court(bundles=ca.bundles, memory=first.memory).code(own, OF_SELF, peer=peer) == "admitted"
    assert checked == [own]
    assert Court(bundles=other.bundles, memory=first.memory).code(own, OF_SELF, peer=peer) == TokenCode.CHAIN
    assert Court(bundles={}, memory=first.memory).code(own, OF_SELF, peer=peer) == TokenCode.CHAIN
    more = {**ca.bundles, **Ca("td.example").bundles}
    assert Court(bundles=more, memory=first.memory).code(own, OF_SELF, peer=peer) == "admitted"
    assert checked == [own, own]


def test_bundles_of_equal_content_are_the_same_trust() -> None:
    one, two = Ca("a.example"), Ca("b.example")
    versions = [
        trust_version(each)
        for each in (
            {**one.bundles, **two.bundles},
            {**two.bundles, **one.bundles},
            one.bundles,
            {},
            {**one.bundles, two.domain: Ca("b.example", key="x").bundle},
        )
    ]
    assert versions[0] == versions[1]
    assert len(set(versions)) == 4


def test_what_one_issuer_signed_is_not_remembered_for_another() -> None:
    court = Court()
    assert court.code(GOOD) == "admitted"
    twin = replace(ISSUER, name="twin", algorithms=("ES384",))
    other = Court(Holder(), twin, memory=court.memory)
    assert other.code(GOOD, replace(REQUIREMENT, issuer="twin")) == TokenCode.ALGORITHM
    assert court.code(GOOD, OF_SELF) == TokenCode.TYPE


def known(size: int = 100, version: bytes = b"v") -> Known:
    court = Court()
    outcome = court.outcome(GOOD)
    assert isinstance(outcome, Admitted)
    return Known(version, outcome.token, size)


def place(number: int) -> tuple[bytes, str]:
    return hashlib.sha256(str(number).encode()).digest(), "corp"


def test_the_memory_is_bounded_by_number_and_forgets_the_first() -> None:
    memory, one = Memory(most=3), known()
    for number in range(10):
        memory.put(place(number), one)
        memory.put(place(number), one)
    assert [number for number in range(10) if memory.get(place(number))] == [7, 8, 9]
    assert memory._size == 300


def test_the_memory_is_bounded_by_size() -> None:
    """A token of empty lists takes some twenty times its length, and a caller may sign itself as many as it likes."""
    memory = Memory(most_bytes=1000)
    for number in range(10):
        memory.put(place(number), known(300))
    assert [number for number in range(10) if memory.get(place(number))] == [7, 8, 9]
    memory.put(place(9), known(900, b"w"))
    assert [number for number in range(10) if memory.get(place(number))] == [9]
    memory.put(place(10), known(1001))
    assert (len(memory._found), memory._size) == (0, 0)


def test_every_token_that_may_come_fits_into_the_memory() -> None:
    court = Court(memory=Memory(most=5, most_bytes=MAX_BYTES))
    for number in range(20):
        assert court.code(token(said={"jti": str(number), "a": "x" * 3000})) == "admitted"
        assert 1 <= len(court.memory._found) <= 5
        assert court.memory._size <= MAX_BYTES


@given(
    st.lists(
        st.tuples(
            st.sampled_from([GOOD, token(said={"cnf": DROP}), token(private=MINE), token({"kid": "k2"}), b"x"]),
            st.sampled_from([REQUIREMENT, LAX, replace(REQUIREMENT, scopes=frozenset({"x"})), OF_SELF]),
            st.sampled_from([caller(), caller(OTHER_LEAF)]),
            st.sampled_from([NOW, NOW + 700, NOW - 700]),
            st.sampled_from([None, key_set(), key_set(jwk(PUBLIC, kid="k2")), key_set(jwk(MINE.public_key()))]),
        ),
        max_size=10,
    )
)
def test_what_is_remembered_changes_no_answer(asked: list[tuple[Any, ...]]) -> None:
    """Invariant: a judge with any past gives the answer of one without; only the work is less."""
    court = Court()
    for what, requirement, peer, now, keys in asked:
        court.holder.keys = keys
        fresh = Court(Holder(keys))
        assert court.code(what, requirement, peer=peer, now=now) == fresh.code(what, requirement, peer=peer, now=now)


def test_a_bad_token_is_taken_apart_once_however_many_rules_ask(monkeypatch: pytest.MonkeyPatch) -> None:
    parsed: list[bytes] = []
    really = judge_module.parse

    def count(data: bytes) -> Any:
        parsed.append(data)
        return really(data)

    monkeypatch.setattr(judge_module, "parse", count)
    court, good = Court(), token()
    for number in range(50):
        wanted = replace(REQUIREMENT, audience=frozenset({f"https://{number}.example"}))
        assert court.code(good, wanted) == TokenCode.AUDIENCE
    assert len(parsed) == 1
    assert court.code(token(said={"sub": "another"}), replace(REQUIREMENT, audience=frozenset({"x"})))
    assert len(parsed) == 2

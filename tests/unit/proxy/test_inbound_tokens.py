"""Tokens of callers at the proxy: what the agent gets of them, what the caller is told, what the log and metrics say."""

from __future__ import annotations

import json
from dataclasses import dataclass, replace
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any, cast

import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from hypothesis import given
from hypothesis import strategies as st

from sidecar.policy.table import Table
from sidecar.proxy.inbound import InboundService
from sidecar.proxy.inbound_tokens import TokenCheck, _line
from sidecar.tokens.codes import TokenCode
from sidecar.tokens.leaves import GRACE_SECONDS
from sidecar.tokens.outcome import Admitted, KeysWanted, Refused
from tests.support import jwts
from tests.support.ca import Ca, keypair
from tests.support.jwts import DROP, NOW, OTHER_LEAF, REQUIREMENT, Court, Holder
from tests.support.pair import CLOCK, World, own, rule, world

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from sidecar.policy.rules import Rule
    from sidecar.proxy.exchange import Exchange
    from sidecar.tokens.requirement import Requirement

HEADERS = ((b"X-Token-Subject", "sub"), (b"X-Token-Roles", "roles"))


class Waited:
    """Keys that can be waited for: they are there then, or not."""

    def __init__(self, holder: Holder | None = None, keys: Any = None) -> None:
        self.waits = 0
        self._holder, self._found = holder, keys

    async def refreshed(self) -> None:
        self.waits += 1
        if self._holder is not None:
            self._holder.keys = self._found


def asking(requirement: Requirement = REQUIREMENT, **parts: Any) -> Rule:
    return replace(rule(**parts), token=requirement)


def check(court: Court, *rules: Rule, keys: Waited | None = None) -> TokenCheck:
    return TokenCheck(court.judge, {"corp": keys or Waited()}, court.leaves, rules or (asking(),))


def exchange(authorization: bytes | None, leaf: bytes = jwts.LEAF, waited: int = 0) -> Exchange:
    """As much of a request as is looked at."""
    facts, down = SimpleNamespace(authorization=authorization), SimpleNamespace(peer=jwts.caller(leaf))
    return cast("Exchange", SimpleNamespace(facts=facts, down=down, waited=waited))


# -- asking -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("authorization", "expected"),
    [
        (b"Bearer " + jwts.token(), "admitted"),
        (b"bEARER " + jwts.token(), "admitted"),
        (None, TokenCode.MISSING),
        (b"Basic " + jwts.token(), TokenCode.MISSING),
        (jwts.token(), TokenCode.MISSING),
        (b"Bearer  " + jwts.token(), TokenCode.MISSING),
        (b"Bearer " + jwts.token() + b", Bearer x", TokenCode.MISSING),
        (b"Bearer " + jwts.token() + b",", TokenCode.MALFORMED),
    ],
)
def test_the_token_is_that_of_the_authorization_field(authorization: bytes | None, expected: str) -> None:
    outcome = check(Court()).asker(exchange(authorization), NOW)(REQUIREMENT)
    assert ("admitted" if isinstance(outcome, Admitted) else cast("Refused", outcome).code) == expected


def test_a_connection_without_a_proven_peer_is_asked_nothing() -> None:
    nobody = cast(
        "Exchange", SimpleNamespace(facts=SimpleNamespace(authorization=None), down=SimpleNamespace(peer=None))
    )
    with pytest.raises(RuntimeError):
        check(Court()).asker(nobody, NOW)


@pytest.mark.threat(22)
def test_threat_22_each_request_is_asked_about_its_own_token() -> None:
    """What was found out of one request of a connection is never used for another that differs."""
    court = Court()
    mine = check(court)
    good, unbound = jwts.token(), jwts.token(said={"cnf": DROP})
    before = None
    for value, expected in (
        (good, "admitted"),
        (good, "admitted"),
        (unbound, TokenCode.NOT_BOUND),
        (None, TokenCode.MISSING),
        (good, "admitted"),
        (good[:-4] + b"AAAA", TokenCode.SIGNATURE),
        (None, TokenCode.MISSING),
    ):
        before = mine.asker(exchange(None if value is None else b"Bearer " + value), NOW, before)
        outcome = before(REQUIREMENT)
        assert ("admitted" if isinstance(outcome, Admitted) else cast("Refused", outcome).code) == expected
    elsewhere = mine.asker(exchange(b"Bearer " + good, OTHER_LEAF), NOW, before)(REQUIREMENT)
    # The same caller showed that certificate a moment ago.
    assert cast("Refused", elsewhere).code is TokenCode.ROTATED
    late = mine.asker(exchange(b"Bearer " + good), NOW + 1000, before)(REQUIREMENT)
    assert cast("Refused", late).code is TokenCode.EXPIRED


def test_a_request_that_waited_for_keys_is_decided_by_what_there_is() -> None:
    court = Court(Holder(None, refresh=True))
    mine, value = check(court), b"Bearer " + jwts.token()
    first = mine.asker(exchange(value), NOW)
    assert first(REQUIREMENT) == KeysWanted("corp")
    again = mine.asker(exchange(value, waited=1), NOW, first)
    assert cast("Refused", again(REQUIREMENT)).code is TokenCode.ISSUER_UNAVAILABLE
    # And the next request of the connection waits again.
    assert mine.asker(exchange(value), NOW, again)(REQUIREMENT) == KeysWanted("corp")


def test_what_a_caller_shows_is_noted_as_long_as_it_is_in_use() -> None:
    court = Court()
    mine, asker = check(court), None
    for second in range(100):
        asker = mine.asker(exchange(None), NOW + second, asker)
    name = str(jwts.caller().id)
    assert court.leaves.recent(name, jwts.LEAF, NOW + 99 + GRACE_SECONDS)
    assert not court.leaves.recent(name, jwts.LEAF, NOW + 101 + GRACE_SECONDS)


# -- what the agent gets ----------------------------------------------------------------------------------------------


def forwarded(claims: Mapping[str, Any], requirement: Requirement) -> tuple[bytes, frozenset[bytes]]:
    token = replace(jwts.verified(), claims=claims)
    return check(Court(), asking(requirement)).forwarded(Admitted(requirement, token))


TELLING = replace(REQUIREMENT, headers=HEADERS)


def test_claims_become_fields_and_the_token_stays_behind() -> None:
    lines, strip = forwarded({"sub": "planner", "roles": ["a", "b"]}, TELLING)
    assert lines == b"X-Token-Subject: planner\r\nX-Token-Roles: a b\r\n"
    assert strip == {b"authorization", b"x-token-subject", b"x-token-roles"}


def test_a_rule_can_pass_the_token_on() -> None:
    lines, strip = forwarded({"sub": "planner"}, replace(TELLING, pass_token=True))
    assert lines == b"X-Token-Subject: planner\r\n"
    assert strip == {b"x-token-subject", b"x-token-roles"}


def test_what_one_rule_sets_no_caller_of_another_may_send() -> None:
    both = check(Court(), rule(), asking(), asking(TELLING))
    assert both.forwarded(None) == (b"", {b"x-token-subject", b"x-token-roles"})
    assert both.forwarded(Admitted(REQUIREMENT, jwts.verified()))[1] >= {b"x-token-subject", b"authorization"}


@pytest.mark.parametrize(
    ("value", "line"),
    [
        ("planner", b"X: planner\r\n"),
        ("a b", b"X: a b\r\n"),
        ("x" * 1024, b"X: " + b"x" * 1024 + b"\r\n"),
        (True, b"X: true\r\n"),
        (False, b"X: false\r\n"),
        (0, b"X: 0\r\n"),
        (-5, b"X: -5\r\n"),
        (["a"], b"X: a\r\n"),
        (["a", "b"], b"X: a b\r\n"),
        ("", b""),
        (" a", b""),
        ("a ", b""),
        ("a\r\nY: b", b""),
        ("a\n", b""),
        ("a\0", b""),
        ("a\tb", b""),
        ("a\x7f", b""),
        ("\u00e9", b""),
        ("x" * 1025, b""),
        (10**2000, b""),
        (1.5, b""),
        (None, b""),
        ({"a": "b"}, b""),
        ([], b""),
        (["a", 1], b""),
        (["a b", "c"], b""),
        (["a", "", "b"], b""),
        (["", "a"], b""),
        (["a\r\nY: b"], b""),
        ([["a"]], b""),
    ],
)
def test_a_claim_is_a_field_only_where_it_can_be_as_it_is(value: object, line: bytes) -> None:
    assert _line(b"X", value) == line


ANY = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=4), inner, max_size=3),
    max_leaves=8,
)


@given(
    ANY | st.text(alphabet="ab \r\n\0\t:", max_size=8) | st.lists(st.text(alphabet="ab \r\n", max_size=4), max_size=3)
)
def test_a_claim_never_becomes_two_fields(value: object) -> None:
    """Invariant: a claim is one whole field line of visible ASCII, or nothing."""
    line = _line(b"X", value)
    if line:
        assert line.startswith(b"X: ")
        assert line.endswith(b"\r\n")
        assert all(0x20 <= byte <= 0x7E for byte in line[:-2])
        assert line[3:-2].strip() == line[3:-2]


# -- on a connection --------------------------------------------------------------------------------------------------


@dataclass
class Token:
    """Tokens for the planner of a world, good now."""

    w: World

    def __call__(self, head: Mapping[str, Any] | None = None, private: Any = None, **said: Any) -> bytes:
        now = int(CLOCK.wall())
        good = {"iat": now, "exp": now + 600, "cnf": jwts.confirmation(jwts.leaf_of(self.w.planner))}
        return jwts.token(head, {**good, **said}, private)


def serve(w: World, court: Court, *rules: Rule, keys: Waited | None = None) -> Token:
    """Has the inbound entry ask for tokens from now on."""
    old = w.inbound.service
    assert isinstance(old, InboundService)
    tokens = check(court, *rules, keys=keys)
    table = Table.compile(rules or (asking(),), "v")
    w.inbound.service = InboundService(w.hub, "tools", own(w.tools), old.tls, table, old.pool, tokens)
    return Token(w)


def request(token: bytes | None, *fields: bytes, target: bytes = b"/mcp", method: bytes = b"GET") -> bytes:
    lines = [method + b" " + target + b" HTTP/1.1", b"Host: tools.internal", *fields]
    if token is not None:
        lines.append(b"Authorization: Bearer " + token)
    return b"\r\n".join((*lines, b"", b""))


def court(w: World, **parts: Any) -> Court:
    return Court(bundles=w.ca.bundles, **parts)


async def test_a_good_token_opens_and_does_not_go_along(tmp_path: Path) -> None:
    async with world(tmp_path) as w:
        token = serve(w, court(w), asking(TELLING))
        caller = await w.caller()
        spoofed = (b"X-Token-Subject: root", b"x_token_subject: root", b"X-Token-Roles: admin")
        for _ in range(2):
            assert (await caller.ask(request(token(sub="planner"), *spoofed))).status == 200
        for head in w.upstream.heads:
            assert b"authorization" not in head.lower()
            assert b"root" not in head
            assert b"admin" not in head
            assert head.count(b"X-Token-Subject: planner\r\n") == 1
        for line in await w.logged(2, direction="inbound", decision="allow"):
            assert line["token.issuer"] == jwts.ISSUER.issuer
            assert line["token.subject"] == "planner"
            assert line["token.id"] == "j1"


@pytest.mark.threat(18)
@pytest.mark.parametrize("kind", ["none", "forged", "id token", "jku", "garbage", "unknown kid"])
async def test_threat_18_a_bad_token_is_401_and_nothing_is_forwarded(tmp_path: Path, kind: str) -> None:
    async with world(tmp_path) as w:
        waited = Waited()
        token = serve(w, court(w), keys=waited)
        bad = {
            "none": jwts.compact(jwts.dump(jwts.header(alg="none")), jwts.dump(jwts.claims()), lambda _: b""),
            "forged": token(private=keypair("attacker")),
            "id token": token({"typ": "JWT"}),
            "jku": token({"jku": "https://127.0.0.1/jwks"}),
            "garbage": b"x" * 3000,
            "unknown kid": token({"kid": "k9"}),
        }[kind]
        caller = await w.caller()
        response = await caller.ask(request(bad))
        assert response.status == 401
        assert response.field(b"www-authenticate") == b'Bearer realm="sidecar", error="invalid_token"'
        (line,) = await w.logged(1, direction="inbound", decision="deny")
        assert line["decision.reason"].startswith("token_")
        assert "incident" not in line
        assert "token.subject" not in line
        assert json.loads(response.body) == {"error": "denied", "decision_id": line["decision.id"]}
        assert bad not in w.log_path.read_bytes()
        assert w.upstream.heads == []
        assert waited.waits == 0


async def test_what_else_a_caller_is_told(tmp_path: Path) -> None:
    async with world(tmp_path) as w:
        token = serve(w, court(w), asking(replace(REQUIREMENT, scopes=frozenset({"x"})), methods=frozenset({b"GET"})))
        caller = await w.caller()
        none = await caller.ask(request(None))
        assert (none.status, none.field(b"www-authenticate")) == (401, b'Bearer realm="sidecar"')
        scope = await caller.ask(request(token()))
        assert scope.status == 403
        assert scope.field(b"www-authenticate") == b'Bearer realm="sidecar", error="insufficient_scope"'
        other = await caller.ask(request(token(scope="x"), method=b"DELETE"))
        assert other.status == 403
        assert other.field(b"www-authenticate") is None
        assert (await caller.ask(request(token(scope="x")))).status == 200


@pytest.mark.threat(20)
async def test_threat_20_two_tokens_are_400_and_one_in_the_query_is_none(tmp_path: Path) -> None:
    async with world(tmp_path) as w:
        token = serve(w, court(w))
        caller = await w.caller()
        query = await caller.ask(request(None, target=b"/mcp?access_token=" + token()))
        assert query.status == 401
        twice = await (await w.caller()).ask(request(token(), b"Authorization: Bearer " + token()))
        assert twice.status == 400
        assert w.upstream.heads == []


async def test_claim_fields_cannot_be_forged_behind_the_body(tmp_path: Path) -> None:
    async with world(tmp_path) as w:
        token = serve(w, court(w), asking(TELLING))
        caller = await w.caller()
        head = request(token(sub="planner"), b"Transfer-Encoding: chunked", method=b"POST")
        trailers = b"0\r\nX-Token-Subject: root\r\nx_token_subject: root\r\n\r\n"
        assert (await caller.ask(head + b"2\r\nab\r\n" + trailers)).status == 200
        sent = w.upstream.heads[0] + w.upstream.bodies[0]
        assert b"root" not in sent
        assert sent.lower().count(b"x-token-subject: planner") == 1


@pytest.mark.threat(22)
async def test_threat_22_a_token_of_another_certificate_is_401_and_an_incident(tmp_path: Path) -> None:
    async with world(tmp_path) as w:
        token = serve(w, court(w), asking(), asking(replace(REQUIREMENT, bound=False)))
        caller = await w.caller()
        stolen = token(cnf=jwts.confirmation(OTHER_LEAF))
        response = await caller.ask(request(stolen))
        assert response.status == 401
        (line,) = await w.logged(1, direction="inbound", decision_reason="token_bound_elsewhere")
        assert line["incident"] == "token_bound_elsewhere"
        assert line["token.subject"] == "planner"
        assert w.counted("incidents_total", "token_bound_elsewhere") == 1
        forged = token(cnf=jwts.confirmation(OTHER_LEAF), private=keypair("attacker"))
        assert (await caller.ask(request(forged))).status == 401
        assert w.counted("incidents_total", "token_bound_elsewhere") == 1
        assert w.upstream.heads == []


@pytest.mark.threat(22)
async def test_threat_22_what_passes_without_a_token_and_brings_somebody_elses_is_an_incident_all_the_same(
    tmp_path: Path,
) -> None:
    async with world(tmp_path) as w:
        token = serve(w, court(w), asking(), rule())
        stolen = token(cnf=jwts.confirmation(OTHER_LEAF))
        assert (await (await w.caller()).ask(request(stolen))).status == 200
        (line,) = await w.logged(1, direction="inbound", decision="allow")
        assert line["incident"] == "token_bound_elsewhere"
        assert w.counted("incidents_total", "token_bound_elsewhere") == 1
        assert w.counted("requests_total", "inbound", "tools", "allow", "2xx") == 1


async def test_a_token_of_the_certificate_before_is_no_incident(tmp_path: Path) -> None:
    async with world(tmp_path) as w:
        now = CLOCK.wall()
        renewed = w.ca.leaf("/agent/planner/1", key=keypair("renewed planner"), now=now)
        token = serve(w, court(w))
        assert (await (await w.caller()).ask(request(token()))).status == 200
        assert (await (await w.caller(renewed)).ask(request(token()))).status == 401
        (line,) = await w.logged(1, direction="inbound", decision="deny")
        assert line["decision.reason"] == "token_rotated"
        assert "incident" not in line


async def test_a_self_signed_token_on_its_own_connection(tmp_path: Path) -> None:
    async with world(tmp_path) as w:
        serve(w, court(w), asking(jwts.OF_SELF))
        now = int(CLOCK.wall())
        mine = jwts.self_signed(w.planner, said={"iat": now, "exp": now + 300})
        stranger = Ca(key="stranger", now=CLOCK.wall()).leaf("/agent/planner/1")
        forged = jwts.self_signed(stranger, said={"iat": now, "exp": now + 300})
        caller = await w.caller()
        assert (await caller.ask(request(mine))).status == 200
        assert (await caller.ask(request(forged))).status == 401
        assert (await (await w.caller(w.tools)).ask(request(mine))).status == 403, "no rule names it"


@pytest.mark.threat(23)
async def test_threat_23_a_request_waits_for_keys_once(tmp_path: Path) -> None:
    async with world(tmp_path) as w:
        holder = Holder(None, refresh=True)
        waited = Waited(holder, jwts.key_set())
        token = serve(w, court(w, holder=holder), keys=waited)
        caller = await w.caller()
        assert (await caller.ask(request(token()))).status == 200
        assert (await caller.ask(request(token()))).status == 200
        assert waited.waits == 1


@pytest.mark.threat(23)
async def test_threat_23_without_keys_it_is_503_but_for_tokens_that_are_bad_by_themselves(tmp_path: Path) -> None:
    async with world(tmp_path) as w:
        waited = Waited()
        token = serve(w, court(w, holder=Holder(None, refresh=True)), keys=waited)
        caller = await w.caller()
        response = await caller.ask(request(token()))
        assert response.status == 503
        assert response.field(b"www-authenticate") is None
        await w.logged(1, decision_reason="issuer_unavailable")
        assert waited.waits == 1
        for bad in (
            None,
            token({"alg": "ES384"}, private=keypair("p384", curve=ec.SECP384R1)),
            token(exp=1, iat=0),
            token(aud="x"),
        ):
            assert (await caller.ask(request(bad))).status == 401
        assert waited.waits == 1
        assert w.upstream.heads == []

"""Ensures that a token helps its owner, here, now, and nobody else: whatever its issuer signed (THREATS 18, 19 and 22).

As in `test_token_threats`: the caller is named, only its token is not for this. Every signature by an issuer holds.
"""

from __future__ import annotations

import base64
from typing import TYPE_CHECKING, Any, Final

import pytest

from tests.support import jwts
from tests.support.ca import DAY, Ca, keypair
from tests.support.guarded import AUDIENCE, ISSUER, KINDS, MESH, NO_TOKEN, Attack, Guarded, leaf
from tests.support.jwts import DROP, compact, dump
from tests.support.processes import PLANNER, now

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.support.ca import Identity
    from tests.support.guarded import Make

MALLORY: Final = keypair("mallory")
ELSEWHERE: Final = "https://elsewhere.example"


@pytest.fixture(scope="module")
def guarded() -> Iterator[Guarded]:
    with Guarded() as made:
        assert made.ask("/good", made.token()).status == 200
        yield made


def saying(**said: Any) -> Make:
    return lambda g: g.token(said=said)


def lasting(start: int, end: int, **more: int) -> Make:
    """Issued and ending so many seconds from now."""

    def make(g: Guarded) -> bytes:
        moment = int(now())
        return g.token(said={"iat": moment + start, "exp": moment + end} | {k: moment + v for k, v in more.items()})

    return make


def text(header: bytes | None = None, payload: bytes | None = None) -> Make:
    """These very bytes, signed by the issuer; a good header or payload where there are none."""

    def sign(message: bytes) -> bytes:
        return jwts.signature(KINDS["corp"][1], "ES256", message)

    return lambda g: compact(header or dump(g.header()), payload or dump(g.claims()), sign)


# -- what it is written like ------------------------------------------------------------------------------------------

HEADER: Final = b'{"alg":"ES256","typ":"at+jwt","kid":"corp-1"'
WRITING = [
    Attack("claim-twice", "token_duplicate_name", lambda g: text(payload=b'{"sub":"x",' + dump(g.claims())[1:])(g)),
    Attack("inner-claim-twice", "token_duplicate_name", text(payload=b'{"cnf":{"a":1,"a":2}}')),
    Attack("alg-twice", "token_duplicate_name", text(HEADER + b',"alg":"none"}')),
    Attack("escaped-twice", "token_duplicate_name", text(HEADER + b',"\\u0061lg":"none"}')),
    Attack("long", "token_too_long", saying(x="x" * 8192)),
    Attack("encrypted", "token_malformed", lambda g: g.token() + b".AAAA.AAAA"),
    Attack("two-parts", "token_malformed", lambda g: g.token().rpartition(b".")[0]),
    Attack("json-form", "token_malformed", lambda g: b'{"payload":"%b"}' % g.token().split(b".")[1]),
    Attack("padded", "token_malformed", lambda g: g.token() + b"=="),
    Attack("deep", "token_malformed", text(payload=b"[" * 5000)),
    Attack("deep-objects", "token_malformed", text(payload=b'{"a":' * 1000 + b"1" + b"}" * 1000)),
    Attack("no-object", "token_malformed", lambda g: text(payload=dump([g.claims()]))(g)),
    Attack("no-utf-8", "token_malformed", text(b"\xff\xfe")),
    Attack("half-a-character", "token_malformed", text(payload=b'{"sub":"\\ud800"}')),
    Attack("nan", "token_malformed", saying(exp=float("nan"))),
    Attack("digits", "token_malformed", text(payload=b'{"exp":' + b"9" * 5000 + b"}")),
]

# -- other tokens of the same issuer, and of other times --------------------------------------------------------------

TYPES = ("at", "at+jwt ", "logout+jwt", "dpop+jwt", "sidecar+jwt", "", None, 7, ["at+jwt"], DROP)
NO_TIMES = ("9999999999", True, None, [1], -1, 2**53, 10**300, {}, DROP)
OTHERS = [
    # An ID token (OpenID Connect Core 2) is for the client, and says so in aud and typ.
    Attack("id-token", "token_type", lambda g: g.token({"typ": "JWT"}, {"nonce": "n", "at_hash": "h", "auth_time": 1})),
    Attack("id-token-for-the-client", "token_audience", saying(aud="planner", nonce="n")),
    *(Attack(f"typ-{n}", "token_type", lambda g, typ=typ: g.token({"typ": typ})) for n, typ in enumerate(TYPES)),
    *(Attack(f"exp-{n}", "token_claim", saying(exp=exp)) for n, exp in enumerate(NO_TIMES)),
    *(Attack(f"iat-{n}", "token_claim", saying(iat=iat)) for n, iat in enumerate(NO_TIMES)),
    *(Attack(f"nbf-{n}", "token_claim", saying(nbf=nbf)) for n, nbf in enumerate(NO_TIMES[:-1])),
    Attack("expired", "token_expired", lasting(-700, -31)),
    Attack("not-yet", "token_not_yet_valid", lasting(0, 600, nbf=60)),
    Attack("issued-later", "token_issued_in_future", lasting(60, 600, nbf=0)),
    Attack("a-day-long", "token_lives_too_long", lasting(0, 86_400)),
    Attack("self-signed", "token_type", lambda g: g.self_signed()),
]

# -- 19: for whom, by whom --------------------------------------------------------------------------------------------

CORP: Final = f"{ISSUER}/corp"
ISSUERS = (
    *([CORP], {"": CORP}, 7, True, None, "", DROP),
    *(
        CORP + "/",
        CORP + "#",
        CORP[:-1],
        CORP + "x",
        CORP.upper(),
        "https://ISSUER.example/corp",
        " " + CORP,
        CORP + " ",
    ),
    *(CORP.replace("https", "http"), f"{ISSUER}:443/corp", f"{ISSUER}//corp", f"{ISSUER}/%63orp", f"{ISSUER}/rsa"),
    *(f"{CORP},{ELSEWHERE}", CORP + "\x00", "corp", PLANNER),
)
AUDIENCES = (
    *([], [AUDIENCE, AUDIENCE], [AUDIENCE, ELSEWHERE], [ELSEWHERE, AUDIENCE], [[AUDIENCE]], [{"": AUDIENCE}], [None]),
    *({AUDIENCE: 1}, {"aud": AUDIENCE}, 7, True, None, "", [""], DROP),
    *(AUDIENCE + "/", AUDIENCE[:-1], AUDIENCE + "x", "x" + AUDIENCE, AUDIENCE[8:], AUDIENCE.upper(), AUDIENCE + " "),
    *(
        "https://TOOLS.internal/mcp",
        "https://tools.internal:443/mcp",
        "https://tools.internal/%6dcp",
        "*",
        ".*",
        "https://",
    ),
    *(f"{AUDIENCE} {ELSEWHERE}", f"{AUDIENCE},{ELSEWHERE}", AUDIENCE + "\x00", [AUDIENCE + "/"]),
)
FOR_WHOM = [
    *(Attack(f"iss-{n}", "token_issuer", saying(iss=iss)) for n, iss in enumerate(ISSUERS)),
    *(Attack(f"aud-{n}", "token_audience", saying(aud=aud)) for n, aud in enumerate(AUDIENCES)),
]

# -- self-signed ------------------------------------------------------------------------------------------------------


def chain(*certificates: bytes) -> list[str]:
    return [base64.b64encode(each).decode() for each in certificates]


def by_itself(name: str, code: str, **parts: Any) -> Attack:
    """What the planner signed for itself, with these changes of header, claims or key."""
    return Attack(name, code, lambda g: g.self_signed(**parts), MESH)


def from_stranger(g: Guarded) -> bytes:
    """An authority of the same name, which nobody trusts, issued the planner's name."""
    return g.self_signed(Ca(now=now(), key="stranger").leaf("/agent/planner/1", now=now()))


def called(identity: Identity) -> dict[str, str]:
    return {"iss": str(identity.id), "sub": str(identity.id)}


SELF_SIGNED = [
    Attack("chain-of-another", "token_issuer", lambda g: g.self_signed(head={"x5c": chain(*g.other.der)}), MESH),
    Attack("name-of-another", "token_issuer", lambda g: g.self_signed(said=called(g.other)), MESH),
    Attack("sub-of-another", "token_subject", lambda g: g.self_signed(said={"sub": str(g.other.id)}), MESH),
    Attack("cnf-of-another", "token_not_bound", lambda g: g.self_signed(said={"cnf": bound(g.other)}), MESH),
    Attack("of-a-stranger", "token_chain", from_stranger, MESH),
    Attack("of-an-issuer", "token_type", lambda g: g.token(), MESH),
    by_itself("another-key", "token_signature", private=MALLORY),
    by_itself("jwk", "token_embedded_key", head={"jwk": jwts.jwk(MALLORY.public_key())}, private=MALLORY),
    by_itself("unsigned", "token_algorithm", head={"alg": "none"}),
    by_itself("an-assertion", "token_type", head={"typ": "JWT"}),
    by_itself("five-minutes-and-one-second", "token_lives_too_long", said={"iat": int(now()), "exp": int(now()) + 301}),
    by_itself("for-another", "token_audience", said={"aud": ELSEWHERE}),
    by_itself("without-cnf", "token_not_bound", said={"cnf": DROP}),
    *(
        by_itself(f"x5c-{n}", "token_chain", head={"x5c": x5c})
        for n, x5c in enumerate((DROP, None, [], "AAAA", ["!"], [7], chain(b"\x30\x03\x02\x01\x01"), ["AAAA"] * 200))
    ),
]

ATTACKS = [*WRITING, *OTHERS, *FOR_WHOM, *SELF_SIGNED]


def _id(attack: Attack) -> str:
    return f"{attack.kind}-{attack.name}"


@pytest.mark.threat(18)
@pytest.mark.parametrize("attack", [*WRITING, *OTHERS, *SELF_SIGNED], ids=_id)
def test_threat_18_no_token_that_is_something_else_gets_through(guarded: Guarded, attack: Attack) -> None:
    attack.fails(guarded, f"/18/{ATTACKS.index(attack)}")


@pytest.mark.threat(19)
@pytest.mark.parametrize("attack", FOR_WHOM, ids=_id)
def test_threat_19_issuer_and_audience_are_equal_byte_for_byte(guarded: Guarded, attack: Attack) -> None:
    attack.fails(guarded, f"/19/{ATTACKS.index(attack)}")


@pytest.mark.threat(18, 19)
def test_threat_18_19_what_is_good_goes_through(guarded: Guarded) -> None:
    """So that nothing above is refused for another reason than the one it names."""
    g = guarded
    assert g.ask("/good", g.token(said={"aud": [AUDIENCE]})).status == 200
    assert g.ask("/good", g.token({"typ": "application/AT+jwt"})).status == 200
    assert g.ask("/good", lasting(-700, -10)(g)).status == 200  # by the leeway
    assert g.ask("/good", g.self_signed(), kind=MESH).status == 200
    assert g.ask("/good", g.self_signed(g.other), kind=MESH, caller="other").status == 200


# -- 22: a token on another certificate's connection ------------------------------------------------------------------


def bound(identity: Identity) -> dict[str, str]:
    return jwts.confirmation(leaf(identity))


@pytest.mark.threat(22)
@pytest.mark.parametrize("kind", ["corp", MESH])
def test_threat_22_a_stolen_token_is_no_good_and_is_noticed(guarded: Guarded, kind: str) -> None:
    g, path = guarded, f"/22/stolen/{kind}"
    stolen = g.token() if kind == "corp" else g.self_signed()
    assert g.ask("/good", stolen, kind=kind).status == 200
    before = g.tools.metric("incidents_total", kind="token_bound_elsewhere")
    g.refused(g.ask(path, stolen, kind=kind, caller="other"), "token_bound_elsewhere", path, kind=kind)
    (line,) = g.tools.log(http_path=path)
    assert line["incident"] == "token_bound_elsewhere"
    assert line["src.identity"] == str(g.other.id)
    assert line["token.subject"] == ("planner" if kind == "corp" else PLANNER)
    assert g.tools.metric("incidents_total", kind="token_bound_elsewhere") == before + 1
    assert f"decision_id={line['decision.id']}" in g.tools.stderr
    assert stolen.decode() not in g.said()
    assert g.ask("/good", stolen, kind=kind).status == 200  # its owner goes on


@pytest.mark.threat(22)
def test_threat_22_the_same_name_with_another_certificate_is_somebody_else(guarded: Guarded) -> None:
    """Who got a certificate of the same name issued does not get the tokens of the first."""
    g, path = guarded, "/22/namesake"
    g.site.identity("namesake", "/agent/planner/1")
    elsewhere = g.site.ca.leaf("/agent/planner/1", now=now(), lifetime=DAY, key=keypair("elsewhere"))
    token = g.token(said={"cnf": bound(elsewhere)})
    g.refused(g.ask(path, token, caller="namesake"), "token_bound_elsewhere", path)


@pytest.mark.threat(22)
def test_threat_22_a_token_of_before_the_renewal_is_refused_and_is_no_incident(guarded: Guarded) -> None:
    g, path = guarded, "/22/rotated"
    renewed = g.site.ca.leaf("/agent/planner/1", now=now(), lifetime=DAY, key=keypair("renewed"))
    renewed.write(g.site.folder, "renewed")
    assert g.ask("/good", g.token()).status == 200  # by the old certificate
    before = g.tools.metric("incidents_total")
    g.refused(g.ask(path, g.token(), caller="renewed"), "token_rotated", path)
    assert "incident" not in g.tools.log(http_path=path)[0]
    assert g.tools.metric("incidents_total") == before
    assert g.ask("/good", g.token(said={"cnf": bound(renewed)}), caller="renewed").status == 200


@pytest.mark.threat(22)
@pytest.mark.parametrize("number", range(9))
def test_threat_22_a_binding_that_cannot_be_checked_is_none(guarded: Guarded, number: int) -> None:
    g, path = guarded, f"/22/{number}"
    own = bound(g.planner)
    cnf = (
        DROP,
        None,
        {},
        [own],
        own["x5t#S256"],
        {"jkt": own["x5t#S256"]},  # RFC 9449 6.1: a proof of possession that is not looked at here
        own | {"jkt": "x"},
        {"x5t": own["x5t#S256"]},
        {"x5t#S256": own["x5t#S256"][:-1]},
    )[number]
    g.refused(g.ask(path, g.token(said={"cnf": cnf})), "token_not_bound", path)


@pytest.mark.threat(22)
def test_threat_22_a_bound_token_is_bound_also_where_nobody_asked() -> None:
    with Guarded(bound=False) as g:
        assert g.ask("/good", g.token(said={"cnf": DROP}), caller="other").status == 200
        g.refused(g.ask("/22", g.token(), caller="other"), "token_bound_elsewhere", "/22")
        g.refused(g.ask("/none", caller="other"), "token_missing", "/none", challenge=NO_TOKEN)

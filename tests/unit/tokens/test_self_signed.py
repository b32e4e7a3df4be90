"""A token that a workload signed for itself proves what mutual TLS proves on the same connection, and nothing more."""

from __future__ import annotations

import base64
from dataclasses import replace
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from hypothesis import given
from hypothesis import strategies as st

from sidecar.tokens.codes import TokenCode
from tests.support import jwts
from tests.support.ca import HOUR, SERVER_AUTH, Ca, Identity, der, forge, keypair, rsa_keypair
from tests.support.jwts import DROP, NOW, OF_SELF, Court, b64, holder_of, self_signed

CA = Ca()
PLANNER = CA.leaf()
DEEP = CA.intermediate().leaf("/agent/deep/1")
P384 = CA.leaf("/agent/p384/1", key=keypair("p384", curve=ec.SECP384R1))
RSA = CA.leaf("/agent/rsa/1", key=rsa_keypair())
MALLORY = CA.leaf("/agent/mallory/1")
FOREIGN = Ca("evil.example").leaf()
STRANGER = Ca(key="stranger").leaf()
#: The certificate before or after PLANNER's.
RENEWED = CA.leaf(key=keypair("renewed"), lifetime=2 * HOUR)


def x5c(identity: Identity) -> list[str]:
    return [base64.b64encode(each).decode() for each in identity.der]


def code(
    token: bytes | None = None,
    identity: Identity = PLANNER,
    *,
    now: float = NOW,
    court: Court | None = None,
    **said: Any,
) -> str:
    """The code for a token on the connection of that identity; its own with changes, unless one is given."""
    what = self_signed(identity, said=said) if token is None else token
    return (court or Court(bundles=CA.bundles)).code(what, OF_SELF, peer=holder_of(identity), now=now)


@pytest.mark.parametrize("identity", [PLANNER, DEEP, P384], ids=["p256", "intermediate", "p384"])
def test_good_ones(identity: Identity) -> None:
    assert code(identity=identity) == "admitted"


@pytest.mark.parametrize("typ", [DROP, "JWT", "at+jwt", "jwt", "sidecar", "sidecar+jwt ", "", None, 1])
def test_only_its_own_type_is_accepted(typ: object) -> None:
    """An assertion by RFC 7523 is signed by the same key; with `typ: JWT` it opens nothing here."""
    assert code(self_signed(PLANNER, {"typ": typ})) == TokenCode.TYPE


@pytest.mark.threat(18)
@pytest.mark.parametrize(
    ("head", "expected"),
    [
        ({"alg": "none"}, TokenCode.ALGORITHM),
        ({"alg": "HS256"}, TokenCode.ALGORITHM),
        ({"alg": "RS256"}, TokenCode.ALGORITHM),
        ({"alg": "ES512"}, TokenCode.ALGORITHM),
        ({"alg": DROP}, TokenCode.ALGORITHM),
        ({"alg": "ES384"}, TokenCode.SIGNATURE),
        ({"crit": ["x5c"]}, TokenCode.CRITICAL),
        ({"jwk": jwts.jwk(jwts.key().public_key())}, TokenCode.EMBEDDED_KEY),
        ({"jku": "https://evil.example/jwks"}, TokenCode.EMBEDDED_KEY),
        ({"x5u": "https://evil.example/chain"}, TokenCode.EMBEDDED_KEY),
        ({"kid": "../../etc/passwd"}, TokenCode.KEY_ID),
    ],
)
def test_threat_18_its_header(head: dict[str, Any], expected: TokenCode) -> None:
    assert code(self_signed(PLANNER, head)) == expected


def test_an_rsa_key_signs_none() -> None:
    token = self_signed(RSA, {"alg": "RS256"}, private=jwts.key())
    assert code(token, RSA) == TokenCode.ALGORITHM
    assert code(self_signed(RSA, private=jwts.key()), RSA) == TokenCode.SIGNATURE


# -- the chain --------------------------------------------------------------------------------------------------------

GARBLED: list[object] = [
    *(DROP, None, [], {}, "", x5c(PLANNER)[0], 1, True, [1], [None], [[x5c(PLANNER)[0]]], [{}], [""], ["AAAA"], ["!"]),
    ["\u00e9"],
    [x5c(PLANNER)[0] + "\n"],
    [x5c(PLANNER)[0] + "===="],
    [b64(PLANNER.der[0]) + "-_"],
    [x5c(PLANNER)[0][:-8]],
    x5c(PLANNER) * 9,
    ["AAAA"] * 9,
    [base64.b64encode(PLANNER.chain_pem).decode()],
]


@pytest.mark.threat(18)
@pytest.mark.parametrize("chain", GARBLED)
def test_threat_18_a_chain_that_is_none(chain: object) -> None:
    assert code(self_signed(PLANNER, {"x5c": chain})) in {TokenCode.CHAIN, TokenCode.TOO_LONG}


@pytest.mark.parametrize(
    "chain",
    [
        FOREIGN.der,  # of a trust domain without a bundle
        STRANGER.der,  # under an authority with the right name and another key
        [der(CA.certificate)],
        DEEP.der[:1],  # without its intermediate
        list(reversed(DEEP.der)),
        [PLANNER.der[0], FOREIGN.der[0]],
    ],
)
def test_a_chain_that_proves_nothing(chain: list[bytes]) -> None:
    coded = [base64.b64encode(each).decode() for each in chain]
    assert code(self_signed(PLANNER, {"x5c": coded})) == TokenCode.CHAIN


def test_the_chain_is_held_to_the_rules_for_clients() -> None:
    forged = forge(CA.signer, PLANNER.key.public_key(), purposes=(SERVER_AUTH,))
    server_only = Identity((forged,), PLANNER.key)
    assert code(identity=server_only) == TokenCode.CHAIN


def test_a_chain_ends_for_remembered_tokens_too() -> None:
    short = CA.leaf("/agent/short/1", lifetime=100)
    court, token = Court(bundles=CA.bundles), self_signed(short)
    ends = short.svid(NOW).not_after
    assert code(token, short, court=court) == "admitted"
    assert code(token, short, court=court, now=ends) == "admitted"
    assert code(token, short, court=court, now=ends + 0.5) == TokenCode.CHAIN
    assert code(token, short, now=ends + 0.5) == TokenCode.CHAIN


def test_the_bundle_is_that_of_the_issuers_trust_domain() -> None:
    """With bundles of several domains, each speaks for its own alone."""
    evil = Ca("evil.example")
    both = Court(bundles={**CA.bundles, **evil.bundles})
    assert code(identity=evil.leaf(), court=both) == "admitted"
    posing = self_signed(evil.leaf(), said={"iss": str(PLANNER.id), "sub": str(PLANNER.id)})
    assert code(posing, evil.leaf(), court=both) == TokenCode.ISSUER
    forged = Identity((forge(evil.signer, PLANNER.key.public_key(), uris=[str(PLANNER.id)]),), PLANNER.key)
    assert code(identity=forged, court=both) == TokenCode.CHAIN


# -- what it says -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("said", "expected"),
    [
        ({"iss": str(MALLORY.id)}, TokenCode.SUBJECT),
        ({"sub": str(MALLORY.id)}, TokenCode.SUBJECT),
        ({"iss": str(MALLORY.id), "sub": str(MALLORY.id)}, TokenCode.ISSUER),
        ({"iss": str(PLANNER.id) + "/", "sub": str(PLANNER.id) + "/"}, TokenCode.ISSUER),
        (
            {"iss": "SPIFFE://example.org/agent/planner/1", "sub": "SPIFFE://example.org/agent/planner/1"},
            TokenCode.ISSUER,
        ),
        ({"iss": "planner", "sub": "planner"}, TokenCode.ISSUER),
        ({"iss": DROP}, TokenCode.ISSUER),
        ({"sub": DROP}, TokenCode.SUBJECT),
        ({"aud": "https://other.internal"}, TokenCode.AUDIENCE),
        ({"aud": [jwts.AUDIENCE, "x"]}, TokenCode.AUDIENCE),
        ({"cnf": DROP}, TokenCode.NOT_BOUND),
        ({"cnf": None}, TokenCode.NOT_BOUND),
        ({"cnf": {"jkt": b64(jwts.leaf_of(PLANNER))}}, TokenCode.NOT_BOUND),
        ({"cnf": jwts.confirmation(jwts.leaf_of(MALLORY))}, TokenCode.NOT_BOUND),
        ({"exp": int(NOW) + 301}, TokenCode.LIVES_TOO_LONG),
        ({"iat": int(NOW) - 1}, TokenCode.LIVES_TOO_LONG),
        ({"iat": int(NOW) - 400, "exp": int(NOW) - 100}, TokenCode.EXPIRED),
        ({"iat": int(NOW) - 330, "exp": int(NOW) - 30}, TokenCode.EXPIRED),
        ({"iat": int(NOW) - 329, "exp": int(NOW) - 29}, "admitted"),
        ({"iat": int(NOW) + 30, "exp": int(NOW) + 330}, "admitted"),
        ({"iat": int(NOW) + 31, "exp": int(NOW) + 331}, TokenCode.NOT_YET_VALID),
        ({"nbf": int(NOW) + 31}, TokenCode.NOT_YET_VALID),
        ({"iat": DROP}, TokenCode.CLAIM),
    ],
)
def test_what_it_says(said: dict[str, Any], expected: str) -> None:
    assert code(**said) == expected


# -- who signed it, and whose connection it is on ---------------------------------------------------------------------


@pytest.mark.threat(18)
def test_threat_18_another_key_than_the_leafs() -> None:
    assert code(self_signed(PLANNER, private=MALLORY.key)) == TokenCode.SIGNATURE
    assert code(self_signed(PLANNER, private=P384.key)) == TokenCode.SIGNATURE
    assert code(self_signed(DEEP, private=CA.key), DEEP) == TokenCode.SIGNATURE


@pytest.mark.threat(22)
def test_threat_22_somebody_elses_token_is_an_incident_and_opens_nothing() -> None:
    assert code(self_signed(PLANNER), MALLORY) == TokenCode.BOUND_ELSEWHERE
    # A name alone does not help: the certificate must be the one of the connection.
    assert code(self_signed(PLANNER), RENEWED) == TokenCode.BOUND_ELSEWHERE
    # Nor does a rule that lets unbound tokens pass.
    court, lax = Court(bundles=CA.bundles), replace(OF_SELF, bound=False)
    assert court.code(self_signed(PLANNER), lax, peer=holder_of(MALLORY)) == TokenCode.BOUND_ELSEWHERE
    assert court.code(self_signed(PLANNER, said={"cnf": DROP}), lax, peer=holder_of(MALLORY)) == TokenCode.NOT_BOUND


@pytest.mark.threat(22)
def test_threat_22_nobody_is_accused_for_a_token_that_nobody_signed() -> None:
    """Bytes that say that they are bound elsewhere: anybody can write those."""
    for token in (
        self_signed(PLANNER, private=MALLORY.key),
        self_signed(PLANNER, {"x5c": x5c(MALLORY)}, private=MALLORY.key),
        self_signed(FOREIGN),
        self_signed(STRANGER),
    ):
        assert code(token, MALLORY) in {TokenCode.SIGNATURE, TokenCode.ISSUER, TokenCode.CHAIN, TokenCode.NOT_BOUND}


def test_a_token_from_before_the_rotation() -> None:
    court, old, new = Court(bundles=CA.bundles), holder_of(PLANNER), holder_of(RENEWED)
    court.leaves.note(str(old.id), old.leaf_sha256, NOW)
    court.leaves.note(str(new.id), new.leaf_sha256, NOW)
    assert court.code(self_signed(PLANNER), OF_SELF, peer=new, now=NOW + 60) == TokenCode.ROTATED
    assert court.code(self_signed(PLANNER), OF_SELF, peer=new, now=NOW + 60.5) == TokenCode.BOUND_ELSEWHERE
    assert court.code(self_signed(PLANNER), OF_SELF, peer=holder_of(MALLORY)) == TokenCode.BOUND_ELSEWHERE


def test_it_needs_no_keys_of_anybody() -> None:
    court = Court(jwts.Holder(None), bundles=CA.bundles)
    assert code(court=court) == "admitted"
    assert code(self_signed(PLANNER, {"kid": "unknown"}), court=court) == "admitted"
    assert court.holder.asked == 0


@given(st.data())
def test_no_byte_of_it_may_be_another(data: st.DataObject) -> None:
    """Invariant: a token of which a byte is another is not admitted."""
    token = TOKEN
    place = data.draw(st.integers(0, len(token) - 1))
    other = data.draw(st.integers(0x21, 0x7E).filter(lambda byte: byte != token[place]))
    assert code(token[:place] + bytes([other]) + token[place + 1 :]) != "admitted"


TOKEN = self_signed(PLANNER)

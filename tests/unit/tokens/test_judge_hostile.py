"""A corpus of hostile tokens, each with its code; nobody is asked for keys, or accused, because of one."""

from __future__ import annotations

import hmac
import json
from dataclasses import replace
from typing import Any

import pytest
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from sidecar.tokens.codes import TokenCode
from sidecar.tokens.outcome import Admitted, Refused
from sidecar.tokens.token import MAX_BYTES
from tests.support.ca import keypair, rsa_keypair
from tests.support.jwts import (
    AUDIENCE,
    DROP,
    ISSUER,
    NOW,
    OTHER_LEAF,
    REQUIREMENT,
    Court,
    Holder,
    b64,
    caller,
    claims,
    compact,
    dump,
    header,
    jwk,
    key,
    key_set,
    token,
)

PUBLIC = key().public_key()


def by_secret(head: dict[str, Any], secret: bytes, hashed: str = "sha256") -> bytes:
    """Signed with HMAC: what a library makes of a public key that it takes for a secret."""
    return compact(dump(head), dump(claims()), lambda message: hmac.digest(secret, message, hashed))


def unsigned(head: dict[str, Any]) -> bytes:
    return compact(dump(head), dump(claims()), lambda _: b"")


def raw(head: str | None = None, said: str | None = None) -> bytes:
    """Signed well, over exactly this text."""
    return compact(head.encode() if head else dump(header()), said.encode() if said else dump(claims()))


def swapped(good: bytes, **said: Any) -> bytes:
    """The signature of a good token under other claims."""
    first, _, last = good.split(b".")
    return b".".join((first, b64(dump(claims(**said))).encode(), last))


MINE = keypair("attacker")
PEM = PUBLIC.public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
DER = PUBLIC.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
JWK = json.dumps(jwk(PUBLIC)).encode()
GOOD = token()

#: Each is wrong in one way; all that can be is signed by the issuer's own key.
HOSTILE: list[tuple[str, TokenCode, bytes]] = [
    # no algorithm, or another one (RFC 8725 2.1, 3.1)
    *((f"alg {alg}", TokenCode.ALGORITHM, unsigned(header(alg=alg))) for alg in ("none", "None", "NONE", "nOnE")),
    *(
        (f"alg {alg} signed", TokenCode.ALGORITHM, token({"alg": alg}, algorithm="ES256"))
        for alg in ("none", "", "es256")
    ),
    ("alg missing", TokenCode.ALGORITHM, token({"alg": DROP}, algorithm="ES256")),
    ("alg null", TokenCode.ALGORITHM, token({"alg": None}, algorithm="ES256")),
    ("alg list", TokenCode.ALGORITHM, token({"alg": ["ES256"]}, algorithm="ES256")),
    ("alg RS256, an ES256 key", TokenCode.ALGORITHM, token({"alg": "RS256"}, private=rsa_keypair())),
    ("alg ES384", TokenCode.ALGORITHM, token({"alg": "ES384"}, algorithm="ES256")),
    ("no signature", TokenCode.ALGORITHM, unsigned(header())),
    # the public key as a secret (CVE-2022-29217, RFC 8725 2.1)
    *(
        (f"HS256 by {form}", TokenCode.ALGORITHM, by_secret(header(alg="HS256"), secret))
        for form, secret in (("PEM", PEM), ("PEM, stripped", PEM.strip()), ("DER", DER), ("JWK", JWK), ("nothing", b""))
    ),
    ("HS512 by PEM", TokenCode.ALGORITHM, by_secret(header(alg="HS512"), PEM, "sha512")),
    *(
        (f"HMAC by {form} called ES256", TokenCode.SIGNATURE, by_secret(header(), secret, "sha512"))
        for form, secret in (("PEM", PEM), ("DER", DER), ("JWK", JWK))
    ),
    # a signature that is none (CVE-2022-21449), or of another
    ("signature of zeros", TokenCode.SIGNATURE, compact(dump(header()), dump(claims()), lambda _: b"\0" * 64)),
    ("short signature", TokenCode.SIGNATURE, compact(dump(header()), dump(claims()), lambda _: b"\1")),
    ("another key", TokenCode.SIGNATURE, token(private=MINE)),
    ("claims swapped", TokenCode.SIGNATURE, swapped(GOOD, sub="root")),
    # the key comes along (CVE-2018-0114, RFC 8725 3.10)
    ("jwk", TokenCode.EMBEDDED_KEY, token({"jwk": jwk(MINE.public_key())}, private=MINE)),
    ("jwk that is right", TokenCode.EMBEDDED_KEY, token({"jwk": jwk(PUBLIC)})),
    ("jku", TokenCode.EMBEDDED_KEY, token({"jku": "https://evil.example/jwks"}, private=MINE)),
    ("jku that is right", TokenCode.EMBEDDED_KEY, token({"jku": ISSUER.jwks})),
    ("x5u", TokenCode.EMBEDDED_KEY, token({"x5u": "https://evil.example/x"}, private=MINE)),
    ("x5c of another key", TokenCode.SIGNATURE, token({"x5c": ["AAAA"]}, private=MINE)),
    # kid (RFC 8725 3.10)
    *(
        (f"kid {kid!r}"[:40], TokenCode.KEY_ID, token({"kid": kid}))
        for kid in ("../../dev/null", "/etc/passwd", "k1' OR 1=1 --", "k1\0", "k1;id", "k" * 257, "", 1, ["k1"], None)
    ),
    # extensions (RFC 7515 4.1.11, CVE-2026-32597)
    ("crit unknown", TokenCode.CRITICAL, token({"crit": ["x"], "x": 1})),
    ("crit empty", TokenCode.CRITICAL, token({"crit": []})),
    ("crit null", TokenCode.CRITICAL, token({"crit": None})),
    ("crit known elsewhere", TokenCode.CRITICAL, token({"crit": ["b64"], "b64": True})),
    ("b64 false", TokenCode.CRITICAL, token({"b64": False})),
    # another kind of token (RFC 8725 2.8, RFC 9068 5)
    ("id token", TokenCode.TYPE, token({"typ": "JWT"})),
    ("no typ", TokenCode.TYPE, token({"typ": DROP})),
    ("typ null", TokenCode.TYPE, token({"typ": None})),
    ("our own self-signed", TokenCode.TYPE, token({"typ": "sidecar+jwt"})),
    ("a logout token", TokenCode.TYPE, token({"typ": "logout+jwt"})),
    ("nested", TokenCode.MALFORMED, compact(dump(header(cty="JWT")), GOOD)),
    ("JWE", TokenCode.MALFORMED, GOOD + b".AAAA.AAAA"),
    ("JSON serialisation", TokenCode.MALFORMED, b'{"payload":"e30","signature":"AAAA"}'),
    # text
    ("name twice", TokenCode.DUPLICATE_NAME, raw(said=f'{{"aud":"x",{json.dumps(claims())[1:]}')),
    ("name twice by an escape", TokenCode.DUPLICATE_NAME, raw(said=f'{{"\\u0061ud":"x",{json.dumps(claims())[1:]}')),
    ("header twice", TokenCode.DUPLICATE_NAME, raw(head=f'{{"alg":"none",{json.dumps(header())[1:]}')),
    ("name twice below", TokenCode.DUPLICATE_NAME, raw(said=f'{{"a":[{{"b":1,"b":1}}],{json.dumps(claims())[1:]}')),
    ("trailing data", TokenCode.MALFORMED, raw(said=json.dumps(claims()) + "{}")),
    ("BOM", TokenCode.MALFORMED, raw(said="\ufeff" + json.dumps(claims()))),
    ("UTF-16", TokenCode.MALFORMED, compact(dump(header()), json.dumps(claims()).encode("utf-16-le"))),
    ("surrogate", TokenCode.MALFORMED, raw(said=f'{{"a":"\\ud800",{json.dumps(claims())[1:]}')),
    ("NaN", TokenCode.MALFORMED, token(said={"exp": float("nan")})),
    ("Infinity", TokenCode.MALFORMED, token(said={"exp": float("inf")})),
    ("1e400", TokenCode.MALFORMED, raw(said=json.dumps(claims(exp=0)).replace('"exp": 0', '"exp": 1e400'))),
    (
        "a huge number",
        TokenCode.MALFORMED,
        raw(said=json.dumps(claims(exp=0)).replace('"exp": 0', '"exp": ' + "9" * 5000)),
    ),
    ("deep", TokenCode.MALFORMED, raw(said=f'{{"a":{"[" * 2200}{"]" * 2200},{json.dumps(claims())[1:]}')),
    ("a list", TokenCode.MALFORMED, raw(said=f"[{json.dumps(claims())}]")),
    ("too long", TokenCode.TOO_LONG, token(said={"a": "x" * MAX_BYTES})),
    ("not a JWT", TokenCode.MALFORMED, b"opaque-reference-token"),
    # times
    *((f"{name} text", TokenCode.CLAIM, token(said={name: str(int(NOW))})) for name in ("exp", "nbf", "iat")),
    *((f"{name} true", TokenCode.CLAIM, token(said={name: True})) for name in ("exp", "nbf", "iat")),
    *((f"{name} negative", TokenCode.CLAIM, token(said={name: -1})) for name in ("exp", "nbf", "iat")),
    *((f"{name} null", TokenCode.CLAIM, token(said={name: None})) for name in ("exp", "nbf", "iat")),
    *((f"{name} beyond", TokenCode.CLAIM, token(said={name: 10**20})) for name in ("exp", "nbf", "iat")),
    ("no exp", TokenCode.CLAIM, token(said={"exp": DROP})),
    ("no iat", TokenCode.CLAIM, token(said={"iat": DROP})),
]
#: THREATS 19.
AIMED_BADLY: list[tuple[str, TokenCode, bytes]] = [
    *(
        (f"aud {aud!r}"[:40], TokenCode.AUDIENCE, token(said={"aud": aud}))
        for aud in (
            *(DROP, None, "", [], [AUDIENCE, AUDIENCE], [AUDIENCE, "x"], [[AUDIENCE]], {AUDIENCE: 1}, 1, True),
            *(
                "https://other.internal",
                AUDIENCE + "/",
                AUDIENCE + " ",
                " " + AUDIENCE,
                AUDIENCE[:-1],
                AUDIENCE + ".evil",
            ),
            *(AUDIENCE.upper(), "HTTPS" + AUDIENCE[5:], AUDIENCE + "\0", AUDIENCE + "\u200b", "a " + AUDIENCE, ["x"]),
            AUDIENCE.replace("s", "\u017f"),
        )
    ),
    *(
        (f"iss {iss!r}"[:40], TokenCode.ISSUER, token(said={"iss": iss}))
        for iss in (
            *(DROP, None, "", 1, [ISSUER.issuer], {"iss": ISSUER.issuer}, "https://evil.example"),
            *(
                ISSUER.issuer + "/",
                ISSUER.issuer.upper(),
                ISSUER.issuer[:-1],
                ISSUER.issuer + ".evil",
                " " + ISSUER.issuer,
            ),
            "http" + ISSUER.issuer[5:],
        )
    ),
    *((f"sub {sub!r}", TokenCode.SUBJECT, token(said={"sub": sub})) for sub in (DROP, "", None, 1, ["a"])),
]


def params(corpus: list[tuple[str, TokenCode, bytes]]) -> Any:
    return pytest.mark.parametrize(
        ("expected", "hostile"), [(code, bad) for _, code, bad in corpus], ids=[name for name, _, _ in corpus]
    )


def check_hostile(expected: TokenCode, hostile: bytes) -> None:
    """It has its code, nobody is asked for keys because of it, nobody accused, and it is not remembered."""
    court = Court()
    outcome = court.outcome(hostile)
    assert isinstance(outcome, Refused)
    assert (outcome.code, outcome.token) == (expected, None)
    assert len(court.memory._found) == 0
    assert all(len(part) < 8 or part.decode("latin-1") not in repr(outcome) for part in hostile.split(b"."))
    # Bound to another certificate or not: that is not even looked at.
    assert court.code(hostile, peer=caller(OTHER_LEAF)) == expected
    if expected is not TokenCode.SIGNATURE:
        # It is bad by itself: without keys it gets the same answer, and none are fetched.
        nothing = Court(Holder(None, refresh=True))
        assert nothing.code(hostile) == expected
        assert nothing.holder.asked == 0


@pytest.mark.threat(18)
@params(HOSTILE)
def test_threat_18_hostile_tokens(expected: TokenCode, hostile: bytes) -> None:
    check_hostile(expected, hostile)


@pytest.mark.threat(19)
@params(AIMED_BADLY)
def test_threat_19_tokens_of_others_and_for_others(expected: TokenCode, hostile: bytes) -> None:
    check_hostile(expected, hostile)


GOOD_ONES: list[tuple[str, bytes]] = [
    ("plain", GOOD),
    ("without kid", token({"kid": DROP})),
    ("typ in capitals", token({"typ": "AT+JWT"})),
    ("typ in full", token({"typ": "application/at+jwt"})),
    ("list of one audience", token(said={"aud": [AUDIENCE]})),
    ("fractions of seconds", token(said={"iat": NOW - 0.5, "exp": NOW + 0.5})),
    ("no jti", token(said={"jti": DROP})),
    ("other claims", token(said={"roles": ["a"], "act": {"sub": "x"}, "a": float(10**15)})),
    ("x5c", token({"x5c": ["AAAA"]})),
    ("written with escapes", raw(said=json.dumps(claims()).replace("planner", "pl\\u0061nner"))),
    ("written with blanks", raw(said=json.dumps(claims(), indent=1) + "\n")),
]


@pytest.mark.parametrize("good", [good for _, good in GOOD_ONES], ids=[name for name, _ in GOOD_ONES])
def test_good_tokens(good: bytes) -> None:
    """All of what hostile ones are made of, so that those are refused for what is wrong with them."""
    outcome = Court().outcome(good)
    assert isinstance(outcome, Admitted)
    assert outcome.requirement is REQUIREMENT
    assert (outcome.token.issuer, outcome.token.subject) == (ISSUER.issuer, "planner")


def test_the_longest_token() -> None:
    size = (MAX_BYTES - len(token(said={"a": ""}))) * 3 // 4
    lengths = {len(good): good for good in (token(said={"a": "x" * (size + more)}) for more in range(-4, 5))}
    longest = max(length for length in lengths if length <= MAX_BYTES)
    assert MAX_BYTES - longest < 2
    assert Court().code(lengths[longest]) == "admitted"
    assert Court().code(lengths[min(length for length in lengths if length > MAX_BYTES)]) == TokenCode.TOO_LONG


@pytest.mark.threat(18)
@pytest.mark.parametrize("algorithm", ["RS256", "PS256"])
def test_threat_18_an_rsa_issuers_public_key_is_no_secret(algorithm: str) -> None:
    private = rsa_keypair()
    public = private.public_key()
    pem = public.public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
    court = Court(Holder(key_set(jwk(public))), replace(ISSUER, algorithms=(algorithm,)))
    assert court.code(token({"alg": algorithm}, private=private)) == "admitted"
    assert court.code(by_secret(header(alg="HS256"), pem)) == TokenCode.ALGORITHM
    assert court.code(by_secret(header(alg=algorithm), pem)) == TokenCode.SIGNATURE
    other = "PS256" if algorithm == "RS256" else "RS256"
    assert court.code(token({"alg": other}, private=private)) == TokenCode.ALGORITHM
    assert court.code(token({"alg": other}, private=private, algorithm=algorithm)) == TokenCode.ALGORITHM
    assert court.code(token({"alg": algorithm}, private=private, algorithm=other)) == TokenCode.SIGNATURE


@pytest.mark.threat(18)
def test_threat_18_a_shared_key_in_the_set_is_none() -> None:
    secret = b"s" * 32
    keys = key_set(jwk(PUBLIC), {"kty": "oct", "k": b64(secret), "kid": "shared", "alg": "HS256"})
    court = Court(Holder(keys))
    assert court.code(by_secret(header(alg="HS256", kid="shared"), secret)) == TokenCode.ALGORITHM
    assert court.code(by_secret(header(kid="shared"), secret, "sha512")) == TokenCode.KEY_UNKNOWN

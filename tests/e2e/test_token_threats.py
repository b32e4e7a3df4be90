"""Ensures that no way to forge an issuer's signature gets a request through (THREATS 18).

The caller is one that the rule names, over mutual TLS; only its token is wrong. Each time the answer is 401 with
``invalid_token``, the log and the metrics say why, and the server behind, whose requests are all kept, has nothing.
What a token says about where keys are leads to a server that sees no connection, and the issuer's keys are not asked
for anew.
"""

from __future__ import annotations

import base64
import hmac
import json
from typing import TYPE_CHECKING, Any, Final

import pytest
from cryptography.hazmat.primitives.asymmetric.utils import encode_dss_signature
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from tests.support import jwts
from tests.support.ca import Ca, keypair, rsa_keypair
from tests.support.guarded import KINDS, Attack, Guarded
from tests.support.jwts import DROP, compact, dump
from tests.support.processes import now

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from tests.support.guarded import Make

    Sign = Callable[[bytes], bytes]

#: The order of P-256 (SP 800-186 3.2.1.3): a signature's numbers are below it, and not zero.
ORDER: Final = 0xFFFFFFFF00000000FFFFFFFFFFFFFFFFBCE6FAADA7179E84F3B9CAC2FC632551
MALLORY: Final = keypair("mallory")
MALLORYS_RSA: Final = rsa_keypair("mallory")


@pytest.fixture(scope="module")
def guarded() -> Iterator[Guarded]:
    with Guarded() as made:
        for kind in KINDS:
            assert made.ask("/good", made.token(kind=kind), kind=kind).status == 200
        yield made


def headed(**head: Any) -> Make:
    """A good token with another header, signed by the issuer."""
    return lambda g: g.token(head)


def signed(sign: Sign, kind: str = "corp", **head: Any) -> Make:
    """A token that is good but for its header, signed in this way."""
    return lambda g: compact(dump(g.header(kind, **head)), dump(g.claims(kind)), sign)


def by(private: Any, algorithm: str) -> Sign:
    return lambda message: jwts.signature(private, algorithm, message)


def corp(message: bytes) -> bytes:
    """As the issuer "corp" signs."""
    return jwts.signature(KINDS["corp"][1], "ES256", message)


# -- algorithms -------------------------------------------------------------------------------------------------------


def secrets(kind: str) -> dict[str, bytes]:
    """What a careless verifier could take for the secret of an HMAC: the issuer's public key, however it is written."""
    key = KINDS[kind][1].public_key()
    found = {
        "pem": key.public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo),
        "stripped-pem": key.public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo).strip(),
        "der": key.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo),
        "jwk": json.dumps(jwts.jwk(key, kid=f"{kind}-1")).encode(),
        "nothing": b"",
    }
    return found | ({"pkcs1": key.public_bytes(Encoding.PEM, PublicFormat.PKCS1)} if kind == "rsa" else {})


def confusions() -> list[Attack]:
    found = []
    for kind in KINDS:
        for name, secret in secrets(kind).items():
            for bits in ("256", "512"):

                def sign(message: bytes, secret: bytes = secret, bits: str = bits) -> bytes:
                    return hmac.digest(secret, message, f"sha{bits}")

                found.append(Attack(f"hs{bits}-{name}", "token_algorithm", signed(sign, kind, alg=f"HS{bits}"), kind))
    return found


ALGORITHMS = [
    *confusions(),
    *(Attack(f"unsigned-{alg}", "token_algorithm", signed(lambda _: b"", alg=alg)) for alg in ("none", "ES256")),
    *(
        Attack(f"alg-{number}", "token_algorithm", headed(alg=alg))
        for number, alg in enumerate(
            ("none", "None", "nOnE", "", "es256", "ES256 ", "ES384", None, 7, ["ES256"], {"ES256": 1}, DROP)
        )
    ),
    Attack("rs256-by-mallory", "token_algorithm", signed(by(MALLORYS_RSA, "RS256"), alg="RS256")),
    Attack("ps256-by-mallory", "token_algorithm", signed(by(MALLORYS_RSA, "PS256"), alg="PS256")),
    Attack("es256-by-mallory", "token_algorithm", signed(by(MALLORY, "ES256"), "rsa", alg="ES256"), "rsa"),
    Attack("ps256-by-the-issuer", "token_algorithm", signed(by(KINDS["rsa"][1], "PS256"), "rsa", alg="PS256"), "rsa"),
    Attack("ps256-that-says-rs256", "token_signature", signed(by(KINDS["rsa"][1], "PS256"), "rsa"), "rsa"),
]

# -- keys -------------------------------------------------------------------------------------------------------------

PATHS = ("../../../../dev/null", "/dev/null", "..", "corp-1/../x", "file:///dev/null", "https://localhost/jwks")
INJECTED = ("x' UNION SELECT 'key", "$(id)", "corp-1|id", "corp-1\x00", "corp-1\n", "corp 1", "", "k" * 257)
NO_TEXT = (None, 1, True, ["corp-1"], {"corp-1": 1})
UNHEARD: Final = "https://example.org/unheard-of"


def brought(name: str) -> Make:
    """A token of somebody else's that brings its key along, or says where it is to be had."""

    def make(g: Guarded) -> bytes:
        value: Any = g.elsewhere.url("/jwks")
        if name == "jwk":
            value = jwts.jwk(MALLORY.public_key(), kid="corp-1")
        elif name == "x5c":
            stranger = Ca(now=now(), key="mallory").leaf("/agent/planner/1", now=now(), key=MALLORY)
            value = [base64.b64encode(each).decode() for each in stranger.der]
        return g.token({name: value}, private=MALLORY)

    return make


def no_key(message: bytes) -> bytes:
    return hmac.digest(b"", message, "sha256")


KEYS = [
    *(Attack(name, "token_embedded_key", brought(name)) for name in ("jwk", "jku", "x5u")),
    Attack("jwk-of-the-issuer", "token_embedded_key", headed(jwk=jwts.jwk(KINDS["corp"][1].public_key()))),
    Attack("jku-of-the-issuer", "token_embedded_key", lambda g: g.token({"jku": g.jwks.url("/jwks")})),
    Attack("x5c", "token_signature", brought("x5c")),
    Attack("another-key", "token_signature", lambda g: g.token(private=MALLORY)),
    Attack("another-key-without-kid", "token_signature", lambda g: g.token({"kid": DROP}, private=MALLORY)),
    Attack("another-rsa-key", "token_signature", lambda g: g.token(kind="rsa", private=MALLORYS_RSA), "rsa"),
    *(Attack(f"kid-{n}", "token_key_id", headed(kid=kid)) for n, kid in enumerate((*PATHS, *INJECTED, *NO_TEXT))),
    *(
        Attack(f"kid-{n}-no-key", "token_algorithm", signed(no_key, alg="HS256", kid=kid))
        for n, kid in enumerate(PATHS)
    ),
    Attack("kid-unknown", "token_key_unknown", headed(kid="corp-2")),
    Attack("kid-of-another-kind", "token_key_unknown", headed(kid="rsa-1")),
    *(
        Attack(f"crit-{n}", "token_critical", headed(**head))
        for n, head in enumerate(
            (
                {"crit": ["exp"]},
                {"crit": ["b64"], "b64": False},
                {"crit": ["b64"], "b64": True},
                {"crit": [UNHEARD], UNHEARD: True},
                {"crit": []},
                {"crit": None},
                {"crit": "exp"},
                {"b64": False},
            )
        )
    ),
]

# -- signatures -------------------------------------------------------------------------------------------------------


def pair(r: int, s: int) -> Sign:
    return lambda _: r.to_bytes(32, "big") + s.to_bytes(32, "big")


def as_der(message: bytes) -> bytes:
    made = corp(message)
    return encode_dss_signature(int.from_bytes(made[:32], "big"), int.from_bytes(made[32:], "big"))


SIGNATURES = [
    *(
        Attack(f"r-{r % 2**8}-s-{s % 2**8}", "token_signature", signed(pair(r, s)))
        for r, s in ((0, 0), (0, 1), (1, 0), (1, 1), (ORDER, ORDER), (0, ORDER), (2**256 - 1, 2**256 - 1))
    ),
    Attack("der", "token_signature", signed(as_der)),
    Attack("der-zero", "token_signature", signed(lambda _: encode_dss_signature(0, 0))),
    Attack("short", "token_signature", signed(lambda message: corp(message)[:63])),
    Attack("long", "token_signature", signed(lambda message: corp(message) + b"\0")),
    Attack("empty", "token_algorithm", signed(lambda _: b"")),
    Attack("of-another-message", "token_signature", signed(lambda message: corp(message[1:]))),
    Attack("rsa-zero", "token_signature", signed(lambda _: bytes(256), "rsa"), "rsa"),
    Attack("rsa-one", "token_signature", signed(lambda _: bytes(255) + b"\1", "rsa"), "rsa"),
]

ATTACKS = [*ALGORITHMS, *KEYS, *SIGNATURES]


@pytest.mark.threat(18)
@pytest.mark.parametrize("attack", ATTACKS, ids=lambda attack: f"{attack.kind}-{attack.name}")
def test_threat_18_no_forged_token_gets_through(guarded: Guarded, attack: Attack) -> None:
    attack.fails(guarded, f"/18/{ATTACKS.index(attack)}")


@pytest.mark.threat(18, 23)
def test_threat_18_nothing_of_it_made_us_fetch_keys_or_believe_less(guarded: Guarded) -> None:
    """A good token goes through, so that no refusal is for another reason than the one it names."""
    g = guarded
    before = g.tools.metric("jwks_refreshed_total", issuer="corp", result="ok")
    for name in ("jku", "jwk", "kid-0", "crit-0", "r-0-s-0", "alg-0"):
        attack = next(each for each in ATTACKS if each.name == name)
        attack.fails(g, f"/18/again/{name}")
    assert g.tools.metric("jwks_refreshed_total", issuer="corp", result="ok") == before
    for kind in KINDS:
        assert g.ask("/good", g.token(kind=kind), kind=kind).status == 200
        assert g.ask("/good", g.token({"kid": DROP}, kind=kind), kind=kind).status == 200
    assert {request.split(b"\r\n")[0] for request in g.jwks.requests} == {b"GET /jwks HTTP/1.1"}
    assert g.elsewhere.connections == 0

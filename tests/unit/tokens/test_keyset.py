"""An issuer's keys: which entries of a JWK Set are used, for what, and that a signature is checked by those alone."""

from __future__ import annotations

import functools
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric import ec, ed448, ed25519
from cryptography.hazmat.primitives.asymmetric.utils import decode_dss_signature, encode_dss_signature
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from hypothesis import given
from hypothesis import strategies as st

from sidecar.tokens.codes import SourceCode, SourceError
from sidecar.tokens.keyset import ALGORITHMS, MAX_KEYS, MAX_TRIED, read_keys, signature_holds
from tests.support import jwts
from tests.support.ca import keypair, rsa_keypair
from tests.support.jwts import DROP, Private, b64, compact, dump, jwk, key, number

CURVES = {"ES256": ec.SECP256R1, "ES384": ec.SECP384R1, "ES512": ec.SECP521R1}


@functools.cache
def private(algorithm: str) -> Private:
    """A key for that algorithm."""
    if algorithm in CURVES:
        return keypair(f"issuer {algorithm}", curve=CURVES[algorithm])
    return ed25519.Ed25519PrivateKey.generate() if algorithm == "EdDSA" else rsa_keypair("issuer")


def count(*entries: object) -> int:
    """How many keys are read beside one that is good."""
    return len(read_keys({"keys": [jwk(key().public_key(), kid="good"), *entries]})) - 1


def refused(document: dict[str, Any]) -> SourceCode:
    with pytest.raises(SourceError) as caught:
        read_keys(document)
    return caught.value.code


# -- which entries are keys -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("algorithm", sorted(ALGORITHMS))
@pytest.mark.parametrize("named", [True, False])
def test_every_algorithm(algorithm: str, named: bool) -> None:
    entry = jwk(private(algorithm).public_key(), alg=algorithm if named else DROP)
    (found,) = jwts.key_set(entry).find(jwts.KEY_ID, algorithm)
    token = jwts.token({"alg": algorithm}, private=private(algorithm))
    assert signature_holds(token, found, algorithm)
    others = [each for each in ALGORITHMS - {algorithm} if jwts.key_set(entry).find(jwts.KEY_ID, each)]
    assert not any(signature_holds(token, found, each) for each in ALGORITHMS - {algorithm})
    # An RSA key that names no algorithm is for all of them; the configuration says which.
    assert {each[:2] for each in others} == ({"RS", "PS"} if algorithm[:2] in {"RS", "PS"} and not named else set())


def test_ed448_goes_by_the_same_name() -> None:
    own = ed448.Ed448PrivateKey.generate()
    (found,) = jwts.key_set(jwk(own.public_key())).find(jwts.KEY_ID, "EdDSA")
    assert signature_holds(jwts.token({"alg": "EdDSA"}, private=own), found, "EdDSA")


PUBLIC = keypair("another").public_key()


@pytest.mark.parametrize(
    "entry",
    [
        *(None, 1, "key", [], {}, [jwk(PUBLIC)]),
        jwk(PUBLIC, kty=DROP),
        jwk(PUBLIC, kty="RSA"),
        jwk(PUBLIC, kty=["EC"]),
        jwk(PUBLIC, kty={"EC": 1}),
        jwk(PUBLIC, kty="ec"),
        {"kty": "oct", "k": b64(b"x" * 32), "kid": "a", "alg": "HS256"},
        {"kty": "oct", "k": b64(b"x" * 32), "kid": "a"},
        {"kty": "oct", "k": b64(PUBLIC.public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)), "alg": "ES256"},
        jwk(PUBLIC, alg="HS256"),
        jwk(PUBLIC, alg="none"),
        jwk(PUBLIC, alg="ES384"),
        jwk(PUBLIC, alg="RS256"),
        jwk(PUBLIC, alg="EdDSA"),
        jwk(PUBLIC, alg="ES256K"),
        jwk(PUBLIC, alg=""),
        jwk(PUBLIC, alg=1),
        jwk(PUBLIC, alg=["ES256"]),
        jwk(PUBLIC, kid=1),
        jwk(PUBLIC, kid=["a"]),
        jwk(PUBLIC, use="enc"),
        jwk(PUBLIC, use=""),
        jwk(PUBLIC, use=["sig"]),
        jwk(PUBLIC, use={"sig": 1}),
        jwk(PUBLIC, key_ops=["sign"]),
        jwk(PUBLIC, key_ops=["encrypt", "wrapKey"]),
        jwk(PUBLIC, key_ops=[]),
        jwk(PUBLIC, key_ops="verify"),
        jwk(PUBLIC, key_ops={"verify": 1}),
        jwk(PUBLIC, d=number(keypair("another").private_numbers().private_value)),
        jwk(PUBLIC, d=""),
        jwk(PUBLIC, d=None),
        jwk(PUBLIC, crv="P-384"),
        jwk(PUBLIC, crv="P-521"),
        jwk(PUBLIC, crv="secp256k1"),
        jwk(PUBLIC, crv="Ed25519"),
        jwk(PUBLIC, crv=DROP),
        jwk(PUBLIC, crv=["P-256"]),
        jwk(PUBLIC, x=DROP),
        jwk(PUBLIC, x=""),
        jwk(PUBLIC, x="!!!"),
        jwk(PUBLIC, x=1),
        jwk(PUBLIC, x=["a"]),
        jwk(PUBLIC, x=None),
        jwk(PUBLIC, x="\u00e9"),
        jwk(PUBLIC, x=number(1, 32)),  # no point of the curve
        jwk(PUBLIC, x=number(0, 32), y=number(0, 32)),  # the point at infinity, to some
        jwk(PUBLIC, x=number(1, 31)),
        jwk(PUBLIC, x=number(2**256 - 1)),
        jwk(ec.generate_private_key(ec.SECP256K1()).public_key()),
        jwk(ed25519.Ed25519PrivateKey.generate().public_key(), x=b64(b"x" * 31)),
        jwk(ed25519.Ed25519PrivateKey.generate().public_key(), crv="X25519"),
        jwk(ed25519.Ed25519PrivateKey.generate().public_key(), crv="Ed448"),
        jwk(ed25519.Ed25519PrivateKey.generate().public_key(), alg="ES256"),
        jwk(rsa_keypair(bits=1024).public_key()),
        jwk(rsa_keypair(bits=1024).public_key(), alg="RS256"),
        jwk(rsa_keypair().public_key(), n=number(2**2046 + 1)),
        jwk(rsa_keypair().public_key(), n=number(2**8192 + 1)),
        jwk(rsa_keypair().public_key(), n=number(2**16383 + 1)),
        jwk(rsa_keypair().public_key(), e=number(1)),
        jwk(rsa_keypair().public_key(), e=number(65536)),
        jwk(rsa_keypair().public_key(), e=""),
        jwk(rsa_keypair().public_key(), n=""),
        jwk(rsa_keypair().public_key(), n=[]),
        jwk(rsa_keypair().public_key(), n=DROP),
        jwk(rsa_keypair().public_key(), alg="ES256"),
        jwk(rsa_keypair().public_key(), d="AQAB"),
    ],
)
def test_what_is_no_key_for_signatures_is_left_out_and_the_others_stay(entry: object) -> None:
    assert count(entry) == 0
    assert refused({"keys": [entry]}) is SourceCode.BAD_ANSWER


@pytest.mark.parametrize(
    "changes",
    [
        {"use": DROP},
        {"use": "sig"},
        {"kid": DROP},
        {"key_ops": ["verify"]},
        {"key_ops": ["sign", "verify"]},
        {"x5c": ["AAAA"], "x5t": "x", "x5u": "https://issuer.example/x", "iat": 1, "odd": {"a": []}},
    ],
)
def test_what_is_a_key(changes: dict[str, Any]) -> None:
    assert count(jwk(PUBLIC, **changes)) == 1


@pytest.mark.parametrize("bits", [2048, 3072])
def test_rsa_keys_of_a_size_that_serves(bits: int) -> None:
    assert count(jwk(rsa_keypair(bits=bits).public_key())) == 1


@pytest.mark.threat(23)
@pytest.mark.parametrize(
    "document",
    [
        {},
        {"keys": None},
        {"keys": []},
        {"keys": {}},
        {"keys": "x"},
        {"keys": {"a": jwk(PUBLIC)}},
        {"Keys": [jwk(PUBLIC)]},
    ],
)
def test_threat_23_what_holds_no_key_is_no_answer(document: dict[str, Any]) -> None:
    assert refused(document) is SourceCode.BAD_ANSWER


@pytest.mark.threat(23)
def test_threat_23_a_set_of_too_many_keys_is_no_answer() -> None:
    most = [jwk(PUBLIC, kid=str(i)) for i in range(MAX_KEYS)]
    assert len(read_keys({"keys": most})) == MAX_KEYS
    assert refused({"keys": [*most, {}]}) is SourceCode.BAD_ANSWER


# -- which key a token is checked with --------------------------------------------------------------------------------


def test_keys_are_found_by_kid_and_algorithm() -> None:
    one, two, rsa = keypair("one").public_key(), keypair("two").public_key(), rsa_keypair().public_key()
    keys = jwts.key_set(jwk(one, kid="1"), jwk(two, kid="2"), jwk(rsa, kid="3"), jwk(two, kid=DROP))
    assert keys.find("1", "ES256") == [one]
    assert keys.find("3", "RS256") == [rsa]
    assert [keys.find(*asked) for asked in (("3", "ES256"), ("1", "ES384"), ("4", "ES256"), ("", "ES256"))] == [[]] * 4
    assert keys.find(None, "ES256") == [one, two, two]
    # A kid is compared whole, and by case.
    assert jwts.key_set(jwk(one, kid="Ab")).find("ab", "ES256") == []


def test_two_keys_of_one_name_are_both_tried_but_not_any_number() -> None:
    one, two = keypair("one"), keypair("two")
    keys = jwts.key_set(jwk(one.public_key()), jwk(two.public_key()))
    court = jwts.Court(jwts.Holder(keys))
    assert [court.code(jwts.token(private=own)) for own in (one, two)] == ["admitted", "admitted"]
    many = [jwk(keypair(f"many {i}").public_key()) for i in range(MAX_TRIED + 1)]
    assert len(jwts.key_set(*many).find(jwts.KEY_ID, "ES256")) == MAX_TRIED
    assert len(jwts.key_set(*many).find(None, "ES256")) == MAX_TRIED


def test_a_set_is_another_when_anything_in_it_is() -> None:
    first = jwk(keypair("one").public_key())
    assert jwts.key_set(first).version == jwts.key_set(dict(reversed(first.items()))).version
    others = [
        jwts.key_set(jwk(keypair("two").public_key())),
        jwts.key_set({**first, "kid": "other"}),
        jwts.key_set({**first, "alg": "ES256"}),
        jwts.key_set(first, jwk(keypair("two").public_key())),
    ]
    assert len({each.version for each in (jwts.key_set(first), *others)}) == 5


# -- signatures -------------------------------------------------------------------------------------------------------

ORDER = 0xFFFFFFFF00000000FFFFFFFFFFFFFFFFBCE6FAADA7179E84F3B9CAC2FC632551


def pair(r: int, s: int) -> bytes:
    return r.to_bytes(32, "big") + s.to_bytes(32, "big")


@pytest.mark.threat(18)
@pytest.mark.parametrize(
    "forged",
    [
        pair(0, 0),
        pair(0, 1),
        pair(1, 0),
        pair(1, 1),
        pair(ORDER, ORDER),
        pair(ORDER, 1),
        pair(1, ORDER),
        pair(2**256 - 1, 2**256 - 1),
        b"\0",
        b"\0" * 63,
        b"\0" * 65,
        b"\0" * 96,
        b"\0" * 132,
        b"\x30\x06\x02\x01\x00\x02\x01\x00",
        b"x" * 64,
    ],
)
def test_threat_18_signatures_of_nothing(forged: bytes) -> None:
    """CVE-2022-21449: r and s of zero, or of the group's order, held for every key and message."""
    token = compact(dump(jwts.header()), dump(jwts.claims()), lambda _: forged)
    assert not signature_holds(token, key().public_key(), "ES256")


@pytest.mark.threat(18)
def test_threat_18_a_signature_has_one_form() -> None:
    """RFC 7518 3.4: R || S of fixed length, and no DER. (n - s for s is as good by ECDSA itself: the content is the same.)"""

    def der(message: bytes) -> bytes:
        good = jwts.signature(key(), "ES256", message)
        return encode_dss_signature(int.from_bytes(good[:32], "big"), int.from_bytes(good[32:], "big"))

    def longer(message: bytes) -> bytes:
        r, s = decode_dss_signature(der(message))
        return r.to_bytes(33, "big") + s.to_bytes(33, "big")

    def other_s(message: bytes) -> bytes:
        r, s = decode_dss_signature(der(message))
        return pair(r, ORDER - s)

    header, said = dump(jwts.header()), dump(jwts.claims())
    for form, holds in ((der, False), (longer, False), (other_s, True)):
        assert signature_holds(compact(header, said, form), key().public_key(), "ES256") is holds


@pytest.mark.threat(18)
def test_threat_18_a_key_checks_nothing_of_another_kind() -> None:
    tokens = {algorithm: jwts.token({"alg": algorithm}, private=private(algorithm)) for algorithm in ALGORITHMS}
    for algorithm, token in tokens.items():
        for other in ALGORITHMS:
            same = other == algorithm
            assert signature_holds(token, private(algorithm).public_key(), other) is same
    for algorithm in ("none", "HS256", "", "ES256K"):
        assert not signature_holds(tokens["ES256"], private("ES256").public_key(), algorithm)


def test_what_is_no_token_at_all_is_not_signed() -> None:
    for token in (b"", b"..", b"a.b.c", b"\xff.\xff.\xff", compact(b"[]", b"{}"), compact(b"[" * 3000, b"{}")):
        assert signature_holds(token, key().public_key(), "ES256") is False


# -- properties -------------------------------------------------------------------------------------------------------

VALUES = (
    st.none() | st.integers() | st.text(max_size=6) | st.lists(st.text(max_size=6), max_size=2) | st.just({"a": []})
)
NAMES = st.sampled_from(["kty", "crv", "x", "y", "n", "e", "alg", "use", "kid", "key_ops", "d", "k"])
GOOD = st.sampled_from([jwk(PUBLIC), jwk(rsa_keypair().public_key()), jwk(private("EdDSA").public_key())])


@given(GOOD, st.dictionaries(NAMES, VALUES, max_size=3))
def test_no_entry_spoils_the_set_it_is_in(entry: dict[str, Any], changes: dict[str, Any]) -> None:
    """Invariant: whatever an entry holds it is read or left out; the good key beside it is found."""
    good = key().public_key()
    keys = read_keys({"keys": [{**entry, **changes}, jwk(good, kid="good")]})
    assert keys.find("good", "ES256")[-1] == good


@given(
    st.lists(st.recursive(VALUES, lambda inner: st.dictionaries(NAMES, inner, max_size=4), max_leaves=8), max_size=4)
)
def test_any_list_of_keys_is_read_or_refused(entries: list[Any]) -> None:
    """Invariant: read_keys raises SourceError with BAD_ANSWER, or returns a set with at least one key."""
    try:
        assert len(read_keys({"keys": entries})) > 0
    except SourceError as error:
        assert error.code is SourceCode.BAD_ANSWER  # noqa: PT017 - one of two good ends

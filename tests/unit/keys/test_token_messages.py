from __future__ import annotations

import base64
import copy
import json
import sys
from typing import TYPE_CHECKING, Any

import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from hypothesis import given
from hypothesis import strategies as st

from sidecar.clock import Clock
from sidecar.identity.verify import MAX_CHAIN_CERTIFICATES
from sidecar.keys.messages import Recognisers
from sidecar.keys.protection import Protection
from sidecar.keys.software import SoftwareSigner, load
from sidecar.keys.token_messages import (
    ASSERTION_SECONDS,
    CLOCK_SECONDS,
    MAX_BYTES,
    MAX_CERTIFICATES,
    SELF_SIGNED_SECONDS,
    Assertions,
    Client,
    Mandate,
    SelfSigned,
    is_name,
)
from sidecar.threads import Workers
from sidecar.tokens.settings import ClientAuth, OAuth2Source, SelfSignedSource
from sidecar.tokens.sources.client_auth import ClientAuthentication
from sidecar.tokens.sources.self_signed import SelfSigned as SelfSignedTokens
from sidecar.tokens.sources.source import Means
from tests.support.ca import NOW, Ca, keypair, rsa_keypair
from tests.support.signing_inputs import ISSUER, JTI, Parts, assertion, base64url, joined, longest, self_signed

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from sidecar.keys.signer import Hash
    from tests.support.ca import Identity

CA = Ca()
PLANNER = CA.leaf()
PLANNER_384 = CA.leaf("/agent/planner/384", key=keypair("planner on P-384", curve=ec.SECP384R1))
#: The planner under two intermediates.
DEEP = CA.intermediate("upper").intermediate("lower").leaf(key=PLANNER.key)
OTHER = CA.leaf("/agent/other/1")
RSA = CA.leaf("/agent/rsa/1", key=rsa_keypair())
CLIENT = "client=1"


def public(identity: Identity) -> ec.EllipticCurvePublicKey:
    key = identity.key.public_key()
    assert isinstance(key, ec.EllipticCurvePublicKey)
    return key


def tokens(identity: Identity = PLANNER) -> SelfSigned:
    return SelfSigned(public(identity), str(identity.id), frozenset({ISSUER}))


def assertions(identity: Identity = PLANNER) -> Assertions:
    return Assertions(public(identity), frozenset({Client(ISSUER, CLIENT), Client("another issuer", "client 2")}))


def token(identity: Identity = PLANNER, **knobs: Any) -> Parts:
    return self_signed(identity.der, str(identity.id), NOW, **knobs)


KINDS: dict[str, tuple[Callable[[bytes, float], bool], Parts]] = {
    "self-signed": (tokens().knows, token()),
    "assertion": (assertions().knows, assertion(CLIENT, ISSUER, NOW)),
    "assertion with kid": (
        assertions().knows,
        Parts({**assertion(CLIENT, ISSUER, NOW).header, "kid": "key 1"}, assertion(CLIENT, ISSUER, NOW).claims),
    ),
}
each = pytest.mark.parametrize(("knows", "good"), KINDS.values(), ids=KINDS)
only_tokens = pytest.mark.parametrize(("knows", "good"), [KINDS["self-signed"]], ids=["self-signed"])
only_assertions = pytest.mark.parametrize(("knows", "good"), list(KINDS.values())[1:], ids=list(KINDS)[1:])


def changed(good: Parts, part: str, name: str, value: Any) -> bytes:
    """A good message with one member of another value, in its place."""
    made = copy.deepcopy(good)
    assert name in getattr(made, part)
    getattr(made, part)[name] = value
    return made.message


def text(part: dict[str, Any]) -> str:
    return json.dumps(part, separators=(",", ":"))


def members(good: Parts) -> Iterable[tuple[str, str, Any]]:
    for part in ("header", "claims"):
        for name, value in getattr(good, part).items():
            yield part, name, value


# -- what is recognised -------------------------------------------------------------------------------------------------


@each
def test_what_is_recognised(knows: Callable[[bytes, float], bool], good: Parts) -> None:
    assert knows(good.message, NOW)
    assert good.message.startswith(b"eyJ")
    assert knows(changed(good, "claims", "jti", "A" * 22), NOW)


@pytest.mark.parametrize("identity", [PLANNER_384, DEEP], ids=["P-384", "chain"])
def test_other_keys_and_chains(identity: Identity) -> None:
    alg = "ES384" if identity is PLANNER_384 else "ES256"
    assert tokens(identity).knows(token(identity, alg=alg).message, NOW)
    assert assertions(identity).knows(assertion(CLIENT, ISSUER, NOW, alg=alg).message, NOW)
    wrong = "ES256" if identity is PLANNER_384 else "ES384"
    assert not tokens(identity).knows(token(identity, alg=wrong).message, NOW)
    assert not assertions(identity).knows(assertion(CLIENT, ISSUER, NOW, alg=wrong).message, NOW)


@pytest.mark.parametrize(
    "audience", ["x", "x" * 1024, "https://tools.example.org/mcp", "~ !\"\\/'", "Z\u00fcrich", "\U0001f511"]
)
def test_any_one_audience(audience: str) -> None:
    assert tokens().knows(token(audience=audience).message, NOW)


@pytest.mark.parametrize(
    "audience",
    ["", "x" * 1025, "a\n", "a\0b", "a\x7f", "\u2028", "\ud800", ISSUER, ["tools"], ["tools", "x"], {"tools": 1}, 5],
)
def test_no_other_audience(audience: object) -> None:
    """Not more than one, none that does not print; and none that could take it for an assertion."""
    assert not tokens().knows(changed(token(), "claims", "aud", audience), NOW)


def test_each_client_at_its_own_issuer() -> None:
    assert assertions().knows(assertion("client 2", "another issuer", NOW).message, NOW)
    for client, audience in [
        ("client 2", ISSUER),
        (CLIENT, "another issuer"),
        (ISSUER, CLIENT),
        ("x", ISSUER),
        (CLIENT, ISSUER + "/"),
        (CLIENT, "x"),
        (CLIENT.upper(), ISSUER),
        (str(PLANNER.id), ISSUER),
    ]:
        assert not assertions().knows(assertion(client, audience, NOW).message, NOW), (client, audience)


def test_nothing_without_a_mandate() -> None:
    assert (Mandate().spiffe_id, Mandate().clients) == (None, frozenset())
    assert not Assertions(public(PLANNER), frozenset()).knows(KINDS["assertion"][1].message, NOW)


# -- times --------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("begins", "lifetime", "expected"),
    [
        (0, 1, True),
        (0, 0, False),
        (0, -1, False),
        (0, None, True),  # as long as it may be
        (0, 1_000, False),
        (CLOCK_SECONDS, None, True),
        (CLOCK_SECONDS + 1, None, False),
        (CLOCK_SECONDS + 1, 1, False),
        (-CLOCK_SECONDS, None, True),
        (-CLOCK_SECONDS - 1, None, False),
        (-CLOCK_SECONDS - 1, 10_000, False),
        (-NOW, 300, False),
        (-2 * NOW, 300, False),
        (10**400, 300, False),  # no float has room for it
        (-(10**400), 300, False),
    ],
)
def test_times(begins: float, lifetime: int | None, expected: bool) -> None:
    iat = int(NOW) + int(begins)
    for knows, good, most in (
        (*KINDS["self-signed"], SELF_SIGNED_SECONDS),
        (*KINDS["assertion"], ASSERTION_SECONDS),
    ):
        made = copy.deepcopy(good)
        made.claims.update(iat=iat, exp=iat + (most if lifetime is None else lifetime))
        assert knows(made.message, NOW) is expected
        made.claims.update(exp=iat + most + 1)
        assert not knows(made.message, NOW), "a second too long"


def test_the_figures() -> None:
    """As the issue has them; DESIGN and the inbound side know the same."""
    assert (SELF_SIGNED_SECONDS, ASSERTION_SECONDS, CLOCK_SECONDS) == (300, 60, 60)
    assert MAX_CERTIFICATES == MAX_CHAIN_CERTIFICATES


@each
@pytest.mark.parametrize("seconds", [0.4, -0.4, 59.9, -59.9])
def test_a_clock_between_two_seconds(knows: Callable[[bytes, float], bool], good: Parts, seconds: float) -> None:
    assert knows(good.message, NOW + seconds)


@each
@pytest.mark.parametrize("seconds", [60.1, -60.1, 86_400.0, -NOW, float("nan"), float("inf")])
def test_a_clock_that_is_elsewhere(knows: Callable[[bytes, float], bool], good: Parts, seconds: float) -> None:
    assert not knows(good.message, NOW + seconds)


# -- members ------------------------------------------------------------------------------------------------------------


@each
def test_a_member_is_missing(knows: Callable[[bytes, float], bool], good: Parts) -> None:
    for part, name, _ in members(good):
        if name != "kid":
            made = copy.deepcopy(good)
            del getattr(made, part)[name]
            assert not knows(made.message, NOW), name


ADDED = [
    "kid",
    "x5c",
    "x5t",
    "x5u",
    "jwk",
    "jku",
    "crit",
    "b64",
    "cty",
    "zip",
    "nbf",
    "scope",
    "client_id",
    "act",
    "",
    "a",
]


@each
@pytest.mark.parametrize("name", ADDED)
def test_a_member_is_added(knows: Callable[[bytes, float], bool], good: Parts, name: str) -> None:
    for part in ("header", "claims"):
        before = getattr(good, part)
        if name in before:
            continue
        for made in ({**before, name: "x"}, {name: "x", **before}):
            parts = good._replace(**{part: made})
            if (part, name, good.header["typ"], next(iter(made))) == ("header", "kid", "JWT", "alg"):
                assert knows(parts.message, NOW), "the one that may be added"
            else:
                assert not knows(parts.message, NOW), part


@each
def test_a_member_stands_twice(knows: Callable[[bytes, float], bool], good: Parts) -> None:
    for part, name, value in members(good):
        for other in (value, "x", None):
            member = f"{json.dumps(name)}:{json.dumps(other, separators=(',', ':'))}"
            body = text(getattr(good, part))
            for twice in (f"{{{member},{body[1:]}", f"{body[:-1]},{member}}}"):
                texts = {"header": text(good.header), "claims": text(good.claims), part: twice}
                assert json.loads(twice)
                assert not knows(joined(texts["header"], texts["claims"]), NOW), name


@each
def test_a_member_of_another_type(knows: Callable[[bytes, float], bool], good: Parts) -> None:
    for part, name, value in members(good):
        others: list[Any] = [None, True, False, 0, 1, -1, 1.5, [], {}, "", [value], {"x": value}]
        others += [str(value), float(value)] if isinstance(value, int) else [[value, value]]
        for other in others:
            assert not knows(changed(good, part, name, other), NOW), (name, other)


@each
def test_members_in_another_order(knows: Callable[[bytes, float], bool], good: Parts) -> None:
    for part in ("header", "claims"):
        names = list(getattr(good, part).items())
        assert not knows(good._replace(**{part: dict(reversed(names))}).message, NOW)
        assert not knows(good._replace(**{part: dict([*names[1:], names[0]])}).message, NOW)


@each
def test_header_and_claims_change_places(knows: Callable[[bytes, float], bool], good: Parts) -> None:
    assert not knows(Parts(good.claims, good.header).message, NOW)
    assert not knows(Parts(good.header, good.header).message, NOW)


OTHER_TYPES = ["", "jwt", "JWT ", "at+jwt", "JOSE", "dpop+jwt", "sidecar+JWT", "Sidecar+jwt", "application/sidecar+jwt"]


@each
@pytest.mark.parametrize("typ", OTHER_TYPES)
def test_another_typ(knows: Callable[[bytes, float], bool], good: Parts, typ: str) -> None:
    assert not knows(changed(good, "header", "typ", typ), NOW)


@each
@pytest.mark.parametrize("alg", ["none", "HS256", "ES256K", "es256", "ES384", "ES512", "RS256", "EdDSA", ""])
def test_another_algorithm(knows: Callable[[bytes, float], bool], good: Parts, alg: str) -> None:
    assert not knows(changed(good, "header", "alg", alg), NOW)


@each
def test_one_kind_is_not_the_other(knows: Callable[[bytes, float], bool], good: Parts) -> None:
    for name, (_, other) in KINDS.items():
        if other.header["typ"] != good.header["typ"]:
            assert not knows(other.message, NOW), name
            assert not knows(changed(good, "header", "typ", other.header["typ"]), NOW), name
            assert not knows(Parts(good.header, other.claims).message, NOW), name
            assert not knows(Parts(other.header, good.claims).message, NOW), name


@each
@pytest.mark.parametrize("jti", ["", JTI[:-1], JTI + "x", JTI[:-1] + "=", JTI[:-1] + "+", JTI[:-1] + "\n", JTI + "\n"])
def test_another_jti(knows: Callable[[bytes, float], bool], good: Parts, jti: str) -> None:
    assert not knows(changed(good, "claims", "jti", jti), NOW)


@each
@pytest.mark.parametrize(
    "who", ["spiffe://example.org/agent/other/1", str(PLANNER.id) + "/", str(PLANNER.id).upper(), "client=10", "", "x"]
)
def test_somebody_else(knows: Callable[[bytes, float], bool], good: Parts, who: str) -> None:
    assert not knows(changed(good, "claims", "iss", who), NOW)
    assert not knows(changed(good, "claims", "sub", who), NOW)
    both = copy.deepcopy(good)
    both.claims.update(iss=who, sub=who)
    assert not knows(both.message, NOW)


@only_assertions
@pytest.mark.parametrize(
    "thumbprint",
    ["", "A" * 42, "A" * 44, "A" * 42 + "B", "A" * 42 + "=", "A" * 42 + "+", "A" * 43 + "\n", "A" * 43 + "="],
)
def test_a_thumbprint_that_is_none(knows: Callable[[bytes, float], bool], good: Parts, thumbprint: str) -> None:
    assert not knows(changed(good, "header", "x5t#S256", thumbprint), NOW)
    assert knows(changed(good, "header", "x5t#S256", "A" * 43), NOW)


@given(digest=st.binary(min_size=32, max_size=32))
def test_every_thumbprint(digest: bytes) -> None:
    """Invariant: every SHA-256 in base64url may be in an assertion."""
    knows, good = KINDS["assertion"]
    assert knows(changed(good, "header", "x5t#S256", base64url(digest)), NOW)


@pytest.mark.parametrize(
    ("kid", "expected"),
    [("1", True), ("x" * 1024, True), ("", False), ("x" * 1025, False), ("a\n", False), ("\ud800", False), (1, False)],
)
def test_the_name_of_a_key(kid: object, expected: bool) -> None:
    knows, good = KINDS["assertion with kid"]
    assert knows(changed(good, "header", "kid", kid), NOW) is expected


# -- certificates -------------------------------------------------------------------------------------------------------


def with_chain(*ders: bytes) -> bytes:
    return self_signed(ders, str(PLANNER.id), NOW).message


LEAF = PLANNER.der[0]
ABOVE = DEEP.der[1:]


def test_one_to_eight_certificates() -> None:
    knows = tokens().knows
    for count in range(1, MAX_CERTIFICATES + 1):
        assert knows(with_chain(LEAF, *ABOVE[:1] * (count - 1)), NOW)
    assert not knows(with_chain(LEAF, *ABOVE[:1] * 8), NOW)
    assert not knows(changed(token(), "header", "x5c", []), NOW)


@pytest.mark.parametrize(
    "chain",
    [
        OTHER.der,
        [OTHER.der[0], LEAF],
        [*ABOVE, LEAF],
        RSA.der,
        PLANNER_384.der,
        [LEAF[:-1]],
        [LEAF + b"\0"],
        [LEAF, b""],
        [LEAF, b"x"],
        [LEAF, ABOVE[0][:-1]],
        [b""],
        [b"\x30\x00"],
        [bytes(2000)],
    ],
    ids=[
        "another leaf",
        "another leaf first",
        "leaf last",
        "RSA",
        "P-384",
        "cut",
        "one byte more",
        "nothing above",
        "text above",
        "cut above",
        "nothing",
        "empty sequence",
        "zeros",
    ],
)
def test_a_chain_that_is_not_of_the_key(chain: list[bytes]) -> None:
    assert not tokens().knows(with_chain(*chain), NOW)


@pytest.mark.parametrize(
    "spelled",
    [
        lambda text: base64url(base64.b64decode(text)),
        lambda text: text.replace("+", "-").replace("/", "_"),
        lambda text: text[:64] + "\n" + text[64:],
        lambda text: text + "\n",
        lambda text: " " + text,
        lambda text: text + "=",
        lambda text: text + "====",
        lambda text: text + "!",
        lambda text: text[:-1],
        lambda text: "-----BEGIN CERTIFICATE-----\n" + text,
        lambda text: "\u00e9" + text,
        lambda text: "\ud800" + text,
    ],
)
def test_a_certificate_spelled_otherwise(spelled: Callable[[str], str]) -> None:
    good = token()
    (before,) = good.header["x5c"]
    assert {"+", "/"} & set(before), "the test would say nothing"
    assert not tokens().knows(changed(good, "header", "x5c", [spelled(before)]), NOW)


@pytest.mark.parametrize("other", ["", "!", "AAA", None, 5, [], {}])
def test_a_certificate_that_is_none_beside_the_leaf(other: object) -> None:
    good = token()
    (leaf,) = good.header["x5c"]
    for x5c in ([leaf, other], [other, leaf], [leaf, leaf, other]):
        assert not tokens().knows(changed(good, "header", "x5c", x5c), NOW)
    assert tokens().knows(changed(good, "header", "x5c", [leaf, leaf]), NOW)


def test_bits_behind_the_last_byte_of_a_certificate() -> None:
    leaves = (CA.leaf(key=PLANNER.key, dns_names=["x" * size]).der[0] for size in range(1, 30))
    padded = next(leaf for leaf in leaves if len(leaf) % 3)
    good = self_signed([padded], str(PLANNER.id), NOW)
    (before,) = good.header["x5c"]
    assert before.endswith("=")
    assert tokens().knows(good.message, NOW)
    last = before.rstrip("=")[-1]
    alphabet = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/"
    other = before.replace(last + "=", alphabet[alphabet.index(last) + 1] + "=")
    assert base64.b64decode(other) == padded
    assert not tokens().knows(changed(good, "header", "x5c", [other]), NOW)


@pytest.mark.parametrize(
    "cnf",
    [
        {},
        {"x5t#S256": base64url(bytes(32))},
        {"x5t#S256": token().claims["cnf"]["x5t#S256"] + "="},
        {"x5t#S256": token().claims["cnf"]["x5t#S256"], "jkt": "x"},
        {"x5t#s256": token().claims["cnf"]["x5t#S256"]},
        {"jkt": token().claims["cnf"]["x5t#S256"]},
        {"jwk": {}},
        token(OTHER).claims["cnf"],
        token().claims["cnf"]["x5t#S256"],
    ],
    ids=["nothing", "zeros", "padded", "two members", "case", "jkt", "jwk", "another certificate", "no object"],
)
def test_bound_to_something_else(cnf: object) -> None:
    assert not tokens().knows(changed(token(), "claims", "cnf", cnf), NOW)


def test_a_name_twice_in_cnf() -> None:
    good = token()
    inner = text(good.claims["cnf"])
    twice = text(good.claims).replace(inner, f"{inner[:-1]},{inner[1:]}")
    assert json.loads(twice) == good.claims
    assert not tokens().knows(joined(text(good.header), twice), NOW)


# -- how it is written --------------------------------------------------------------------------------------------------


@each
@pytest.mark.parametrize(
    "spelled",
    [
        lambda text: " " + text,
        lambda text: text + " ",
        lambda text: text + "\n",
        lambda text: text.replace(",", ", "),
        lambda text: text.replace(":", ": ", 1),
        lambda text: "\ufeff" + text,
        lambda text: text.encode("utf-16"),
        lambda text: text.encode("utf-16-le"),
        lambda text: text.encode("utf-32"),
        lambda text: text[:-1],
        lambda text: text + "}",
        lambda text: text + text,
        lambda text: f"[{text}]",
        lambda text: f'"{text}"',
        lambda text: text.replace("a", "\\u0061", 1),
        lambda text: text.replace('"', "'"),
        lambda text: text[:-1] + ",}",
        lambda text: text + "//",
        lambda text: "[" * 3000,
        lambda text: '{"a":' * 1500,
        lambda text: "[" * 3000 + "]" * 3000,
        lambda text: "1" * 5000,
        lambda text: text[:-1] + ',"z":' + "1" * 5000 + "}",
        lambda text: text[:-1] + ',"z":NaN}',
        lambda text: text[:-1] + ',"z":1e999}',
        lambda text: "NaN",
        lambda text: "null",
        lambda text: "{}",
        lambda text: "",
        lambda text: b"\xff" + text.encode(),
    ],
)
def test_json_that_is_written_otherwise(
    knows: Callable[[bytes, float], bool], good: Parts, spelled: Callable[[str], str | bytes]
) -> None:
    header, claims = text(good.header), text(good.claims)
    assert knows(joined(header, claims), NOW)
    assert not knows(joined(spelled(header), claims), NOW)
    assert not knows(joined(header, spelled(claims)), NOW)


@each
@pytest.mark.parametrize("number", ["NaN", "Infinity", "-Infinity", "1e3", "1.0", "-0", "0x1", "01", "+1", "1_000"])
def test_numbers_that_are_none(knows: Callable[[bytes, float], bool], good: Parts, number: str) -> None:
    for name in ("iat", "exp"):
        claims = text(good.claims).replace(f'"{name}":{good.claims[name]}', f'"{name}":{number}')
        assert number in claims
        assert not knows(joined(text(good.header), claims), NOW)


@each
def test_whole_numbers_that_are_written_otherwise(knows: Callable[[bytes, float], bool], good: Parts) -> None:
    value = good.claims["iat"]
    for number in (f"{value}.0", f"{value}e0", f"+{value}", f"0{value}", f"{value // 10}{value % 10}.", f"{value:_}"):
        claims = text(good.claims).replace(f'"iat":{value}', f'"iat":{number}')
        assert not knows(joined(text(good.header), claims), NOW)


@each
@pytest.mark.parametrize(
    "spelled",
    [
        lambda message: message + b".",
        lambda message: message + b".c2ln",
        lambda message: b"." + message,
        lambda message: message.replace(b".", b".."),
        lambda message: message.replace(b".", b""),
        lambda message: message.replace(b".", b"\n.\n"),
        lambda message: message.replace(b".", b","),
        lambda message: message.partition(b".")[0],
        lambda message: message.partition(b".")[0] + b".",
        lambda message: b"." + message.partition(b".")[2],
        lambda message: b"." * 16_000,
        lambda message: message + b"=",
        lambda message: message + b"==",
        lambda message: message + b"A",
        lambda message: message + b"\n",
        lambda message: message + b"\0",
        lambda message: message + b"!",
        lambda message: b" " + message,
        lambda message: b" " * 64 + message,
        lambda message: b"\xff" + message,
        lambda message: message[:10] + b"\r\n" + message[10:],
        lambda message: message.swapcase(),
        lambda message: b"",
    ],
)
def test_parts_that_are_written_otherwise(
    knows: Callable[[bytes, float], bool], good: Parts, spelled: Callable[[bytes], bytes]
) -> None:
    assert not knows(spelled(good.message), NOW)


@each
def test_bits_behind_the_last_byte_of_a_part(knows: Callable[[bytes, float], bool], good: Parts) -> None:
    alphabet = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_"
    tried = 0
    for name in ("x" * size for size in range(1, 7)):
        message = changed(good, "claims", "aud", name)
        claims = message.partition(b".")[2]
        if len(claims) % 4 == 0:
            continue
        other = message[:-1] + alphabet[alphabet.index(message[-1]) + 1 :][:1]
        assert base64.urlsafe_b64decode(claims + b"==") == base64.urlsafe_b64decode(other.partition(b".")[2] + b"==")
        assert not knows(other, NOW)
        tried += 1
    assert tried


@only_tokens
def test_base64url_and_not_base64(knows: Callable[[bytes, float], bool], good: Parts) -> None:
    message = changed(good, "claims", "aud", "???>>>~~~")
    assert knows(message, NOW)
    other = message.replace(b"-", b"+").replace(b"_", b"/")
    assert other != message
    assert not knows(other, NOW)


def test_the_longest() -> None:
    knows, _ = KINDS["self-signed"]
    good = longest(PLANNER, NOW)
    assert MAX_BYTES - 2 <= len(good.message) <= MAX_BYTES
    assert knows(good.message, NOW)
    longer = changed(good, "claims", "aud", good.claims["aud"] + "xx")
    assert MAX_BYTES < len(longer) <= MAX_BYTES + 4
    assert not knows(longer, NOW)


# -- invariants ---------------------------------------------------------------------------------------------------------


@given(kind=st.sampled_from(list(KINDS)), data=st.data())
def test_one_bit_beside(kind: str, data: st.DataObject) -> None:
    """Invariant: with one bit changed it is either not recognised, or differs in what may differ and in nothing else."""
    knows, good = KINDS[kind]
    message = bytearray(good.message)
    place = data.draw(st.integers(0, len(message) * 8 - 1))
    message[place // 8] ^= 1 << place % 8
    if not knows(bytes(message), NOW):
        return
    header, claims = (json.loads(base64.urlsafe_b64decode(part + b"==")) for part in bytes(message).split(b"."))
    free = {"iat", "exp", "jti"} | ({"aud"} if kind == "self-signed" else set())
    assert {name for name in claims if claims[name] != good.claims[name]} <= free
    assert {name for name in header if header[name] != good.header[name]} <= {"kid", "x5t#S256"}
    assert (list(header), list(claims)) == (list(good.header), list(good.claims))


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=8,
)
FIELDS = sorted({name for _, good in KINDS.values() for _, name, _ in members(good)})


@st.composite
def near(draw: st.DrawFn) -> bytes:
    """A good message with some members replaced by anything."""
    good = copy.deepcopy(draw(st.sampled_from([good for _, good in KINDS.values()])))
    for _ in range(draw(st.integers(0, 3))):
        part = getattr(good, draw(st.sampled_from(["header", "claims"])))
        part[draw(st.sampled_from(FIELDS))] = draw(JSON)
    return good.message


@given(message=st.binary(max_size=300) | near())
def test_whatever_comes(message: bytes) -> None:
    """Invariant: any bytes give True or False and never an error, and True only for short-lived claims of ours."""
    for knows, good in KINDS.values():
        if knows(message, NOW):
            claims = json.loads(base64.urlsafe_b64decode(message.partition(b".")[2] + b"=="))
            assert claims["iss"] == claims["sub"] == good.claims["iss"]
            assert 0 < claims["exp"] - claims["iat"] <= 300
            assert json.loads(base64.urlsafe_b64decode(message.partition(b".")[0] + b"=="))["typ"] == good.header["typ"]


def test_nesting_that_is_deeper_than_the_interpreter_s_own() -> None:
    knows, good = KINDS["assertion"]
    for depth in (sys.getrecursionlimit() + 10, 5_000):
        deep = "[" * depth + "]" * depth
        assert not knows(joined(text(good.header), deep), NOW)


def test_names() -> None:
    assert is_name("x" * 1024)
    for wrong in ("", "x" * 1025, "a\tb", "\x00", "\ud800", None, 5, b"x", ["x"]):
        assert not is_name(wrong)


class Asked:
    """A signer that keeps what it is asked to sign."""

    protection = Protection.SOFTWARE

    def __init__(self, identity: Identity) -> None:
        self._signer = SoftwareSigner(load(identity.key_pem))
        self.public_key = self._signer.public_key
        self.messages: list[bytes] = []

    def sign(self, message: bytes, hash_: Hash) -> bytes:
        self.messages.append(message)
        return self._signer.sign(message, hash_)

    def close(self) -> None:
        """Holds nothing."""


@pytest.mark.parametrize("identity", [PLANNER, PLANNER_384, DEEP], ids=["P-256", "P-384", "chain"])
@pytest.mark.parametrize("key_id", [None, "key 1"])
async def test_what_our_token_sources_ask_for(identity: Identity, key_id: str | None) -> None:
    """The two ends of the format: what writes tokens in the proxy, and what looks at them here."""
    asked = Asked(identity)
    clock = Clock(wall=lambda: NOW + 0.7)
    no_tls: Any = None
    means = Means(
        svid=identity.svid(),
        credentials=no_tls,
        signer=asked,
        clock=clock,
        workers=Workers("asks", 1, 4),
        local=Workers("signs", 1, 4),
        files={},
        secrets={},
    )
    await SelfSignedTokens(SelfSignedSource("s", "tools"), means).fetch()
    auth = ClientAuth.PRIVATE_KEY_JWT
    for client_id in (None, CLIENT):
        settings = OAuth2Source("o", ISSUER, auth, client_id=client_id, key_id=key_id)
        await ClientAuthentication(settings, means).proof()
    clients = frozenset({Client(ISSUER, str(identity.id)), Client(ISSUER, CLIENT)})
    table = Recognisers.of(public(identity), Mandate(identity.id, clients))
    found = [table.recognise(message, NOW + 0.7) for message in asked.messages]
    assert found == ["self-signed-token", "client-assertion", "client-assertion"]

"""Headers and claims, one by one: their types, their bounds, and what a header may not even mention."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sidecar.tokens.claims import read_claims, read_header
from sidecar.tokens.codes import TokenCode, TokenError
from tests.support import jwts
from tests.support.jwts import DROP, LEAF, NOW, b64


def header_code(typ: str | None = "at+jwt", algorithms: tuple[str, ...] = ("ES256",), **changes: Any) -> str:
    try:
        read_header(jwts.header(**changes), algorithms=algorithms, typ=typ)
    except TokenError as error:
        return error.code
    return "good"


def claims_code(**changes: Any) -> str:
    try:
        read_claims(jwts.claims(**changes))
    except TokenError as error:
        return error.code
    return "good"


# -- header -----------------------------------------------------------------------------------------------------------


def test_a_good_header() -> None:
    assert read_header(jwts.header(), algorithms={"ES256"}, typ="at+jwt") == ("ES256", jwts.KEY_ID)
    assert read_header(jwts.header(kid=DROP), algorithms={"ES256"}, typ="at+jwt") == ("ES256", None)


@pytest.mark.threat(18)
@pytest.mark.parametrize(
    "alg",
    [
        *(DROP, None, "", "none", "None", "NONE", "nOnE", "none ", "HS256", "HS384", "HS512", "RS256", "PS256"),
        *("ES384", "ES512", "EdDSA", "ES256K", "es256", "ES256 ", "ES256\0", "RSA-OAEP", "dir"),
        *(256, True, 1.5, ["ES256"], {"ES256": 1}, [], {}),
    ],
)
def test_threat_18_an_algorithm_that_is_not_configured(alg: object) -> None:
    assert header_code(alg=alg) == TokenCode.ALGORITHM


def test_each_algorithm_that_is_configured() -> None:
    assert {header_code(algorithms=("ES256", "RS256"), alg=alg) for alg in ("ES256", "RS256")} == {"good"}
    assert header_code(algorithms=(), alg="ES256") == TokenCode.ALGORITHM


@pytest.mark.threat(18)
@pytest.mark.parametrize(
    "crit", [[], ["exp"], ["b64"], ["x"], ["x", "x"], "x", "", None, False, 0, {}, {"b64": True}, [1], [None]]
)
def test_threat_18_whatever_is_critical_is_not_understood(crit: object) -> None:
    assert header_code(crit=crit, x=1) == TokenCode.CRITICAL


@pytest.mark.threat(18)
@pytest.mark.parametrize("b64_header", [False, True, None, 0, "false"])
def test_threat_18_a_payload_that_is_not_encoded(b64_header: object) -> None:
    assert header_code(b64=b64_header) == TokenCode.CRITICAL


@pytest.mark.threat(18)
@pytest.mark.parametrize("name", ["jwk", "jku", "x5u"])
@pytest.mark.parametrize("value", ["https://issuer.example/jwks", "", None, {}, [], jwts.jwk(jwts.key().public_key())])
def test_threat_18_a_key_that_the_token_brings_or_names_a_place_for(name: str, value: object) -> None:
    assert header_code(**{name: value}) == TokenCode.EMBEDDED_KEY


def test_a_certificate_that_comes_along_means_nothing() -> None:
    """RFC 7515 4.1.6 to 4.1.8 describe the key; ours is found by kid, whatever they say."""
    assert header_code(**{"x5c": ["AAAA"], "x5t": "A", "x5t#S256": "A"}) == "good"


@pytest.mark.threat(18)
@pytest.mark.parametrize(
    "kid",
    [
        *("", "/etc/passwd", "../../dev/null", "..", "a..b", "a/b", "a\\b", "..\\x", "%2e%2e%2f", "file:///dev/null"),
        *("k' OR '1'='1", "k;--", 'k"', "k`id`", "$(id)", "k|id", "k\0", "\0", "k\n", "k\r\nX: y", " k", "k ", "k k"),
        *("k\u00e9", "\u212a1", "\ud7ff", "k" * 257, "k?x", "k#x", "k*", "k<", "k,k", "k{}"),
        *(None, 0, 1, 1.0, True, False, [], ["k1"], {}, {"k1": 1}),
    ],
)
def test_threat_18_a_kid_that_is_no_plain_name(kid: object) -> None:
    assert header_code(kid=kid) == TokenCode.KEY_ID


@pytest.mark.parametrize("kid", ["k", "1", "k" * 256, "a.b", "a:b", "2025-01-01", "AbC_-", "a=b=", "me@x", "a+b~c"])
def test_a_kid_that_is_a_plain_name(kid: str) -> None:
    assert header_code(kid=kid) == "good"


@pytest.mark.threat(18)
@pytest.mark.parametrize(
    "typ",
    [
        *(DROP, None, "", "JWT", "jwt", "id_token", "application/jwt", "sidecar+jwt", "dpop+jwt", "logout+jwt"),
        *("at+jwt ", " at+jwt", "at jwt", "at+jwts", "xat+jwt", "text/at+jwt", "application/application/at+jwt"),
        *("application/", "application//at+jwt", "at+jwt; a=b", "at+jwt\0", ["at+jwt"], {"at+jwt": 1}, 1, True),
        "at+\u017fwt",
    ],
)
def test_threat_18_a_token_of_another_type_such_as_an_id_token(typ: object) -> None:
    assert header_code(typ="at+jwt") == "good"
    with pytest.raises(TokenError) as caught:
        read_header(jwts.header(typ=typ), algorithms={"ES256"}, typ="at+jwt")
    assert caught.value.code is TokenCode.TYPE


@pytest.mark.parametrize("typ", ["at+jwt", "AT+JWT", "At+Jwt", "application/at+jwt", "Application/AT+jwt"])
@pytest.mark.parametrize("wanted", ["at+jwt", "AT+JWT", "application/at+jwt"])
def test_one_type_has_several_spellings(typ: str, wanted: str) -> None:
    """RFC 7515 4.1.9, RFC 9068 4."""
    assert read_header(jwts.header(typ=typ), algorithms={"ES256"}, typ=wanted)


def test_letters_that_only_look_like_others_are_others() -> None:
    """KELVIN SIGN in lower case is k."""
    with pytest.raises(TokenError) as caught:
        read_header(jwts.header(typ="to\u212aen"), algorithms={"ES256"}, typ="token")
    assert caught.value.code is TokenCode.TYPE


@pytest.mark.parametrize(("typ", "code"), [(DROP, "good"), (None, TokenCode.TYPE), ("", TokenCode.TYPE)])
def test_an_issuer_whose_tokens_have_no_type(typ: object, code: str) -> None:
    found: str = "good"
    try:
        read_header(jwts.header(typ=typ), algorithms={"ES256"}, typ=None)
    except TokenError as error:
        found = error.code
    assert found == code


def test_where_no_type_is_wanted_those_that_say_one_are_refused() -> None:
    for typ in ("JWT", "at+jwt", "none", "None"):
        with pytest.raises(TokenError) as caught:
            read_header(jwts.header(typ=typ), algorithms={"ES256"}, typ=None)
        assert caught.value.code is TokenCode.TYPE


# -- claims -----------------------------------------------------------------------------------------------------------


def test_good_claims() -> None:
    found = read_claims(jwts.claims(nbf=int(NOW) - 5))
    assert (found.issuer, found.subject, found.id) == (jwts.ISSUER.issuer, "planner", "j1")
    assert (found.audience, found.scopes) == (jwts.AUDIENCE, {"tools.read", "tools.write"})
    assert (found.issued, found.expires, found.not_before) == (NOW, NOW + 600, NOW - 5)
    assert found.bound_to == LEAF
    assert found.claims["client_id"] == "planner"


def test_what_may_be_missing() -> None:
    found = read_claims(jwts.claims(jti=DROP, nbf=DROP, scope=DROP, cnf=DROP, client_id=DROP))
    assert (found.id, found.not_before, found.scopes, found.bound_to) == (None, NOW, frozenset(), None)


TEXT = ["", None, 0, 1, True, 1.5, [], ["x"], {}, {"x": 1}, "x" * 1025]


@pytest.mark.threat(19)
@pytest.mark.parametrize("value", [DROP, *TEXT, [jwts.ISSUER.issuer], {"iss": jwts.ISSUER.issuer}])
def test_threat_19_an_issuer_that_is_not_a_string(value: object) -> None:
    assert claims_code(iss=value) == TokenCode.ISSUER


@pytest.mark.parametrize("value", [DROP, *TEXT])
def test_a_subject_that_is_missing_or_no_string(value: object) -> None:
    assert claims_code(sub=value) == TokenCode.SUBJECT


@pytest.mark.parametrize("value", TEXT)
def test_an_identifier_that_is_no_string(value: object) -> None:
    assert claims_code(jti=value) == TokenCode.CLAIM


def test_the_longest_texts() -> None:
    assert claims_code(iss="x" * 1024, sub="x" * 1024, jti="x" * 1024) == "good"


@pytest.mark.threat(19)
@pytest.mark.parametrize(
    "aud",
    [
        *(DROP, None, "", [], [""], [jwts.AUDIENCE, jwts.AUDIENCE], [jwts.AUDIENCE, "b"], [[jwts.AUDIENCE]], [[]]),
        *([None], [1], [True], {}, {jwts.AUDIENCE: 1}, [{jwts.AUDIENCE: 1}], 0, 1, 1.5, True, False),
        [jwts.AUDIENCE, None],
    ],
)
def test_threat_19_an_audience_that_is_not_exactly_one(aud: object) -> None:
    assert claims_code(aud=aud) == TokenCode.AUDIENCE


@pytest.mark.parametrize("aud", ["a", "a b", "a,b", '["a"]', " a", "A/", "x" * 2000])
def test_an_audience_is_read_as_it_is(aud: str) -> None:
    assert read_claims(jwts.claims(aud=aud)).audience == aud
    assert read_claims(jwts.claims(aud=[aud])).audience == aud


NO_TIME = [
    *(
        "1800000000",
        "",
        "now",
        None,
        True,
        False,
        [1800000000],
        {},
        {"t": 1},
        -1,
        -0.5,
        2**53,
        10**300,
        1e300,
        -(10**30),
    ),
    *(float("nan"), float("inf"), float("-inf")),
]


@pytest.mark.parametrize("name", ["exp", "iat", "nbf"])
@pytest.mark.parametrize("value", NO_TIME)
def test_what_is_no_time(name: str, value: object) -> None:
    assert claims_code(**{name: value}) == TokenCode.CLAIM


@pytest.mark.parametrize("name", ["exp", "iat"])
def test_times_that_have_to_be_there(name: str) -> None:
    assert claims_code(**{name: DROP}) == TokenCode.CLAIM


@pytest.mark.parametrize("value", [0, 0.0, 1800000000, 1800000000.25, 2**53 - 1])
def test_what_is_a_time(value: float) -> None:
    found = read_claims(jwts.claims(exp=value, iat=value, nbf=value))
    assert (found.expires, found.issued, found.not_before) == (value, value, value)


@pytest.mark.parametrize(
    ("changes", "scopes"),
    [
        ({"scope": "a b"}, {"a", "b"}),
        ({"scope": "a  b  a "}, {"a", "b"}),
        ({"scope": " "}, set()),
        ({"scope": ""}, set()),
        ({"scope": "a\tb"}, {"a\tb"}),
        ({"scope": "a\nb"}, {"a\nb"}),
        ({"scope": "a\u00a0b"}, {"a\u00a0b"}),
        ({"scope": "a,b"}, {"a,b"}),
        ({"scope": "A"}, {"A"}),
        ({"scope": ["a", "b"]}, {"a", "b"}),
        ({"scope": ["a b"]}, {"a b"}),
        ({"scope": []}, set()),
        ({"scope": [""]}, set()),
        ({"scope": DROP, "scp": ["a", "b"]}, {"a", "b"}),
        ({"scope": DROP, "scp": "a b"}, {"a", "b"}),
        ({"scope": "a", "scp": ["b"]}, {"a"}),
    ],
)
def test_scopes_are_separated_by_blanks_alone(changes: dict[str, Any], scopes: set[str]) -> None:
    assert read_claims(jwts.claims(**changes)).scopes == scopes


@pytest.mark.parametrize("value", [None, 0, 1, True, 1.5, {}, {"a": 1}, [1], ["a", None], [["a"]], [{}]])
@pytest.mark.parametrize("name", ["scope", "scp"])
def test_scopes_that_are_none(name: str, value: object) -> None:
    assert claims_code(**{"scope": DROP, name: value}) == TokenCode.CLAIM


DIGEST = b64(LEAF)


@pytest.mark.threat(22)
@pytest.mark.parametrize(
    "cnf",
    [
        *(None, "", DIGEST, [], [DIGEST], {}, True, 1, [{"x5t#S256": DIGEST}]),
        *({"jkt": DIGEST}, {"x5t#S256": DIGEST, "jkt": DIGEST}, {"x5t#S256": DIGEST, "kid": "k"}, {"jwk": {}}),
        *({"x5t#s256": DIGEST}, {"x5t": DIGEST}, {"x5t#S256 ": DIGEST}),
        *({"x5t#S256": None}, {"x5t#S256": ""}, {"x5t#S256": [DIGEST]}, {"x5t#S256": 1}, {"x5t#S256": {}}),
        {"x5t#S256": DIGEST + "="},
        {"x5t#S256": DIGEST + "\n"},
        {"x5t#S256": DIGEST[:-1]},
        {"x5t#S256": DIGEST + "A"},
        {"x5t#S256": DIGEST + "AAAA"},
        {"x5t#S256": b64(LEAF[:20])},
        {"x5t#S256": LEAF.hex()},
        {"x5t#S256": ":".join(f"{byte:02X}" for byte in LEAF)},
        {"x5t#S256": b64(b"\xfb\xff" + LEAF[2:]).replace("-", "+").replace("_", "/")},
        {"x5t#S256": DIGEST[:-1] + chr(ord(DIGEST[-1]) + 1)},  # a bit that has to be zero
        {"x5t#S256": "\u00e9" * 43},
    ],
)
def test_threat_22_a_binding_that_cannot_be_checked_is_never_ignored(cnf: object) -> None:
    assert claims_code(cnf=cnf) == TokenCode.NOT_BOUND


# -- properties -------------------------------------------------------------------------------------------------------

ANY = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=4), inner, max_size=3),
    max_leaves=8,
)
CLAIMS = st.dictionaries(
    st.sampled_from(["iss", "sub", "aud", "exp", "iat", "nbf", "jti", "scope", "scp", "cnf"]), ANY, max_size=10
)
HEADERS = st.dictionaries(
    st.sampled_from(["alg", "typ", "kid", "crit", "b64", "jwk", "jku", "x5u", "x5c", "cty"]), ANY, max_size=6
)


@given(CLAIMS)
def test_whatever_claims_there_are_they_are_read_or_refused(changes: dict[str, Any]) -> None:
    """Invariant: read_claims raises TokenError or returns one issuer, subject and audience and finite times."""
    try:
        found = read_claims(jwts.claims(**changes))
    except TokenError:
        return
    assert found.issuer
    assert found.subject
    assert isinstance(found.audience, str)
    assert all(0 <= time < 2**53 for time in (found.issued, found.expires, found.not_before))
    assert found.bound_to is None or len(found.bound_to) == 32


@given(HEADERS, st.sampled_from([None, "at+jwt", "JWT"]))
def test_whatever_header_there_is_it_is_read_or_refused(changes: dict[str, Any], typ: str | None) -> None:
    """Invariant: read_header raises TokenError or returns a configured algorithm; no header that brings keys passes."""
    header = jwts.header(**changes)
    try:
        found = read_header(header, algorithms=("ES256",), typ=typ)
    except TokenError:
        return
    assert found.algorithm == "ES256"
    assert not {"jwk", "jku", "x5u", "crit", "b64"} & set(header)

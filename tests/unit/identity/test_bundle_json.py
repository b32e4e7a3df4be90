"""What only a bundle in JSON can have wrong; what both formats share is in test_bundle.py."""

from __future__ import annotations

import base64
import json
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sidecar.identity.bundle import TrustBundle
from sidecar.identity.bundle_fault import BundleCode, BundleError
from sidecar.identity.spiffe import TrustDomain
from tests.support.bundles import JWT_KEY, bundle_json, jwk
from tests.support.ca import NOW, Ca, rsa_keypair

if TYPE_CHECKING:
    from collections.abc import Callable

DOMAIN = TrustDomain("example.org")
ROOT, OTHER = Ca().certificate, Ca(key="other").certificate
GOOD = bundle_json(ROOT)
SECRET = "c2VjcmV0LXNjYWxhcg"


def parse(text: bytes) -> TrustBundle:
    return TrustBundle.parse(DOMAIN, text, NOW)


def refused(text: bytes) -> BundleError:
    with pytest.raises(BundleError) as caught:
        parse(text)
    assert caught.value.hint
    return caught.value


DEFECTS: dict[str, tuple[BundleCode, str, Callable[[], bytes]]] = {
    "garbage": (BundleCode.DAMAGED_JSON, "not JSON", lambda: b"{garbage"),
    "cut-off": (BundleCode.DAMAGED_JSON, "not JSON", lambda: GOOD[:-30]),
    "more-behind": (BundleCode.DAMAGED_JSON, "not JSON", lambda: GOOD + b"{}"),
    "pem-behind": (BundleCode.DAMAGED_JSON, "not JSON", lambda: GOOD + b"-----BEGIN CERTIFICATE-----"),
    "no-utf-8": (BundleCode.DAMAGED_JSON, "not JSON", lambda: b'{"a": "\xff", ' + GOOD[1:]),
    "deep": (BundleCode.DAMAGED_JSON, "not JSON", lambda: b'{"a": ' + b"[" * 100_000),
    "keys-twice": (BundleCode.DAMAGED_JSON, "twice", lambda: b'{"keys": [], ' + GOOD[1:]),
    "x5c-twice": (BundleCode.DAMAGED_JSON, "twice", lambda: GOOD.replace(b'"x5c"', b'"x5c": [], "x5c"')),
    "no-keys": (BundleCode.NOT_KEY_SET, "no list of keys", lambda: b"{}"),
    "keys-is-an-object": (BundleCode.NOT_KEY_SET, "no list of keys", lambda: bundle_json(keys={})),
    "bundle-map": (BundleCode.NOT_KEY_SET, "bundle map", lambda: b'{"trust_domains": {"example.org": %s}}' % GOOD),
    "sequence-is-text": (BundleCode.NOT_KEY_SET, "spiffe_sequence", lambda: bundle_json(ROOT, spiffe_sequence="1")),
    "sequence-is-true": (BundleCode.NOT_KEY_SET, "spiffe_sequence", lambda: bundle_json(ROOT, spiffe_sequence=True)),
    "hint-is-a-fraction": (
        BundleCode.NOT_KEY_SET,
        "spiffe_refresh_hint",
        lambda: bundle_json(ROOT, spiffe_refresh_hint=1.5),
    ),
    "nobody": (BundleCode.NO_CERTIFICATE, "example.org", bundle_json),
    "jwt-keys-alone": (BundleCode.NO_CERTIFICATE, "example.org", lambda: bundle_json(JWT_KEY)),
    "another-use": (BundleCode.NO_CERTIFICATE, "example.org", lambda: bundle_json(jwk(ROOT, use="X509-SVID"))),
    "no-use": (BundleCode.NO_CERTIFICATE, "example.org", lambda: bundle_json(jwk(ROOT, use=None))),
    "key-is-text": (BundleCode.MALFORMED_KEY, "keys[1]", lambda: json.dumps({"keys": [jwk(ROOT), "x"]}).encode()),
    "no-kty": (BundleCode.MALFORMED_KEY, "keys[1]", lambda: bundle_json(ROOT, jwk(ROOT, kty=None))),
    "no-x5c": (BundleCode.MALFORMED_KEY, "keys[1]", lambda: bundle_json(ROOT, jwk(ROOT, x5c=None))),
    "x5c-empty": (BundleCode.MALFORMED_KEY, "keys[0]", lambda: bundle_json(jwk(ROOT, x5c=[]))),
    "x5c-is-text": (BundleCode.MALFORMED_KEY, "keys[0]", lambda: bundle_json(jwk(ROOT, x5c=jwk(ROOT)["x5c"][0]))),
    "x5c-of-two": (
        BundleCode.MALFORMED_KEY,
        "keys[2]",
        lambda: bundle_json(ROOT, JWT_KEY, jwk(ROOT, x5c=jwk(ROOT)["x5c"] + jwk(OTHER)["x5c"])),
    ),
    "x5c-of-a-number": (BundleCode.MALFORMED_KEY, "keys[0]", lambda: bundle_json(jwk(ROOT, x5c=[1]))),
    "x5c-url-safe": (
        BundleCode.MALFORMED_KEY,
        "keys[0]",
        lambda: bundle_json(jwk(ROOT, x5c=[base64.urlsafe_b64encode(b"\xff" * 30).decode()])),
    ),
    "x5c-in-lines": (
        BundleCode.MALFORMED_KEY,
        "keys[0]",
        lambda: bundle_json(jwk(ROOT, x5c=[jwk(ROOT)["x5c"][0] + "\n"])),
    ),
    "x5c-is-no-certificate": (
        BundleCode.MALFORMED_CERTIFICATE,
        "keys[1]",
        lambda: bundle_json(JWT_KEY, jwk(ROOT, x5c=["AQID"])),
    ),
    "another-key": (BundleCode.MALFORMED_KEY, "keys[0]", lambda: bundle_json(jwk(ROOT, x5c=jwk(OTHER)["x5c"]))),
    "another-type-of-key": (BundleCode.MALFORMED_KEY, "keys[0]", lambda: bundle_json(jwk(ROOT, kty="RSA"))),
    "another-curve": (BundleCode.MALFORMED_KEY, "keys[0]", lambda: bundle_json(jwk(ROOT, crv="P-384"))),
    "private-key": (BundleCode.PRIVATE_KEY, "keys[0]", lambda: bundle_json(jwk(ROOT, d=SECRET))),
    "private-key-of-tokens": (BundleCode.PRIVATE_KEY, "keys[1]", lambda: bundle_json(ROOT, JWT_KEY | {"d": SECRET})),
    "shared-key": (
        BundleCode.PRIVATE_KEY,
        "keys[1]",
        lambda: bundle_json(ROOT, {"kty": "oct", "use": "jwt-svid", "k": SECRET}),
    ),
}


@pytest.mark.parametrize("defect", DEFECTS)
def test_a_defective_bundle_has_its_code_and_place(defect: str) -> None:
    code, named, build = DEFECTS[defect]
    error = refused(build())
    assert error.code is code
    assert named in str(error)


@pytest.mark.parametrize("defect", DEFECTS)
def test_what_a_key_holds_is_never_told(defect: str) -> None:
    error = refused(DEFECTS[defect][2]())
    while error is not None:
        assert SECRET not in f"{error!r} {error} {getattr(error, 'hint', '')}"
        error = error.__cause__ or error.__context__


@pytest.mark.parametrize(
    "key",
    [
        JWT_KEY,
        JWT_KEY | {"use": "sig"},
        jwk(OTHER, use=None),
        jwk(OTHER, use=["x509-svid"]),
        jwk(OTHER, kty="AKP"),
        {"kty": "EC"},
    ],
    ids=["jwt-svid", "sig", "no-use", "use-is-a-list", "unknown-type", "bare"],
)
def test_other_keys_are_left_out(key: dict[str, Any]) -> None:
    assert parse(bundle_json(key, ROOT, key)).authorities == (ROOT,)


def test_members_that_nobody_asked_for_are_let_pass() -> None:
    text = bundle_json(jwk(ROOT, kid="1", alg="ES256", note={"d": 1}), comment="ours")
    assert parse(text).authorities == (ROOT,)


@pytest.mark.parametrize("missing", [["x", "y", "crv"], ["x"], []])
def test_what_the_certificate_says_need_not_be_said_twice(missing: list[str]) -> None:
    assert parse(bundle_json(jwk(ROOT, **dict.fromkeys(missing)))).authorities == (ROOT,)


def test_rsa_authorities() -> None:
    root = Ca("example.org").certificate
    weak = jwk(root) | {"kty": "RSA", "n": "AQAB", "e": "AQAB"}
    assert refused(bundle_json(weak)).code is BundleCode.MALFORMED_KEY
    assert rsa_keypair()  # whole RSA authorities are in test_bundle.py


@pytest.mark.parametrize(("members", "sequence"), [({}, 1), ({"spiffe_sequence": 2**70}, 2**70)])
def test_the_sequence_is_kept(members: dict[str, Any], sequence: int) -> None:
    assert parse(bundle_json(ROOT, **members)).sequence == sequence


def test_neither_sequence_nor_hint_is_needed() -> None:
    bundle = parse(json.dumps({"keys": [jwk(ROOT)]}).encode())
    assert (bundle.authorities, bundle.sequence) == ((ROOT,), None)


_JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=8),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(["keys", "use", "kty", "x5c", "d", "x", "spiffe_sequence"]), inner, max_size=4
        )
    ),
    max_leaves=12,
)


@given(
    st.dictionaries(st.sampled_from(["keys", "spiffe_sequence", "a"]), _JSON, max_size=3), st.lists(_JSON, max_size=3)
)
def test_no_document_makes_another_error(members: dict[str, Any], keys: list[Any]) -> None:
    """Invariant: whatever JSON a bundle holds, it is refused by a BundleError, or its authorities are those it names."""
    for document in (members, {"keys": keys}, {"keys": [jwk(ROOT) | members]}, {"keys": [jwk(ROOT), *keys]}):
        try:
            bundle = parse(json.dumps(document).encode())
        except BundleError:
            continue
        assert bundle.authorities == (ROOT,)

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa

from sidecar.errors import Fault
from sidecar.identity.bundle import MAX_AUTHORITIES, MAX_BUNDLE_BYTES, BundleCode, BundleError, TrustBundle
from sidecar.identity.spiffe import TrustDomain
from tests.support.ca import (
    DAY,
    HOUR,
    LEAF_USAGE,
    NOW,
    Ca,
    Signer,
    der,
    forge,
    forge_signing,
    key_pem,
    keypair,
    name,
    pem,
    rsa_keypair,
)

if TYPE_CHECKING:
    from collections.abc import Callable

DOMAIN = TrustDomain("example.org")
KEY = keypair("bundle")
ROOT = Signer(name("root"), KEY)


def authority(**knobs: object) -> x509.Certificate:
    return forge_signing(ROOT, KEY, "root", **knobs)


def with_key(public_key: object) -> bytes:
    """An authority with that key; authorities are trusted for what they hold, whoever signed them."""
    return pem(forge(ROOT, public_key, subject="root", uris=[], ca=True, key_usage=SIGNING))


SIGNING = authority().extensions.get_extension_for_class(x509.KeyUsage).value
CONSTRAINED = x509.NameConstraints([x509.DNSName("example.org")], None)
UNKNOWN = x509.UnrecognizedExtension(x509.ObjectIdentifier("1.3.6.1.4.1.55555.1"), b"\x05\x00")
GOOD = pem(authority())

DEFECTS: dict[str, tuple[BundleCode, Callable[[], bytes]]] = {
    "empty": (BundleCode.EMPTY, lambda: b""),
    "blank": (BundleCode.EMPTY, lambda: b" \r\n\t\n"),
    "too-large": (BundleCode.TOO_LARGE, lambda: GOOD + b"#" * MAX_BUNDLE_BYTES),
    "garbage": (BundleCode.NOT_PEM, lambda: b"\x00\xffgarbage\n"),
    "text": (BundleCode.NOT_PEM, lambda: b"to be filled in\n"),
    "der": (BundleCode.NOT_PEM, lambda: der(authority())),
    "cut-off": (BundleCode.DAMAGED_PEM, lambda: GOOD[:-30]),
    "second-block-cut-off": (BundleCode.DAMAGED_PEM, lambda: GOOD + GOOD[:200]),
    "not-base64": (BundleCode.DAMAGED_PEM, lambda: GOOD.replace(b"\nMII", b"\nM*I")),
    "garbage-after": (BundleCode.DAMAGED_PEM, lambda: GOOD + b"-----BEGIN \xff-----"),
    "certificate-is-garbage": (
        BundleCode.MALFORMED_CERTIFICATE,
        lambda: b"-----BEGIN CERTIFICATE-----\nAQID\n-----END CERTIFICATE-----\n",
    ),
    "empty-block": (
        BundleCode.MALFORMED_CERTIFICATE,
        lambda: GOOD + b"-----BEGIN CERTIFICATE-----\n-----END CERTIFICATE-----\n",
    ),
    "private-key": (BundleCode.PRIVATE_KEY, lambda: GOOD + key_pem(KEY)),
    "private-key-alone": (BundleCode.PRIVATE_KEY, lambda: key_pem(KEY)),
    "revocation-list": (
        BundleCode.UNEXPECTED_BLOCK,
        lambda: GOOD + b"-----BEGIN X509 CRL-----\nAQID\n-----END X509 CRL-----\n",
    ),
    "openssl-trusted": (
        BundleCode.UNEXPECTED_BLOCK,
        lambda: GOOD.replace(b"CERTIFICATE", b"TRUSTED CERTIFICATE"),
    ),
    "too-many": (BundleCode.TOO_MANY_AUTHORITIES, lambda: GOOD * (MAX_AUTHORITIES + 1)),
    "leaf": (BundleCode.NOT_AUTHORITY, lambda: Ca().leaf().chain_pem),
    "leaf-after-authority": (BundleCode.NOT_AUTHORITY, lambda: GOOD + Ca().leaf().chain_pem),
    "no-basic-constraints": (BundleCode.NOT_AUTHORITY, lambda: pem(authority(ca=None))),
    "no-cert-sign": (BundleCode.NO_CERT_SIGN, lambda: pem(authority(key_usage=LEAF_USAGE))),
    "no-key-usage": (BundleCode.NO_CERT_SIGN, lambda: pem(authority(key_usage=None))),
    "name-constraints": (BundleCode.NAME_CONSTRAINTS, lambda: pem(authority(extensions=[(CONSTRAINED, True)]))),
    "critical-extension": (BundleCode.CRITICAL_EXTENSION, lambda: pem(authority(extensions=[(UNKNOWN, True)]))),
    "rsa-1024": (BundleCode.KEY_WEAK, lambda: with_key(rsa_keypair("weak", bits=1024).public_key())),
    "rsa-16384": (
        BundleCode.KEY_OVERSIZED,
        lambda: with_key(rsa.RSAPublicNumbers(65537, (1 << 16384) - 1).public_key()),
    ),
    "p521": (BundleCode.KEY_UNSUPPORTED, lambda: with_key(keypair("p521", curve=ec.SECP521R1).public_key())),
    "p224": (BundleCode.KEY_UNSUPPORTED, lambda: with_key(keypair("p224", curve=ec.SECP224R1).public_key())),
    "ed25519": (
        BundleCode.KEY_UNSUPPORTED,
        lambda: with_key(ed25519.Ed25519PrivateKey.from_private_bytes(bytes(32)).public_key()),
    ),
    "foreign": (BundleCode.FOREIGN_AUTHORITY, lambda: Ca("example.com").pem),
    "foreign-after-own": (BundleCode.FOREIGN_AUTHORITY, lambda: GOOD + Ca("example.com").pem),
    "spiffe-id-with-path": (
        BundleCode.SPIFFE_ID_INVALID,
        lambda: pem(authority(uris=["spiffe://example.org/agent/a/1"])),
    ),
    "spiffe-id-malformed": (BundleCode.SPIFFE_ID_INVALID, lambda: pem(authority(uris=["spiffe://Example.org"]))),
    "expired": (BundleCode.ALL_EXPIRED, lambda: pem(authority(not_after=NOW - 1))),
    "not-yet-valid": (BundleCode.NONE_VALID_YET, lambda: pem(authority(not_before=NOW + 1))),
    "one-expired-one-not-yet-valid": (
        BundleCode.NONE_VALID_YET,
        lambda: pem(authority(not_after=NOW - 1), authority(not_before=NOW + 1)),
    ),
}


@pytest.mark.parametrize("defect", DEFECTS)
def test_defective_bundle_has_its_code(defect: str) -> None:
    code, build = DEFECTS[defect]
    with pytest.raises(BundleError) as caught:
        TrustBundle.from_pem(DOMAIN, build(), NOW)
    assert caught.value.code is code
    assert caught.value.fault is Fault.CONFIGURATION
    assert caught.value.hint


def test_every_code_has_a_defect() -> None:
    """NO_CERTIFICATE is the constructor's, which no file reaches."""
    assert {code for code, _ in DEFECTS.values()} | {BundleCode.NO_CERTIFICATE} == set(BundleCode)


def test_message_about_a_private_key_does_not_show_it() -> None:
    secret = key_pem(KEY)
    with pytest.raises(BundleError) as caught:
        TrustBundle.from_pem(DOMAIN, GOOD + secret, NOW)
    text = f"{caught.value} {caught.value.hint}".encode()
    assert not any(line in text for line in secret.splitlines())


def test_text_around_the_blocks_is_let_pass() -> None:
    bundle = TrustBundle.from_pem(DOMAIN, b"# our root\n" + GOOD.replace(b"\n", b"\r\n") + b"\n# the end\n", NOW)
    assert bundle.authorities == (authority_of(GOOD),)


def authority_of(text: bytes) -> x509.Certificate:
    return x509.load_pem_x509_certificate(text)


@pytest.mark.parametrize(
    "build",
    [
        lambda: with_key(rsa_keypair().public_key()),
        lambda: with_key(keypair("p384", curve=ec.SECP384R1).public_key()),
        lambda: pem(authority(uris=[])),
        lambda: pem(authority(uris=["https://ca.example.org/"])),
        lambda: pem(Ca().intermediate().certificate),
        lambda: pem(*[authority(serial=n) for n in range(1, MAX_AUTHORITIES + 1)]),
    ],
    ids=["rsa-2048", "p384", "without-spiffe-id", "with-web-address", "intermediate", "full"],
)
def test_good_bundle(build: Callable[[], bytes]) -> None:
    text = build()
    assert len(TrustBundle.from_pem(DOMAIN, text, NOW).authorities) == text.count(b"BEGIN")


def test_largest_file_is_read() -> None:
    text = GOOD + b"#" * (MAX_BUNDLE_BYTES - len(GOOD))
    assert TrustBundle.from_pem(DOMAIN, text, NOW).authorities == (authority_of(GOOD),)


def test_authorities_that_are_not_valid_now_stay_beside_one_that_is() -> None:
    old, current, new = authority(not_after=NOW - 1), authority(), authority(not_before=NOW + 1)
    assert TrustBundle.from_pem(DOMAIN, pem(old, current, new), NOW).authorities == (old, current, new)


def test_validity_includes_both_ends() -> None:
    text = pem(authority(not_before=NOW - HOUR, not_after=NOW + HOUR))
    for now in (NOW - HOUR, NOW + HOUR):
        assert TrustBundle.from_pem(DOMAIN, text, now)
    for now in (NOW - HOUR - 1, NOW + HOUR + 1):
        with pytest.raises(BundleError):
            TrustBundle.from_pem(DOMAIN, text, now)


def test_authority_that_stands_twice_counts_once() -> None:
    one, two = authority(serial=1), authority(serial=2)
    assert TrustBundle.from_pem(DOMAIN, pem(one, two, one), NOW).authorities == (one, two)


def test_fingerprint_is_of_domain_and_authorities_in_any_order() -> None:
    certificates = [authority(serial=n, uris=[]) for n in range(1, 6)]
    fingerprint = TrustBundle(DOMAIN, tuple(certificates)).fingerprint
    assert len(fingerprint) == 32
    for turned in (certificates[::-1], certificates[2:] + certificates[:2]):
        assert TrustBundle(DOMAIN, tuple(turned)).fingerprint == fingerprint
    assert TrustBundle(DOMAIN, tuple(certificates[1:])).fingerprint != fingerprint
    assert TrustBundle(TrustDomain("example.com"), tuple(certificates)).fingerprint != fingerprint


def test_der_is_in_the_order_of_the_bundle() -> None:
    certificates = (authority(serial=2), authority(serial=1))
    assert TrustBundle(DOMAIN, certificates).der() == [der(certificate) for certificate in certificates]


def test_bundles_are_equal_by_value() -> None:
    certificate = authority(not_after=NOW + DAY)
    one, same = TrustBundle(DOMAIN, (certificate,)), TrustBundle(DOMAIN, (authority_of(pem(certificate)),))
    assert one == same
    assert hash(one) == hash(same)


@pytest.mark.parametrize(
    ("certificates", "code"),
    [
        ((), BundleCode.NO_CERTIFICATE),
        ((Ca().leaf().leaf,), BundleCode.NOT_AUTHORITY),
        ((Ca("example.com").certificate,), BundleCode.FOREIGN_AUTHORITY),
    ],
    ids=["empty", "leaf", "foreign"],
)
def test_constructor_makes_no_bundle_of_others(certificates: tuple[x509.Certificate, ...], code: BundleCode) -> None:
    with pytest.raises(BundleError) as caught:
        TrustBundle(DOMAIN, certificates)
    assert caught.value.code is code

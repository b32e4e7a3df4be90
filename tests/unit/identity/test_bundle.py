from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa

from sidecar.errors import Fault
from sidecar.identity.bundle import MAX_BUNDLE_BYTES, TrustBundle, changed, older
from sidecar.identity.bundle_fault import MAX_AUTHORITIES, BundleCode, BundleError
from sidecar.identity.spiffe import TrustDomain
from tests.support.bundles import FORMATS, bundle_json
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


def with_key(public_key: object) -> x509.Certificate:
    """An authority with that key; authorities are trusted for what they hold, whoever signed them."""
    return forge(ROOT, public_key, subject="root", uris=[], ca=True, key_usage=SIGNING)


SIGNING = authority().extensions.get_extension_for_class(x509.KeyUsage).value
CONSTRAINED = x509.NameConstraints([x509.DNSName("example.org")], None)
UNKNOWN = x509.UnrecognizedExtension(x509.ObjectIdentifier("1.3.6.1.4.1.55555.1"), b"\x05\x00")
GOOD = authority()

Certificates = list[x509.Certificate]

#: Defects of a file, whatever its format.
FILES: dict[str, tuple[BundleCode, Callable[[bytes], bytes]]] = {
    "empty": (BundleCode.EMPTY, lambda _: b""),
    "blank": (BundleCode.EMPTY, lambda _: b" \r\n\t\n"),
    "too-large": (BundleCode.TOO_LARGE, lambda good: good + b" " * MAX_BUNDLE_BYTES),
}

#: Defects of the authorities in it.
AUTHORITIES: dict[str, tuple[BundleCode, Callable[[], Certificates]]] = {
    "too-many": (BundleCode.TOO_MANY_AUTHORITIES, lambda: [authority()] * (MAX_AUTHORITIES + 1)),
    "leaf": (BundleCode.NOT_AUTHORITY, lambda: [Ca().leaf().leaf]),
    "leaf-after-authority": (BundleCode.NOT_AUTHORITY, lambda: [authority(), Ca().leaf().leaf]),
    "no-basic-constraints": (BundleCode.NOT_AUTHORITY, lambda: [authority(ca=None)]),
    "no-cert-sign": (BundleCode.NO_CERT_SIGN, lambda: [authority(key_usage=LEAF_USAGE)]),
    "no-key-usage": (BundleCode.NO_CERT_SIGN, lambda: [authority(key_usage=None)]),
    "name-constraints": (BundleCode.NAME_CONSTRAINTS, lambda: [authority(extensions=[(CONSTRAINED, True)])]),
    "critical-extension": (BundleCode.CRITICAL_EXTENSION, lambda: [authority(extensions=[(UNKNOWN, True)])]),
    "rsa-1024": (BundleCode.KEY_WEAK, lambda: [with_key(rsa_keypair("weak", bits=1024).public_key())]),
    "rsa-16384": (
        BundleCode.KEY_OVERSIZED,
        lambda: [with_key(rsa.RSAPublicNumbers(65537, (1 << 16384) - 1).public_key())],
    ),
    "p521": (BundleCode.KEY_UNSUPPORTED, lambda: [with_key(keypair("p521", curve=ec.SECP521R1).public_key())]),
    "p224": (BundleCode.KEY_UNSUPPORTED, lambda: [with_key(keypair("p224", curve=ec.SECP224R1).public_key())]),
    "ed25519": (
        BundleCode.KEY_UNSUPPORTED,
        lambda: [with_key(ed25519.Ed25519PrivateKey.from_private_bytes(bytes(32)).public_key())],
    ),
    "foreign": (BundleCode.FOREIGN_AUTHORITY, lambda: [Ca("example.com").certificate]),
    "foreign-after-own": (BundleCode.FOREIGN_AUTHORITY, lambda: [authority(), Ca("example.com").certificate]),
    "spiffe-id-with-path": (
        BundleCode.SPIFFE_ID_INVALID,
        lambda: [authority(uris=["spiffe://example.org/agent/a/1"])],
    ),
    "spiffe-id-malformed": (BundleCode.SPIFFE_ID_INVALID, lambda: [authority(uris=["spiffe://Example.org"])]),
    "expired": (BundleCode.ALL_EXPIRED, lambda: [authority(not_after=NOW - 1)]),
    "not-yet-valid": (BundleCode.NONE_VALID_YET, lambda: [authority(not_before=NOW + 1)]),
    "one-expired-one-not-yet-valid": (
        BundleCode.NONE_VALID_YET,
        lambda: [authority(not_after=NOW - 1), authority(not_before=NOW + 1)],
    ),
}


@pytest.fixture(params=FORMATS)
def write(request: pytest.FixtureRequest) -> Callable[..., bytes]:
    """Writes certificates in one of the formats: what follows holds for each of them."""
    return FORMATS[request.param]


def refused(text: bytes) -> BundleError:
    with pytest.raises(BundleError) as caught:
        TrustBundle.parse(DOMAIN, text, NOW)
    assert caught.value.fault is Fault.CONFIGURATION
    assert caught.value.hint
    return caught.value


@pytest.mark.parametrize("defect", FILES)
def test_a_defective_file_has_its_code(write: Callable[..., bytes], defect: str) -> None:
    code, damage = FILES[defect]
    assert refused(damage(write(authority()))).code is code


@pytest.mark.parametrize("defect", AUTHORITIES)
def test_a_defective_authority_has_its_code(write: Callable[..., bytes], defect: str) -> None:
    code, build = AUTHORITIES[defect]
    assert refused(write(*build())).code is code


def test_the_place_of_a_defective_authority_is_told(write: Callable[..., bytes]) -> None:
    message = str(refused(write(authority(), Ca().leaf().leaf)))
    place = "keys[1]" if write is bundle_json else f"the certificate at line {len(pem(authority()).splitlines()) + 1}"
    assert message == f"{place} in the bundle of example.org: a signing certificate does not have CA:TRUE"


@pytest.mark.parametrize(
    "build",
    [
        lambda: [with_key(rsa_keypair().public_key())],
        lambda: [with_key(keypair("p384", curve=ec.SECP384R1).public_key())],
        lambda: [authority(uris=[])],
        lambda: [authority(uris=["https://ca.example.org/"])],
        lambda: [Ca().intermediate().certificate],
        lambda: [authority(serial=n) for n in range(1, MAX_AUTHORITIES + 1)],
        lambda: [authority(not_after=NOW - 1), authority(), authority(not_before=NOW + 1)],
    ],
    ids=["rsa-2048", "p384", "without-spiffe-id", "with-web-address", "intermediate", "full", "of-all-times"],
)
def test_a_good_bundle_holds_what_was_written(write: Callable[..., bytes], build: Callable[[], Certificates]) -> None:
    certificates = tuple(build())
    bundle = TrustBundle.parse(DOMAIN, write(*certificates), NOW)
    assert bundle == TrustBundle(DOMAIN, certificates)
    assert bundle.fingerprint == TrustBundle(DOMAIN, certificates).fingerprint


def test_the_largest_file_is_read(write: Callable[..., bytes]) -> None:
    text = write(GOOD)
    assert TrustBundle.parse(DOMAIN, text + b" " * (MAX_BUNDLE_BYTES - len(text)), NOW).authorities == (GOOD,)


def test_validity_includes_both_ends(write: Callable[..., bytes]) -> None:
    text = write(authority(not_before=NOW - HOUR, not_after=NOW + HOUR))
    for now in (NOW - HOUR, NOW + HOUR):
        assert TrustBundle.parse(DOMAIN, text, now)
    for now in (NOW - HOUR - 1, NOW + HOUR + 1):
        with pytest.raises(BundleError):
            TrustBundle.parse(DOMAIN, text, now)


def test_an_authority_that_stands_twice_counts_once(write: Callable[..., bytes]) -> None:
    one, two = authority(serial=1), authority(serial=2)
    assert TrustBundle.parse(DOMAIN, write(one, two, one), NOW).authorities == (one, two)


def test_the_format_is_told_by_the_first_character() -> None:
    both = [TrustBundle.parse(DOMAIN, b"\n \t" + write(GOOD), NOW) for write in FORMATS.values()]
    assert both[0] == both[1]
    assert changed({DOMAIN: both[0]}, {DOMAIN: both[1]}) == frozenset()
    assert refused(b"[" + bundle_json(authority()) + b"]").code is BundleCode.NOT_PEM


def authority_of(text: bytes) -> x509.Certificate:
    return x509.load_pem_x509_certificate(text)


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


@pytest.mark.parametrize(
    ("before", "after", "found"),
    [(2, 1, [(DOMAIN, 2, 1)]), (1, 2, []), (1, 1, []), (None, 1, []), (2, None, []), (2, 0, [(DOMAIN, 2, 0)])],
)
def test_a_bundle_that_says_it_is_older_is_found(before: int | None, after: int | None, found: list[object]) -> None:
    one, two = (TrustBundle(DOMAIN, (GOOD,), sequence) for sequence in (before, after))
    assert older({DOMAIN: one}, {DOMAIN: two}) == found
    assert older({DOMAIN: one}, {}) == []
    assert one == two  # the number decides nothing else

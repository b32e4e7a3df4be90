from __future__ import annotations

import itertools
from typing import TYPE_CHECKING

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

from sidecar.errors import Fault
from sidecar.identity.peer import Role
from sidecar.identity.svid import MAX_PEM_BYTES, CertificateCode, CertificateError, Svid
from sidecar.identity.verify import MAX_CHAIN_CERTIFICATES, MAX_LEAF_BYTES, verify
from tests.support.ca import (
    CLIENT_AUTH,
    DAY,
    HOUR,
    LEAF_USAGE,
    NOW,
    SERVER_AUTH,
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
    usage,
)

if TYPE_CHECKING:
    from collections.abc import Callable

CA = Ca()
UPPER = CA.intermediate("upper", lifetime=3 * DAY)
LOWER = UPPER.intermediate("lower", lifetime=2 * DAY)
OURS = LOWER.leaf("/agent/planner/1", dns_names=["planner.internal"])
GOOD = CA.leaf()


def leaf(**knobs: object) -> bytes:
    return pem(forge(CA.signer, **knobs))  # type: ignore[arg-type]  # knobs of forge


def under_intermediate(**knobs: object) -> bytes:
    key = keypair("forged intermediate")
    certificate = forge_signing(CA.signer, key, "intermediate", **knobs)
    return pem(forge(Signer(name("intermediate"), key)), certificate)


def too_long() -> bytes:
    signer, chain = CA.signer, []
    for number in range(MAX_CHAIN_CERTIFICATES):
        key = keypair(f"long {number}")
        chain.insert(0, forge_signing(signer, key, f"long {number}"))
        signer = Signer(name(f"long {number}"), key)
    return pem(forge(signer), *chain)


def too_large() -> bytes:
    filler = x509.UnrecognizedExtension(x509.ObjectIdentifier("1.2.3"), bytes(66 * 1024))
    return under_intermediate(extensions=[(filler, False)])


UNKNOWN = x509.UnrecognizedExtension(x509.ObjectIdentifier("1.3.6.1.4.1.55555.1"), b"\x05\x00")

DEFECTS: dict[str, tuple[CertificateCode, Callable[[], bytes]]] = {
    "empty": (CertificateCode.EMPTY, lambda: b""),
    "blank": (CertificateCode.EMPTY, lambda: b"\n \n"),
    "too-large": (CertificateCode.TOO_LARGE, lambda: GOOD.chain_pem + b"#" * MAX_PEM_BYTES),
    "garbage": (CertificateCode.NOT_PEM, lambda: b"garbage"),
    "der": (CertificateCode.NOT_PEM, lambda: GOOD.der[0]),
    "cut-off": (CertificateCode.DAMAGED_PEM, lambda: GOOD.chain_pem[:-10]),
    "not-base64": (CertificateCode.DAMAGED_PEM, lambda: GOOD.chain_pem.replace(b"\nMII", b"\nM*I")),
    "request": (
        CertificateCode.UNEXPECTED_BLOCK,
        lambda: GOOD.chain_pem.replace(b"CERTIFICATE", b"CERTIFICATE REQUEST"),
    ),
    "key-only": (CertificateCode.NO_CERTIFICATE, lambda: GOOD.key_pem),
    "certificate-is-garbage": (
        CertificateCode.MALFORMED_CERTIFICATE,
        lambda: b"-----BEGIN CERTIFICATE-----\nAQID\n-----END CERTIFICATE-----\n",
    ),
    "authority": (CertificateCode.NO_LEAF, lambda: CA.pem),
    "two-leaves": (CertificateCode.SEVERAL_LEAVES, lambda: GOOD.chain_pem + CA.leaf("/agent/other/1").chain_pem),
    "stranger-among-the-chain": (
        CertificateCode.UNRELATED_CERTIFICATE,
        lambda: OURS.chain_pem + Ca("example.org", key="stranger").pem,
    ),
    "gap-in-the-chain": (CertificateCode.UNRELATED_CERTIFICATE, lambda: pem(OURS.chain[0], UPPER.certificate)),
    "too-long": (CertificateCode.CHAIN_TOO_LARGE, too_long),
    "chain-too-large": (CertificateCode.CHAIN_TOO_LARGE, too_large),
    "leaf-too-large": (
        CertificateCode.CHAIN_TOO_LARGE,
        lambda: leaf(extensions=[(x509.UnrecognizedExtension(UNKNOWN.oid, bytes(MAX_LEAF_BYTES)), False)]),
    ),
    "no-spiffe-id": (CertificateCode.NO_SPIFFE_ID, lambda: leaf(uris=[], names=[x509.DNSName("a.internal")])),
    "two-uris": (CertificateCode.SEVERAL_URI_NAMES, lambda: leaf(uris=["spiffe://a/b", "spiffe://a/c"])),
    "uri-is-no-spiffe-id": (CertificateCode.SPIFFE_ID_INVALID, lambda: leaf(uris=["https://example.org/"])),
    "spiffe-id-of-trust-domain": (CertificateCode.SPIFFE_ID_WITHOUT_PATH, lambda: leaf(uris=["spiffe://example.org"])),
    "no-key-usage": (CertificateCode.KEY_USAGE, lambda: leaf(key_usage=None)),
    "key-usage-not-critical": (CertificateCode.KEY_USAGE, lambda: leaf(key_usage_critical=False)),
    "cert-sign": (CertificateCode.KEY_USAGE, lambda: leaf(key_usage=usage("digital_signature", "key_cert_sign"))),
    "crl-sign": (CertificateCode.KEY_USAGE, lambda: leaf(key_usage=usage("digital_signature", "crl_sign"))),
    "no-digital-signature": (CertificateCode.KEY_USAGE, lambda: leaf(key_usage=usage("key_agreement"))),
    "rsa-2048": (CertificateCode.KEY_UNSUPPORTED, lambda: leaf(public_key=rsa_keypair().public_key())),
    "rsa-1024": (CertificateCode.KEY_UNSUPPORTED, lambda: leaf(public_key=rsa_keypair("weak", bits=1024).public_key())),
    "p521": (
        CertificateCode.KEY_UNSUPPORTED,
        lambda: leaf(public_key=keypair("p521", curve=ec.SECP521R1).public_key()),
    ),
    "critical-extension": (CertificateCode.NOT_ACCEPTABLE, lambda: leaf(extensions=[(UNKNOWN, True)])),
    "signed-over-sha224": (CertificateCode.NOT_ACCEPTABLE, lambda: leaf(algorithm=hashes.SHA224())),
    "intermediate-without-cert-sign": (
        CertificateCode.INTERMEDIATE_INVALID,
        lambda: under_intermediate(key_usage=LEAF_USAGE),
    ),
    "intermediate-of-foreign-domain": (
        CertificateCode.INTERMEDIATE_INVALID,
        lambda: under_intermediate(uris=["spiffe://example.com"]),
    ),
    "intermediate-signed-over-sha224": (
        CertificateCode.INTERMEDIATE_INVALID,
        lambda: under_intermediate(algorithm=hashes.SHA224()),
    ),
    "expired": (CertificateCode.EXPIRED, lambda: leaf(not_after=NOW - 1)),
    "not-yet-valid": (CertificateCode.NOT_YET_VALID, lambda: leaf(not_before=NOW + 1)),
    "intermediate-expired": (CertificateCode.INTERMEDIATE_EXPIRED, lambda: under_intermediate(not_after=NOW - 1)),
    "intermediate-not-yet-valid": (
        CertificateCode.INTERMEDIATE_NOT_YET_VALID,
        lambda: under_intermediate(not_before=NOW + 1),
    ),
}


@pytest.mark.parametrize("defect", DEFECTS)
def test_defective_file_has_its_code(defect: str) -> None:
    code, build = DEFECTS[defect]
    with pytest.raises(CertificateError) as caught:
        Svid.from_pem(build(), NOW)
    assert caught.value.code is code
    assert caught.value.fault is Fault.CONFIGURATION
    assert caught.value.hint


def test_every_code_has_a_defect() -> None:
    """Two are not the file's: the key's, and the role's."""
    others = {CertificateCode.KEY_MISMATCH, CertificateCode.WRONG_PURPOSE}
    assert {code for code, _ in DEFECTS.values()} | others == set(CertificateCode)


def test_parts() -> None:
    svid = Svid.from_pem(OURS.chain_pem, NOW)
    assert svid.id == OURS.id
    assert svid.chain == OURS.chain
    assert svid.pin == OURS.pin
    assert svid.serial == f"{OURS.leaf.serial_number:x}"
    assert (svid.not_before, svid.not_after) == (NOW - 60, NOW + HOUR)
    assert svid.chain_pem == OURS.chain_pem
    assert svid.chain_der == OURS.der


def test_identity_ends_with_the_first_of_its_chain() -> None:
    key = keypair("forged intermediate")
    chain = pem(
        forge(Signer(name("intermediate"), key), not_before=NOW - DAY, not_after=NOW + DAY),
        forge_signing(CA.signer, key, "intermediate", not_before=NOW - 5, not_after=NOW + 5),
    )
    svid = Svid.from_pem(chain, NOW)
    assert (svid.not_before, svid.not_after) == (NOW - 5, NOW + 5)


def test_blocks_may_stand_in_any_order() -> None:
    """A PEM bundle with key and chain gives the same identity in every order of its blocks."""
    expected = Svid.from_pem(OURS.chain_pem, NOW)
    parts = [OURS.key_pem, *(pem(certificate) for certificate in OURS.chain)]
    for order in itertools.permutations(parts):
        assert Svid.from_pem(b"".join(order), NOW) == expected


def test_largest_file_is_read() -> None:
    assert Svid.from_pem(GOOD.chain_pem + b"#" * (MAX_PEM_BYTES - len(GOOD.chain_pem)), NOW).id == GOOD.id


def test_root_of_the_chain_may_stand_in_the_file() -> None:
    assert Svid.from_pem(CA.pem + OURS.chain_pem, NOW).chain == (*OURS.chain, CA.certificate)


def test_certificate_that_stands_twice_counts_once() -> None:
    assert Svid.from_pem(OURS.chain_pem * 2, NOW).chain == OURS.chain


def test_private_key_is_passed_over_unread() -> None:
    parameters = b"-----BEGIN EC PARAMETERS-----\nBggqhkjOPQMBBw==\n-----END EC PARAMETERS-----\n"
    broken = b"-----BEGIN EC PRIVATE KEY-----\nProc-Type: 4,ENCRYPTED\n\n*\n-----END EC PRIVATE KEY-----\n"
    svid = Svid.from_pem(parameters + broken + GOOD.chain_pem, NOW)
    assert svid.id == GOOD.id
    assert b"KEY" not in svid.chain_pem


def test_p384_is_as_good_as_p256() -> None:
    key = keypair("p384", curve=ec.SECP384R1)
    svid = CA.leaf(key=key).svid()
    svid.check_key(key.public_key())


@pytest.mark.parametrize("role", Role)
def test_what_is_accepted_here_is_accepted_by_peers(role: Role) -> None:
    svid = Svid.from_pem(OURS.chain_pem, NOW)
    svid.check_role(role)
    peer = verify(svid.chain_der, CA.bundles, role=role, now=NOW)
    assert (peer.id, peer.pin, peer.serial) == (svid.id, svid.pin, svid.serial)


@pytest.mark.parametrize(("purpose", "role"), [(SERVER_AUTH, Role.CLIENT), (CLIENT_AUTH, Role.SERVER)])
def test_role_that_the_certificate_does_not_allow(purpose: x509.ObjectIdentifier, role: Role) -> None:
    svid = Svid.from_pem(leaf(purposes=[purpose]), NOW)
    with pytest.raises(CertificateError) as caught:
        svid.check_role(role)
    assert caught.value.code is CertificateCode.WRONG_PURPOSE
    assert caught.value.hint


def test_own_key_is_accepted_however_it_was_loaded() -> None:
    svid = GOOD.svid()
    svid.check_key(GOOD.key.public_key())
    svid.check_key(GOOD.leaf.public_key())


@pytest.mark.parametrize(
    "key",
    [keypair("other"), keypair("p384", curve=ec.SECP384R1), rsa_keypair()],
    ids=["another", "another-curve", "another-kind"],
)
def test_key_of_another_certificate_is_refused(key: ec.EllipticCurvePrivateKey) -> None:
    with pytest.raises(CertificateError) as caught:
        GOOD.svid().check_key(key.public_key())
    assert caught.value.code is CertificateCode.KEY_MISMATCH
    assert caught.value.hint


def test_message_shows_nothing_of_a_key() -> None:
    secret = key_pem(keypair()) + GOOD.key.private_bytes(Encoding.PEM, PrivateFormat.TraditionalOpenSSL, NoEncryption())
    with pytest.raises(CertificateError) as caught:
        Svid.from_pem(secret + GOOD.chain_pem[:-10], NOW)
    text = f"{caught.value} {caught.value.hint}".encode()
    assert not any(line in text for line in secret.splitlines())


def test_der_of_a_chain_is_what_was_in_the_file() -> None:
    assert Svid.from_pem(pem(*OURS.chain[::-1]), NOW).chain_der == [der(certificate) for certificate in OURS.chain]

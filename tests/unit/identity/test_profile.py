"""The corpus has a chain for each rule; here is what the rules leave open, and what no chain can show."""

from __future__ import annotations

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec, rsa

from sidecar.identity.facts import Facts
from sidecar.identity.peer import Role
from sidecar.identity.profile import (
    MAX_RSA_BITS,
    MAX_RSA_EXPONENT_BITS,
    MIN_RSA_BITS,
    check_key,
    check_leaf,
    check_presented,
    check_purpose,
    check_signing,
    check_signing_purpose,
    leaf_id,
)
from sidecar.identity.refusal import Refusal, VerificationError
from sidecar.identity.spiffe import TrustDomain
from tests.support.ca import CLIENT_AUTH, SERVER_AUTH, Ca, Signer, forge, forge_signing, keypair, name, resign, usage
from tests.unit.identity.corpus import with_serial

CA = Ca()


def rsa_key(bits: int, exponent: int = 65537) -> rsa.RSAPublicKey:
    return rsa.RSAPublicNumbers(exponent, (1 << bits) - 1).public_key()


@pytest.mark.parametrize(
    "knobs",
    [
        {"ca": None},
        {"purposes": None},
        {"key_usage": usage("digital_signature", "key_encipherment", "key_agreement", "content_commitment")},
        {
            "names": [
                x509.DNSName("a.internal"),
                x509.RFC822Name("a@example.org"),
                x509.RegisteredID(x509.ObjectIdentifier("1.2.3")),
            ]
        },
        {"subject": name("")},
        {
            "extensions": [
                (x509.CertificatePolicies([x509.PolicyInformation(x509.ObjectIdentifier("1.2.3"), None)]), False)
            ]
        },
    ],
    ids=["no-basic-constraints", "no-purposes", "more-usages", "other-names", "no-subject", "policies"],
)
def test_leaf_may_be_so(knobs: dict[str, object]) -> None:
    facts = Facts.of_certificate(forge(CA.signer, **knobs))  # type: ignore[arg-type]  # knobs of forge
    check_leaf(facts)
    for role in Role:
        check_purpose(facts, role)
    assert str(leaf_id(facts)) == "spiffe://example.org/agent/planner/1"


@pytest.mark.parametrize(
    "key",
    [
        keypair().public_key(),
        keypair("p384", curve=ec.SECP384R1).public_key(),
        rsa_key(MIN_RSA_BITS),
        rsa_key(MAX_RSA_BITS),
        rsa_key(2048, 3),
        rsa_key(2048, (1 << MAX_RSA_EXPONENT_BITS) - 1),
    ],
    ids=["p256", "p384", "rsa-shortest", "rsa-longest", "exponent-shortest", "exponent-longest"],
)
def test_key_may_be_so(key: ec.EllipticCurvePublicKey | rsa.RSAPublicKey) -> None:
    check_key(key)


def test_rsa_key_with_exponent_one_is_refused() -> None:
    """Whatever is signed is its own signature. The library does not load such a key, and this holds it to that."""
    plain = forge(CA.signer, rsa_key(2048))
    long, one = bytes.fromhex("0203010001"), bytes.fromhex("0203000001")
    assert plain.tbs_certificate_bytes.count(long) == 1
    with pytest.raises(VerificationError) as caught:
        check_leaf(Facts.of_der(resign(plain, keypair(), lambda tbs: tbs.replace(long, one))))
    assert caught.value.code is Refusal.CERTIFICATE_MALFORMED


@pytest.mark.parametrize("serial", [1, (1 << 160) - 1], ids=["shortest", "longest"])
def test_serial_may_be_so(serial: int) -> None:
    """The library writes no serial beyond 159 bits, so it is edited in."""
    octets = serial.to_bytes(21, "big").lstrip(b"\0")
    contents = b"\0" * (octets[0] >> 7) + octets
    check_presented(Facts.of_der(resign(forge(CA.signer), keypair(), with_serial(contents))))


@pytest.mark.parametrize(
    ("purposes", "roles"),
    [
        (None, set(Role)),
        ([SERVER_AUTH, CLIENT_AUTH], set(Role)),
        ([SERVER_AUTH], {Role.SERVER}),
        ([CLIENT_AUTH], {Role.CLIENT}),
        ([x509.ObjectIdentifier("2.5.29.37.0")], set()),
    ],
    ids=["none", "both", "server", "client", "any"],
)
def test_purposes_allow_roles(purposes: list[x509.ObjectIdentifier] | None, roles: set[Role]) -> None:
    leaf = Facts.of_certificate(forge(CA.signer, purposes=purposes))
    signing = Facts.of_certificate(forge_signing(CA.signer, keypair(), "intermediate", purposes=purposes))
    for role in Role:
        for check, facts in ((check_purpose, leaf), (check_signing_purpose, signing)):
            if role in roles:
                check(facts, role)
            else:
                with pytest.raises(VerificationError):
                    check(facts, role)


@pytest.mark.parametrize(
    "knobs",
    [
        {"uris": []},
        {"uris": ["https://example.org/ca"]},
        {"uris": ["spiffe://example.org", "https://example.org/ca"]},
        {"path_length": 0},
        {"key_usage_critical": False},
        {"key_usage": usage("key_cert_sign")},
        {"key_usage": usage("key_cert_sign", "digital_signature")},
    ],
    ids=["no-names", "web-address", "both", "path-length", "usage-not-critical", "no-crl-sign", "digital-signature"],
)
def test_signing_certificate_may_be_so(knobs: dict[str, object]) -> None:
    certificate = forge_signing(Signer(name("root"), keypair("root")), keypair("root"), "root", **knobs)
    check_signing(Facts.of_certificate(certificate), TrustDomain("example.org"))

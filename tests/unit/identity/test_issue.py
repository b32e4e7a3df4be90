from __future__ import annotations

import dataclasses
from contextlib import contextmanager
from datetime import UTC, datetime
from typing import TYPE_CHECKING

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, ed25519
from cryptography.x509.oid import ExtendedKeyUsageOID
from OpenSSL import crypto

from sidecar.errors import Fault
from sidecar.identity.bundle import TrustBundle
from sidecar.identity.issue import (
    AUTHORITY_LIFETIME,
    BACKDATE,
    MAX_LIFETIME,
    Authority,
    AuthorityKey,
    IssueCode,
    IssueError,
    issue,
)
from sidecar.identity.peer import Role
from sidecar.identity.spiffe import SpiffeId, TrustDomain
from sidecar.identity.verify import verify
from tests.support.ca import DAY, HOUR, NOW, Ca, Signer, der, forge, forge_signing, keypair, name, resign, rsa_keypair

if TYPE_CHECKING:
    from collections.abc import Iterator

DOMAIN = TrustDomain("example.org")
PLANNER = SpiffeId.parse("spiffe://example.org/agent/planner/1")
AUTHORITY = Authority.create(DOMAIN, now=NOW)


def extension(certificate: x509.Certificate, kind: type[x509.ExtensionType]) -> x509.Extension[x509.ExtensionType]:
    return certificate.extensions.get_extension_for_class(kind)


def span(certificate: x509.Certificate) -> tuple[float, float]:
    return certificate.not_valid_before_utc.timestamp(), certificate.not_valid_after_utc.timestamp()


def test_leaf_is_an_x509_svid() -> None:
    key = keypair().public_key()
    leaf = issue(AUTHORITY, key, PLANNER, now=NOW, lifetime=HOUR)
    names = extension(leaf, x509.SubjectAlternativeName)
    assert list(names.value) == [x509.UniformResourceIdentifier(str(PLANNER))]
    constraints = extension(leaf, x509.BasicConstraints)
    assert (constraints.critical, constraints.value) == (True, x509.BasicConstraints(ca=False, path_length=None))
    usage = extension(leaf, x509.KeyUsage)
    assert usage.critical
    assert usage.value.digital_signature
    assert not any((usage.value.key_cert_sign, usage.value.crl_sign, usage.value.key_agreement))
    purposes = extension(leaf, x509.ExtendedKeyUsage).value
    assert list(purposes) == [ExtendedKeyUsageOID.SERVER_AUTH, ExtendedKeyUsageOID.CLIENT_AUTH]
    subject = extension(leaf, x509.SubjectKeyIdentifier).value
    assert subject == x509.SubjectKeyIdentifier.from_public_key(key)
    issuer = extension(leaf, x509.AuthorityKeyIdentifier).value
    own = extension(AUTHORITY.certificate, x509.SubjectKeyIdentifier).value
    assert issuer.key_identifier == own.key_identifier
    assert leaf.public_key() == key
    assert str(PLANNER) not in leaf.subject.rfc4514_string()


def test_authority_is_a_signing_svid_of_its_trust_domain() -> None:
    certificate = Authority.create(DOMAIN, now=NOW, path_length=1).certificate
    constraints = extension(certificate, x509.BasicConstraints)
    assert (constraints.critical, constraints.value) == (True, x509.BasicConstraints(ca=True, path_length=1))
    usage = extension(certificate, x509.KeyUsage)
    assert usage.critical
    assert (usage.value.key_cert_sign, usage.value.crl_sign, usage.value.digital_signature) == (True, True, False)
    names = extension(certificate, x509.SubjectAlternativeName).value
    assert list(names) == [x509.UniformResourceIdentifier("spiffe://example.org")]
    assert span(certificate) == (NOW - BACKDATE, NOW + AUTHORITY_LIFETIME)


@pytest.mark.parametrize("role", Role)
@pytest.mark.parametrize("depth", [0, 1, 3])
def test_what_is_issued_is_accepted_by_us(depth: int, role: Role) -> None:
    authority = AUTHORITY
    above: list[bytes] = []
    for number in range(depth):
        authority = authority.intermediate(now=NOW, lifetime=DAY, common_name=f"intermediate {number}")
        above.insert(0, der(authority.certificate))
    leaf = issue(authority, keypair().public_key(), PLANNER, now=NOW, lifetime=HOUR)
    bundle = TrustBundle(DOMAIN, (AUTHORITY.certificate,))
    assert verify([der(leaf), *above], {DOMAIN: bundle}, role=role, now=NOW).id == PLANNER


@pytest.mark.parametrize(
    "key", [keypair("own"), keypair("own-384", curve=ec.SECP384R1), rsa_keypair()], ids=["p256", "p384", "rsa"]
)
def test_what_is_issued_is_accepted_by_openssl(key: AuthorityKey) -> None:
    """OpenSSL's strict reading of RFC 5280 finds nothing in a chain of ours."""
    root = Authority.create(DOMAIN, now=NOW, private_key=key)
    intermediate = root.intermediate(now=NOW, lifetime=DAY)
    leaf = issue(intermediate, keypair().public_key(), PLANNER, now=NOW, lifetime=HOUR, dns_names=["tools.internal"])
    store = crypto.X509Store()
    store.add_cert(crypto.X509.from_cryptography(root.certificate))
    store.set_flags(crypto.X509StoreFlags.X509_STRICT)
    store.set_time(datetime.fromtimestamp(NOW, tz=UTC))
    crypto.X509StoreContext(
        store,
        crypto.X509.from_cryptography(leaf),
        [crypto.X509.from_cryptography(intermediate.certificate)],
    ).verify_certificate()


@pytest.mark.parametrize(
    ("key", "algorithm"),
    [
        (keypair("own"), hashes.SHA256),
        (keypair("own-384", curve=ec.SECP384R1), hashes.SHA384),
        (rsa_keypair(), hashes.SHA256),
    ],
    ids=["p256", "p384", "rsa"],
)
def test_hash_fits_the_authority_s_key(key: AuthorityKey, algorithm: type[hashes.HashAlgorithm]) -> None:
    authority = Authority.create(DOMAIN, now=NOW, private_key=key)
    leaf = issue(authority, keypair().public_key(), PLANNER, now=NOW, lifetime=HOUR)
    for certificate in (authority.certificate, leaf):
        assert isinstance(certificate.signature_hash_algorithm, algorithm)


def test_dns_names_stand_beside_the_spiffe_id() -> None:
    leaf = issue(
        AUTHORITY, keypair().public_key(), PLANNER, now=NOW, lifetime=HOUR, dns_names=["a.internal", "localhost"]
    )
    names = extension(leaf, x509.SubjectAlternativeName).value
    assert names.get_values_for_type(x509.DNSName) == ["a.internal", "localhost"]
    assert names.get_values_for_type(x509.UniformResourceIdentifier) == [str(PLANNER)]


def test_serial_numbers_are_random_and_short_enough() -> None:
    serials = {
        issue(AUTHORITY, keypair().public_key(), PLANNER, now=NOW, lifetime=HOUR).serial_number for _ in range(50)
    }
    assert len(serials) == 50
    assert all(0 < serial < 2**159 for serial in serials)


@pytest.mark.parametrize(
    ("now", "lifetime", "backdate", "expected"),
    [
        (NOW + DAY, HOUR, 60, (NOW + DAY - 60, NOW + DAY + HOUR)),
        (NOW + DAY, HOUR, 0, (NOW + DAY, NOW + DAY + HOUR)),
        (NOW + DAY + 0.9, HOUR, 60, (NOW + DAY - 60, NOW + DAY + HOUR)),
        (NOW, HOUR, DAY, (NOW - BACKDATE, NOW + HOUR)),
        (NOW, 2 * AUTHORITY_LIFETIME, 0, (NOW, NOW + AUTHORITY_LIFETIME)),
        (NOW, 1, 0, (NOW, NOW + 1)),
    ],
    ids=["backdated", "not-backdated", "whole-seconds", "begins-with-authority", "ends-with-authority", "shortest"],
)
def test_leaf_lives_inside_its_authority(
    now: float, lifetime: float, backdate: float, expected: tuple[float, float]
) -> None:
    leaf = issue(AUTHORITY, keypair().public_key(), PLANNER, now=now, lifetime=lifetime, backdate=backdate)
    assert span(leaf) == expected


def test_intermediate_lives_inside_its_authority() -> None:
    intermediate = AUTHORITY.intermediate(now=NOW, lifetime=2 * AUTHORITY_LIFETIME)
    assert span(intermediate.certificate) == span(AUTHORITY.certificate)


@pytest.mark.parametrize(
    ("above", "asked", "expected"),
    [(None, None, None), (None, 0, 0), (2, None, 1), (2, 0, 0), (2, 5, 1), (1, None, 0)],
)
def test_intermediate_has_less_room_than_its_authority(
    above: int | None, asked: int | None, expected: int | None
) -> None:
    authority = Authority.create(DOMAIN, now=NOW, path_length=above)
    intermediate = authority.intermediate(now=NOW, lifetime=DAY, path_length=asked)
    assert extension(intermediate.certificate, x509.BasicConstraints).value.path_length == expected


def test_intermediate_has_the_name_and_key_it_is_given() -> None:
    given = AUTHORITY.intermediate(now=NOW, lifetime=DAY, common_name="given", private_key=keypair("given"))
    assert given.certificate.subject == name("given")
    assert given.private_key == keypair("given")
    made = AUTHORITY.intermediate(now=NOW, lifetime=DAY)
    assert made.certificate.subject == name("example.org intermediate")
    assert made.private_key.public_key() != AUTHORITY.private_key.public_key()


def test_renewed_authority_keeps_what_it_signed_valid() -> None:
    leaf = issue(AUTHORITY, keypair().public_key(), PLANNER, now=NOW, lifetime=AUTHORITY_LIFETIME)
    later = NOW + AUTHORITY_LIFETIME - HOUR
    renewed = Authority.create(DOMAIN, now=later, private_key=AUTHORITY.private_key)
    bundle = TrustBundle(DOMAIN, (renewed.certificate,))
    assert verify([der(leaf)], {DOMAIN: bundle}, role=Role.CLIENT, now=later).id == PLANNER


def test_names_of_authorities_are_cut_to_what_x509_allows() -> None:
    long = TrustDomain("a" * 255)
    authority = Authority.create(long, now=NOW)
    assert authority.trust_domain == long
    assert authority.intermediate(now=NOW, lifetime=DAY, common_name="b" * 100).trust_domain == long


def test_key_of_an_authority_is_in_no_text_about_it() -> None:
    assert "private_key" not in repr(AUTHORITY)


@contextmanager
def refused(code: IssueCode) -> Iterator[None]:
    with pytest.raises(IssueError) as caught:
        yield
    assert caught.value.code is code
    assert caught.value.fault is Fault.LOCAL


def test_refuses_an_id_of_another_trust_domain() -> None:
    with refused(IssueCode.FOREIGN_TRUST_DOMAIN):
        issue(AUTHORITY, keypair().public_key(), SpiffeId.parse("spiffe://example.com/a"), now=NOW, lifetime=HOUR)


def test_refuses_the_id_of_a_trust_domain() -> None:
    with refused(IssueCode.NO_PATH):
        issue(AUTHORITY, keypair().public_key(), SpiffeId(DOMAIN, ""), now=NOW, lifetime=HOUR)


def test_refuses_a_key_that_peers_refuse() -> None:
    key = ed25519.Ed25519PrivateKey.from_private_bytes(bytes(32)).public_key()
    with refused(IssueCode.KEY_UNSUPPORTED):
        issue(AUTHORITY, key, PLANNER, now=NOW, lifetime=HOUR)


def test_refuses_a_dns_name_that_is_not_ascii() -> None:
    with refused(IssueCode.DNS_NAME):
        issue(AUTHORITY, keypair().public_key(), PLANNER, now=NOW, lifetime=HOUR, dns_names=["w\u00e4rme.example"])


@pytest.mark.parametrize("lifetime", [0, -1, 0.5, float("nan"), float("inf"), MAX_LIFETIME + 1])
def test_refuses_a_lifetime_that_is_none(lifetime: float) -> None:
    with refused(IssueCode.LIFETIME):
        issue(AUTHORITY, keypair().public_key(), PLANNER, now=NOW, lifetime=lifetime)
    with refused(IssueCode.LIFETIME):
        Authority.create(DOMAIN, now=NOW, lifetime=lifetime)


@pytest.mark.parametrize("now", [NOW - BACKDATE - 1, NOW + AUTHORITY_LIFETIME, float("nan")])
def test_refuses_to_issue_outside_of_the_authority_s_life(now: float) -> None:
    with refused(IssueCode.AUTHORITY_NOT_VALID):
        issue(AUTHORITY, keypair().public_key(), PLANNER, now=now, lifetime=HOUR)


def test_refuses_an_intermediate_where_the_path_has_no_room() -> None:
    authority = Authority.create(DOMAIN, now=NOW, path_length=0)
    with refused(IssueCode.PATH_LENGTH):
        authority.intermediate(now=NOW, lifetime=DAY)


def test_refuses_an_authority_with_another_key() -> None:
    with refused(IssueCode.KEY_MISMATCH):
        dataclasses.replace(AUTHORITY, private_key=keypair("other"))


def test_refuses_a_leaf_as_authority() -> None:
    leaf = Ca().leaf()
    with refused(IssueCode.NOT_AUTHORITY):
        Authority(leaf.leaf, leaf.key)


@pytest.mark.parametrize("uris", [[], ["https://example.org/"]])
def test_refuses_an_authority_without_trust_domain(uris: list[str]) -> None:
    key = keypair("nameless")
    certificate = forge_signing(Signer(name("nameless"), key), key, "nameless", uris=uris)
    with refused(IssueCode.NO_TRUST_DOMAIN):
        Authority(certificate, key)


def test_refuses_an_authority_whose_certificate_is_malformed() -> None:
    edited = resign(forge(Ca().signer), keypair(), lambda tbs: tbs.replace(b"forged", b"\xff" * 6))
    with refused(IssueCode.NOT_AUTHORITY):
        Authority(x509.load_der_x509_certificate(edited), keypair())

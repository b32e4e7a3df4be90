"""The one function that issues certificates: for tests, for `certs init` and for the authority.

The only file of the pure ring that uses randomness (serial numbers, and keys when none is given).
"""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import UTC, datetime
from enum import StrEnum
from typing import TYPE_CHECKING, Final, TypeAlias

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from sidecar.errors import LocalError
from sidecar.identity.facts import Facts
from sidecar.identity.profile import check_key, check_signing
from sidecar.identity.refusal import VerificationError
from sidecar.identity.spiffe import SpiffeId, SpiffeIdError, TrustDomain

if TYPE_CHECKING:
    from collections.abc import Sequence

    from cryptography.hazmat.primitives.asymmetric.types import CertificatePublicKeyTypes

AuthorityKey: TypeAlias = ec.EllipticCurvePrivateKey | rsa.RSAPrivateKey

BACKDATE: Final = 60.0
"""Seconds by which a certificate begins before now, for peers whose clock is behind."""

AUTHORITY_LIFETIME: Final = 90 * 24 * 3600.0
"""Seconds that an authority made without a lifetime lives."""

MAX_LIFETIME: Final = 100 * 365 * 24 * 3600.0
"""Seconds; longer ones end after the year 9999 sooner than they serve anybody."""

_COMMON_NAME_CHARACTERS: Final = 64
"""ub-common-name (RFC 5280, appendix A.1)."""

_LEAF_SUBJECT: Final = x509.Name([x509.NameAttribute(NameOID.ORGANIZATION_NAME, "sidecar")])
"""The same for everybody: whoever reads an identity out of a subject finds none."""


class IssueCode(StrEnum):
    """Why a certificate is not issued."""

    NOT_AUTHORITY = "issue_not_authority"
    KEY_MISMATCH = "issue_key_mismatch"
    NO_TRUST_DOMAIN = "issue_no_trust_domain"
    FOREIGN_TRUST_DOMAIN = "issue_foreign_trust_domain"
    NO_PATH = "issue_no_path"
    DNS_NAME = "issue_dns_name"
    KEY_UNSUPPORTED = "issue_key_unsupported"
    AUTHORITY_NOT_VALID = "issue_authority_not_valid"
    LIFETIME = "issue_lifetime"
    PATH_LENGTH = "issue_path_length"


class IssueError(LocalError):
    """A certificate is not issued, since no peer would accept it; ``code`` is an :class:`IssueCode`."""


@dataclass(frozen=True, slots=True)
class Authority:
    """A signing certificate with its key, both of one trust domain.

    Raises :class:`IssueError` when the certificate may not sign, names no trust domain, or is not of that key.
    """

    certificate: x509.Certificate
    private_key: AuthorityKey = field(repr=False)
    trust_domain: TrustDomain = field(init=False)

    def __post_init__(self) -> None:
        try:
            facts = Facts.of_certificate(self.certificate)
            trust_domain = SpiffeId.parse(facts.uris[0] if facts.uris else "").trust_domain
            check_signing(facts, trust_domain)
        except SpiffeIdError as error:
            raise IssueError(IssueCode.NO_TRUST_DOMAIN, f"the authority names no trust domain: {error}") from error
        except VerificationError as error:
            raise IssueError(IssueCode.NOT_AUTHORITY, f"the certificate cannot be an authority's: {error}") from error
        if facts.public_key != self.private_key.public_key():
            raise IssueError(IssueCode.KEY_MISMATCH, "the authority's key is not the one in its certificate")
        object.__setattr__(self, "trust_domain", trust_domain)

    @classmethod
    def create(
        cls,
        trust_domain: TrustDomain,
        *,
        now: float,
        lifetime: float = AUTHORITY_LIFETIME,
        common_name: str | None = None,
        path_length: int | None = None,
        private_key: AuthorityKey | None = None,
    ) -> Authority:
        """A self-signed authority of that trust domain, valid for ``lifetime`` seconds from ``now``.

        A P-256 key is made unless one is given: with the key and common name of an older authority this is its renewal,
        and what the older one signed stays valid. ``path_length`` is the number of intermediates that may follow.
        """
        key = private_key or ec.generate_private_key(ec.SECP256R1())
        subject = _authority_name(trust_domain, common_name)
        builder = _signing_builder(subject, subject, key.public_key(), trust_domain, path_length)
        builder = _valid(builder, now - BACKDATE, now + _checked(lifetime))
        return cls(_sign(builder, key), key)

    def intermediate(
        self,
        *,
        now: float,
        lifetime: float,
        common_name: str | None = None,
        path_length: int | None = None,
        private_key: AuthorityKey | None = None,
    ) -> Authority:
        """An authority of the same trust domain under this one; its certificate belongs into the chains it signs."""
        own = self.certificate.extensions.get_extension_for_class(x509.BasicConstraints).value.path_length
        if own == 0:
            raise IssueError(IssueCode.PATH_LENGTH, "the authority's path length allows no intermediate under it")
        if own is not None:
            path_length = own - 1 if path_length is None else min(path_length, own - 1)
        key = private_key or ec.generate_private_key(ec.SECP256R1())
        subject = _authority_name(self.trust_domain, common_name or f"{self.trust_domain} intermediate")
        builder = _signing_builder(subject, self.certificate.subject, key.public_key(), self.trust_domain, path_length)
        builder = _valid(builder, *_span(self.certificate, now, lifetime, BACKDATE))
        return Authority(_sign(builder, self.private_key), key)


def issue(
    authority: Authority,
    subject_public_key: CertificatePublicKeyTypes,
    spiffe_id: SpiffeId,
    *,
    now: float,
    lifetime: float,
    dns_names: Sequence[str] = (),
    backdate: float = BACKDATE,
) -> x509.Certificate:
    """An X.509-SVID for that key and SPIFFE ID, valid for ``lifetime`` seconds from ``now``.

    It begins ``backdate`` seconds earlier, and never outlives its authority on either side. It is a leaf by X509-SVID
    section 4, for both roles; ``dns_names`` serve clients that check a host name and decide nothing here. Raises
    :class:`IssueError` for whatever :func:`sidecar.identity.verify.verify` would refuse.
    """
    if spiffe_id.trust_domain != authority.trust_domain:
        raise IssueError(
            IssueCode.FOREIGN_TRUST_DOMAIN, f"an authority of {authority.trust_domain} cannot issue {spiffe_id}"
        )
    if not spiffe_id.path:
        raise IssueError(IssueCode.NO_PATH, f"{spiffe_id} is the SPIFFE ID of a trust domain, which no workload is")
    try:
        check_key(subject_public_key)
        names = [x509.UniformResourceIdentifier(str(spiffe_id)), *map(x509.DNSName, dns_names)]
    except VerificationError as error:
        raise IssueError(IssueCode.KEY_UNSUPPORTED, f"no certificate for this key: {error}") from error
    except ValueError as error:
        raise IssueError(IssueCode.DNS_NAME, f"a DNS name is not ASCII: {error}", hint="write its A-label") from error
    builder = (
        _builder(_LEAF_SUBJECT, authority.certificate.subject, subject_public_key)
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(_key_usage(signing=False), critical=True)
        .add_extension(
            x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH, ExtendedKeyUsageOID.CLIENT_AUTH]), critical=False
        )
        .add_extension(x509.SubjectAlternativeName(names), critical=False)
    )
    builder = _valid(builder, *_span(authority.certificate, now, lifetime, backdate))
    return _sign(builder, authority.private_key)


def _authority_name(trust_domain: TrustDomain, common_name: str | None) -> x509.Name:
    name = common_name or f"{trust_domain} authority"
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name[:_COMMON_NAME_CHARACTERS])])


def _builder(subject: x509.Name, issuer: x509.Name, key: CertificatePublicKeyTypes) -> x509.CertificateBuilder:
    """What every certificate has: names, key, a random positive serial of at most 20 octets, and the key's identifier."""
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(key)
        .serial_number(x509.random_serial_number())
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key), critical=False)
    )


def _signing_builder(
    subject: x509.Name,
    issuer: x509.Name,
    key: CertificatePublicKeyTypes,
    trust_domain: TrustDomain,
    path_length: int | None,
) -> x509.CertificateBuilder:
    """A signing certificate by X509-SVID 3.2: its SPIFFE ID is that of the trust domain."""
    return (
        _builder(subject, issuer, key)
        .add_extension(x509.BasicConstraints(ca=True, path_length=path_length), critical=True)
        .add_extension(_key_usage(signing=True), critical=True)
        .add_extension(
            x509.SubjectAlternativeName([x509.UniformResourceIdentifier(str(SpiffeId(trust_domain, "")))]),
            critical=False,
        )
    )


def _key_usage(*, signing: bool) -> x509.KeyUsage:
    """The bits keyCertSign and cRLSign for a signing certificate, digitalSignature for a leaf (X509-SVID 4.3)."""
    return x509.KeyUsage(
        digital_signature=not signing,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        key_cert_sign=signing,
        crl_sign=signing,
        encipher_only=False,
        decipher_only=False,
    )


def _span(authority: x509.Certificate, now: float, lifetime: float, backdate: float) -> tuple[float, float]:
    """When a certificate begins and ends, inside the life of its authority."""
    begin = authority.not_valid_before_utc.timestamp()
    end = authority.not_valid_after_utc.timestamp()
    if not begin <= now < end:
        raise IssueError(IssueCode.AUTHORITY_NOT_VALID, "the authority is not valid now", hint="renew the authority")
    return max(now - backdate, begin), min(now + _checked(lifetime), end)


def _checked(lifetime: float) -> float:
    # A certificate's times are whole seconds.
    if not 1 <= lifetime <= MAX_LIFETIME:
        raise IssueError(IssueCode.LIFETIME, f"a lifetime of {lifetime} s")
    return lifetime


def _valid(builder: x509.CertificateBuilder, begin: float, end: float) -> x509.CertificateBuilder:
    return builder.not_valid_before(_date(begin)).not_valid_after(_date(end))


def _date(seconds: float) -> datetime:
    return datetime.fromtimestamp(int(seconds), tz=UTC)


def _sign(builder: x509.CertificateBuilder, key: AuthorityKey) -> x509.Certificate:
    """Signs, with the hash that fits the key: 384 bits for P-384, 256 for the others."""
    p384 = isinstance(key, ec.EllipticCurvePrivateKey) and isinstance(key.curve, ec.SECP384R1)
    identifier = x509.AuthorityKeyIdentifier.from_issuer_public_key(key.public_key())
    return builder.add_extension(identifier, critical=False).sign(key, hashes.SHA384() if p384 else hashes.SHA256())

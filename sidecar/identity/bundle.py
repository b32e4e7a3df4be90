"""Trust bundles: the authorities of one trust domain, from a PEM file."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import TYPE_CHECKING, Final, TypeAlias

from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509.verification import Store

from sidecar.errors import ConfigurationError
from sidecar.identity import pem as pem_format
from sidecar.identity.facts import Facts
from sidecar.identity.profile import check_signing
from sidecar.identity.refusal import Refusal, VerificationError
from sidecar.identity.spiffe import TrustDomain

if TYPE_CHECKING:
    from cryptography import x509

MAX_BUNDLE_BYTES: Final = 256 * 1024
MAX_AUTHORITIES: Final = 64


class BundleCode(StrEnum):
    """What is wrong with a trust bundle."""

    EMPTY = "bundle_empty"
    TOO_LARGE = "bundle_too_large"
    NOT_PEM = "bundle_not_pem"
    DAMAGED_PEM = "bundle_damaged_pem"
    NO_CERTIFICATE = "bundle_no_certificate"
    PRIVATE_KEY = "bundle_private_key"
    UNEXPECTED_BLOCK = "bundle_unexpected_block"
    TOO_MANY_AUTHORITIES = "bundle_too_many_authorities"
    MALFORMED_CERTIFICATE = "bundle_malformed_certificate"
    NOT_AUTHORITY = "bundle_not_authority"
    NO_CERT_SIGN = "bundle_no_cert_sign"
    NAME_CONSTRAINTS = "bundle_name_constraints"
    CRITICAL_EXTENSION = "bundle_critical_extension"
    KEY_UNSUPPORTED = "bundle_key_unsupported"
    KEY_WEAK = "bundle_key_weak"
    KEY_OVERSIZED = "bundle_key_oversized"
    SPIFFE_ID_INVALID = "bundle_spiffe_id_invalid"
    FOREIGN_AUTHORITY = "bundle_foreign_authority"
    ALL_EXPIRED = "bundle_all_expired"
    NONE_VALID_YET = "bundle_none_valid_yet"


_CODES: Final = {
    Refusal.CERTIFICATE_MALFORMED: BundleCode.MALFORMED_CERTIFICATE,
    Refusal.INTERMEDIATE_NOT_AUTHORITY: BundleCode.NOT_AUTHORITY,
    Refusal.INTERMEDIATE_NO_CERT_SIGN: BundleCode.NO_CERT_SIGN,
    Refusal.NAME_CONSTRAINTS: BundleCode.NAME_CONSTRAINTS,
    Refusal.CRITICAL_EXTENSION: BundleCode.CRITICAL_EXTENSION,
    Refusal.KEY_UNSUPPORTED: BundleCode.KEY_UNSUPPORTED,
    Refusal.KEY_WEAK: BundleCode.KEY_WEAK,
    Refusal.KEY_OVERSIZED: BundleCode.KEY_OVERSIZED,
    Refusal.INTERMEDIATE_SPIFFE_ID_INVALID: BundleCode.SPIFFE_ID_INVALID,
    Refusal.INTERMEDIATE_FOREIGN: BundleCode.FOREIGN_AUTHORITY,
}
"""What the rules for signing certificates refuse, in the words of a bundle."""

_EXPORT: Final = "export the bundle again from where it comes"
_TAKE_OUT: Final = "take that authority out, or have its certificate issued anew"
_HINTS: Final = {
    BundleCode.EMPTY: "put the certificate of the trust domain's authority there, in PEM",
    BundleCode.TOO_LARGE: "leave the authorities that issue for this trust domain, and no others",
    BundleCode.NOT_PEM: pem_format.NOT_PEM_HINT,
    BundleCode.DAMAGED_PEM: _EXPORT,
    BundleCode.NO_CERTIFICATE: "put the certificate of the trust domain's authority there, in PEM",
    BundleCode.PRIVATE_KEY: "a bundle is public: take the key out, and replace it if others could read the file",
    BundleCode.UNEXPECTED_BLOCK: "a bundle holds CERTIFICATE blocks and nothing else",
    BundleCode.TOO_MANY_AUTHORITIES: "leave the authorities that issue for this trust domain, and no others",
    BundleCode.MALFORMED_CERTIFICATE: _EXPORT,
    BundleCode.NOT_AUTHORITY: "a bundle holds the certificates of authorities, not of workloads",
    BundleCode.NO_CERT_SIGN: "an authority's keyUsage has keyCertSign (X509-SVID 4.3)",
    BundleCode.NAME_CONSTRAINTS: _TAKE_OUT,
    BundleCode.CRITICAL_EXTENSION: _TAKE_OUT,
    BundleCode.KEY_UNSUPPORTED: "authorities have P-256, P-384 or RSA keys",
    BundleCode.KEY_WEAK: "RSA keys have 2048 bits and more",
    BundleCode.KEY_OVERSIZED: "RSA keys have 8192 bits at most",
    BundleCode.SPIFFE_ID_INVALID: "an authority's SPIFFE ID is that of its trust domain, without a path (X509-SVID 3.2)",
    BundleCode.FOREIGN_AUTHORITY: "each trust domain has a bundle of its own",
    BundleCode.ALL_EXPIRED: "fetch the trust domain's current bundle",
    BundleCode.NONE_VALID_YET: "look at the clock of this machine",
}
"""What to do about each."""


class BundleError(ConfigurationError):
    """A trust bundle cannot be used; ``code`` is a :class:`BundleCode`, and ``hint`` says what to do about it."""

    def __init__(self, code: BundleCode, message: str) -> None:
        super().__init__(code, message, hint=_HINTS[code])


@dataclass(frozen=True, slots=True)
class TrustBundle:
    """The authorities of a trust domain: one and more, each allowed to sign, none of another domain.

    An authority need not be self-signed: a path may end at an intermediate that is listed here. Raises
    :class:`BundleError` when made from other certificates; only :meth:`from_pem` looks at their validity in time.
    """

    trust_domain: TrustDomain
    authorities: tuple[x509.Certificate, ...]
    store: Store = field(init=False, repr=False, compare=False)
    """The authorities in the form that path building takes; made once."""

    def __post_init__(self) -> None:
        if not self.authorities:
            raise BundleError(BundleCode.NO_CERTIFICATE, f"no certificate in the bundle of {self.trust_domain}")
        for number, certificate in enumerate(self.authorities, 1):
            _check_authority(number, certificate, self.trust_domain)
        object.__setattr__(self, "store", Store(list(self.authorities)))

    @classmethod
    def from_pem(cls, trust_domain: TrustDomain, pem: bytes, now: float) -> TrustBundle:
        """The bundle in a PEM file, without what stands there twice.

        Authorities that are not valid now stay, so that a bundle can be written ahead of a rotation and cleaned up
        after it, but one must be valid at ``now`` (seconds since the epoch). Raises :class:`BundleError`.
        """
        certificates = [_load(block) for block in _certificate_blocks(pem, trust_domain)]
        bundle = cls(trust_domain, tuple(dict.fromkeys(certificates)))
        _check_time(bundle, now)
        return bundle

    @property
    def fingerprint(self) -> bytes:
        """32 bytes that are equal for bundles of the same domain and authorities, in whatever order."""
        digests = sorted(hashlib.sha256(der).digest() for der in self.der())
        return hashlib.sha256(b"".join((self.trust_domain.name.encode("ascii"), b"\0", *digests))).digest()

    def der(self) -> list[bytes]:
        """The authorities in DER, in the bundle's order."""
        return [certificate.public_bytes(Encoding.DER) for certificate in self.authorities]


Bundles: TypeAlias = Mapping[TrustDomain, TrustBundle]
"""Whom we believe about what: an authority speaks for its own trust domain alone."""


def _certificate_blocks(pem: bytes, trust_domain: TrustDomain) -> list[pem_format.Block]:
    """The blocks of a file that holds certificates and nothing else."""
    if len(pem) > MAX_BUNDLE_BYTES:
        raise BundleError(BundleCode.TOO_LARGE, f"the bundle is larger than {MAX_BUNDLE_BYTES} bytes")
    if not pem.strip():
        raise BundleError(BundleCode.EMPTY, f"the bundle of {trust_domain} is empty")
    try:
        blocks = pem_format.blocks(pem)
    except pem_format.PemError as error:
        raise BundleError(BundleCode.DAMAGED_PEM, f"the bundle is damaged: {error}") from error
    if not blocks:
        raise BundleError(BundleCode.NOT_PEM, "the bundle is not PEM: it has no -----BEGIN CERTIFICATE----- line")
    for block in blocks:
        if block.is_private_key:
            raise BundleError(BundleCode.PRIVATE_KEY, f"there is a private key at line {block.line}")
        if not block.is_certificate:
            raise BundleError(
                BundleCode.UNEXPECTED_BLOCK, f"line {block.line} begins a {block.label}, not a CERTIFICATE"
            )
    if len(blocks) > MAX_AUTHORITIES:
        raise BundleError(
            BundleCode.TOO_MANY_AUTHORITIES, f"the bundle has {len(blocks)} certificates, more than {MAX_AUTHORITIES}"
        )
    return blocks


def _load(block: pem_format.Block) -> x509.Certificate:
    try:
        return Facts.of_der(block.der()).certificate
    except pem_format.PemError as error:
        raise BundleError(BundleCode.DAMAGED_PEM, f"the bundle is damaged: {error}") from error
    except VerificationError as error:
        raise BundleError(_CODES[error.code], f"the certificate at line {block.line}: {error}") from error


def _check_authority(number: int, certificate: x509.Certificate, trust_domain: TrustDomain) -> None:
    """Refuses what cannot sign for that trust domain, in the words of a bundle."""
    try:
        check_signing(Facts.of_certificate(certificate), trust_domain)
    except VerificationError as error:
        code = _CODES[error.code]
        raise BundleError(code, f"certificate {number} in the bundle of {trust_domain}: {error}") from error


def _check_time(bundle: TrustBundle, now: float) -> None:
    """One authority is valid now, or nobody of the domain can be believed."""
    spans = [(c.not_valid_before_utc.timestamp(), c.not_valid_after_utc.timestamp()) for c in bundle.authorities]
    if any(not_before <= now <= not_after for not_before, not_after in spans):
        return
    if any(now < not_before for not_before, _ in spans):
        raise BundleError(
            BundleCode.NONE_VALID_YET, f"no authority in the bundle of {bundle.trust_domain} is valid yet"
        )
    raise BundleError(BundleCode.ALL_EXPIRED, f"every authority in the bundle of {bundle.trust_domain} has expired")


def changed(before: Bundles, after: Bundles) -> frozenset[TrustDomain]:
    """Returns the trust domains whose bundle is another one afterwards, or gone; new domains are none of them."""
    return frozenset(
        domain
        for domain, bundle in before.items()
        if domain not in after or after[domain].fingerprint != bundle.fingerprint
    )

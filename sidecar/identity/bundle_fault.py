"""What can be wrong with a trust bundle, whatever its format, and what to do about it."""

from __future__ import annotations

from enum import StrEnum
from typing import TYPE_CHECKING, Final, NamedTuple

from sidecar.errors import ConfigurationError
from sidecar.identity import pem as pem_format
from sidecar.identity.facts import Facts
from sidecar.identity.profile import check_signing
from sidecar.identity.refusal import Refusal, VerificationError

if TYPE_CHECKING:
    from cryptography import x509

    from sidecar.identity.spiffe import TrustDomain

MAX_AUTHORITIES: Final = 64


class BundleCode(StrEnum):
    """What is wrong with a trust bundle."""

    EMPTY = "bundle_empty"
    TOO_LARGE = "bundle_too_large"
    NOT_PEM = "bundle_not_pem"
    DAMAGED_PEM = "bundle_damaged_pem"
    DAMAGED_JSON = "bundle_damaged_json"
    NOT_KEY_SET = "bundle_not_key_set"
    MALFORMED_KEY = "bundle_malformed_key"
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

_PUT: Final = "put the certificate of the trust domain's authority there, in PEM or as SPIFFE bundle JSON"
_EXPORT: Final = "export the bundle again from where it comes"
_TAKE_OUT: Final = "take that authority out, or have its certificate issued anew"
_HINTS: Final = {
    BundleCode.EMPTY: _PUT,
    BundleCode.TOO_LARGE: "leave the authorities that issue for this trust domain, and no others",
    BundleCode.NOT_PEM: pem_format.NOT_PEM_HINT,
    BundleCode.DAMAGED_PEM: _EXPORT,
    BundleCode.DAMAGED_JSON: _EXPORT,
    BundleCode.NOT_KEY_SET: 'a SPIFFE bundle is {"keys": [...]}; of a bundle map, give each trust domain its own part',
    BundleCode.MALFORMED_KEY: "each x509-svid key has its certificate, and no other, in x5c (X509-SVID 6.1)",
    BundleCode.NO_CERTIFICATE: _PUT,
    BundleCode.PRIVATE_KEY: "a bundle is public: take the key out, and replace it if others could read the file",
    BundleCode.UNEXPECTED_BLOCK: "a bundle in PEM holds CERTIFICATE blocks and nothing else",
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


class Listed(NamedTuple):
    """A certificate with its place in the file, as messages call it."""

    place: str
    certificate: x509.Certificate


def load(place: str, der: bytes) -> Listed:
    """The certificate at some place of a bundle; raises :class:`BundleError` for what is none."""
    try:
        return Listed(place, Facts.of_der(der).certificate)
    except VerificationError as error:
        raise BundleError(_CODES[error.code], f"{place}: {error}") from error


def check_authority(listed: Listed, trust_domain: TrustDomain) -> None:
    """Refuses what cannot sign for that trust domain, in the words of a bundle; raises :class:`BundleError`."""
    try:
        check_signing(Facts.of_certificate(listed.certificate), trust_domain)
    except VerificationError as error:
        raise BundleError(_CODES[error.code], f"{listed.place} in the bundle of {trust_domain}: {error}") from error


def check_count(count: int) -> None:
    """Refuses a bundle of more authorities than any trust domain has; raises :class:`BundleError`."""
    if count > MAX_AUTHORITIES:
        raise BundleError(
            BundleCode.TOO_MANY_AUTHORITIES, f"the bundle has {count} certificates, more than {MAX_AUTHORITIES}"
        )

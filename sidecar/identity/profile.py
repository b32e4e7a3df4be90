"""The rules that one certificate must keep by itself: as a leaf, or as a signing certificate.

They stand here once, for the chain of a peer, for our own certificate and for the authorities of a trust bundle. The
library's own extension policies are not used for any of them: tried, one that permits everything accepts a leaf with
CA:TRUE and a client with serverAuth only, and its defaults are those of the web (a DNS name, an authorityKeyIdentifier).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.x509.oid import ExtendedKeyUsageOID, SignatureAlgorithmOID

from sidecar.identity.peer import Role
from sidecar.identity.refusal import Refusal, VerificationError
from sidecar.identity.spiffe import SpiffeId, SpiffeIdError, shown

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.types import CertificatePublicKeyTypes

    from sidecar.identity.facts import Facts
    from sidecar.identity.spiffe import TrustDomain

MIN_RSA_BITS: Final = 2048
MAX_RSA_BITS: Final = 8192
"""A signature by an RSA key of 16384 bits costs two milliseconds to check, and a peer chooses its keys itself."""

MAX_RSA_EXPONENT_BITS: Final = 32
"""Everybody uses 65537. The cost of a check grows with the exponent."""

MAX_SERIAL_BITS: Final = 160
"""20 octets (RFC 5280 4.1.2.2)."""

_CURVES: Final = frozenset({"secp256r1", "secp384r1"})

_SIGNATURES: Final = frozenset(
    {
        SignatureAlgorithmOID.ECDSA_WITH_SHA256,
        SignatureAlgorithmOID.ECDSA_WITH_SHA384,
        SignatureAlgorithmOID.ECDSA_WITH_SHA512,
        SignatureAlgorithmOID.RSA_WITH_SHA256,
        SignatureAlgorithmOID.RSA_WITH_SHA384,
        SignatureAlgorithmOID.RSA_WITH_SHA512,
        SignatureAlgorithmOID.RSASSA_PSS,
    }
)

_PURPOSES: Final = {
    Role.CLIENT: ExtendedKeyUsageOID.CLIENT_AUTH,
    Role.SERVER: ExtendedKeyUsageOID.SERVER_AUTH,
}


def check_presented(facts: Facts) -> None:
    """The rules for every certificate of a chain that somebody presents, beyond those of its place in the chain."""
    if facts.certificate.version is not x509.Version.v3:
        raise VerificationError(Refusal.CERTIFICATE_NOT_V3, "a certificate is not of X.509 version 3")
    serial = facts.certificate.serial_number
    if serial <= 0 or serial.bit_length() > MAX_SERIAL_BITS:
        raise VerificationError(
            Refusal.SERIAL_INVALID, "a serial number is not positive, or longer than 20 octets (RFC 5280 4.1.2.2)"
        )
    if facts.certificate.signature_algorithm_oid not in _SIGNATURES:
        raise VerificationError(
            Refusal.SIGNATURE_UNSUPPORTED,
            f"a certificate is signed with {facts.certificate.signature_algorithm_oid.dotted_string}",
            hint="sign with ECDSA or RSA, over SHA-256 or longer",
        )


def check_extensions(facts: Facts) -> None:
    """Refuses name constraints, and critical extensions that no rule decides on (RFC 5280 4.2)."""
    if facts.constrains_names:
        # Of the constraints on names only those on URIs would mean something to a SPIFFE ID (X509-SVID 4.2), and the
        # library cannot evaluate those. To skip what an authority wrote to limit itself is not an option.
        raise VerificationError(Refusal.NAME_CONSTRAINTS, "a certificate has name constraints, which are not evaluated")
    if facts.unprocessed is not None:
        raise VerificationError(
            Refusal.CRITICAL_EXTENSION,
            f"a certificate has a critical extension that is not known: {facts.unprocessed.dotted_string}",
        )


def check_key(key: CertificatePublicKeyTypes) -> None:
    """Accepts P-256, P-384 and RSA of 2048 to 8192 bits. Costs no arithmetic, so it comes ahead of any signature."""
    if isinstance(key, ec.EllipticCurvePublicKey):
        if key.curve.name not in _CURVES:
            raise VerificationError(Refusal.KEY_UNSUPPORTED, f"a key is on the curve {key.curve.name}")
        return
    if not isinstance(key, rsa.RSAPublicKey):
        raise VerificationError(Refusal.KEY_UNSUPPORTED, f"a key is neither EC nor RSA: {type(key).__name__}")
    if key.key_size < MIN_RSA_BITS:
        raise VerificationError(Refusal.KEY_WEAK, f"an RSA key has {key.key_size} bits only")
    exponent = key.public_numbers().e
    if key.key_size > MAX_RSA_BITS or exponent.bit_length() > MAX_RSA_EXPONENT_BITS:
        raise VerificationError(
            Refusal.KEY_OVERSIZED,
            f"an RSA key has {key.key_size} bits, an exponent of {exponent.bit_length()} bits",
        )


def leaf_id(facts: Facts) -> SpiffeId:
    """The SPIFFE ID of a leaf: its one URI name, with a path (X509-SVID 2, 3.1, 5.2). No other name decides anything."""
    if not facts.uris:
        raise VerificationError(Refusal.NO_SPIFFE_ID, "the certificate has no URI in its subjectAltName")
    if len(facts.uris) > 1:
        raise VerificationError(
            Refusal.SEVERAL_URI_NAMES, f"the certificate has {len(facts.uris)} URIs in its subjectAltName, not one"
        )
    try:
        spiffe_id = SpiffeId.parse(facts.uris[0])
    except SpiffeIdError as error:
        raise VerificationError(Refusal.SPIFFE_ID_INVALID, f"the certificate's URI is no SPIFFE ID: {error}") from error
    if not spiffe_id.path:
        raise VerificationError(
            Refusal.SPIFFE_ID_WITHOUT_PATH, f"{spiffe_id} is the SPIFFE ID of a trust domain, which no workload is"
        )
    return spiffe_id


def check_leaf(facts: Facts) -> None:
    """The rules for a certificate that identifies somebody (X509-SVID 4.1, 4.3, 5.2)."""
    check_presented(facts)
    if facts.is_authority:
        raise VerificationError(
            Refusal.LEAF_IS_AUTHORITY, "the first certificate is a signing certificate (CA:TRUE), not a leaf"
        )
    usage = facts.key_usage
    if usage is None:
        raise VerificationError(Refusal.KEY_USAGE_MISSING, "the leaf has no keyUsage")
    if usage.key_cert_sign:
        raise VerificationError(Refusal.LEAF_SIGNS_CERTIFICATES, "the leaf's keyUsage has keyCertSign")
    if usage.crl_sign:
        raise VerificationError(Refusal.LEAF_SIGNS_CRLS, "the leaf's keyUsage has cRLSign")
    if not usage.digital_signature:
        raise VerificationError(Refusal.LEAF_NO_DIGITAL_SIGNATURE, "the leaf's keyUsage lacks digitalSignature")
    if not facts.key_usage_critical:
        raise VerificationError(Refusal.KEY_USAGE_NOT_CRITICAL, "the leaf's keyUsage is not critical")
    check_extensions(facts)
    check_key(facts.public_key)


def check_purpose(facts: Facts, role: Role) -> None:
    """The leaf's extendedKeyUsage, when there is one, has the purpose of the role (RFC 5280 4.2.1.12, X509-SVID 4.4).

    anyExtendedKeyUsage is not enough: RFC 5280 lets an application demand a particular purpose.
    """
    if facts.purposes is not None and _PURPOSES[role] not in facts.purposes:
        raise VerificationError(Refusal.WRONG_PURPOSE, f"the leaf's extendedKeyUsage does not allow a {role} to use it")


def check_signing(facts: Facts, trust_domain: TrustDomain) -> None:
    """The rules for a certificate that signs others: an intermediate, or an authority of a bundle (X509-SVID 3.2, 4)."""
    if not facts.is_authority:
        raise VerificationError(Refusal.INTERMEDIATE_NOT_AUTHORITY, "a signing certificate does not have CA:TRUE")
    if facts.key_usage is None or not facts.key_usage.key_cert_sign:
        raise VerificationError(
            Refusal.INTERMEDIATE_NO_CERT_SIGN, "the keyUsage of a signing certificate lacks keyCertSign"
        )
    check_extensions(facts)
    check_key(facts.public_key)
    for uri in facts.uris:
        _check_signing_uri(uri, trust_domain)


def check_signing_purpose(facts: Facts, role: Role) -> None:
    """An intermediate's extendedKeyUsage limits what it may issue: X509-SVID 4.4 leaves that open, OpenSSL enforces it."""
    if facts.purposes is not None and _PURPOSES[role] not in facts.purposes:
        raise VerificationError(
            Refusal.INTERMEDIATE_WRONG_PURPOSE, f"an intermediate's extendedKeyUsage does not allow it to name a {role}"
        )


def _check_signing_uri(uri: str, trust_domain: TrustDomain) -> None:
    """A signing certificate's SPIFFE ID has no path and is of the domain it signs for.

    X509-SVID 3.2 demands the first and recommends the second. Another kind of URI makes it no SVID, which a signing
    certificate need not be.
    """
    if not uri.lower().startswith("spiffe:"):
        return
    try:
        spiffe_id = SpiffeId.parse(uri)
    except SpiffeIdError as error:
        raise VerificationError(
            Refusal.INTERMEDIATE_SPIFFE_ID_INVALID, f"the URI of a signing certificate is no SPIFFE ID: {error}"
        ) from error
    if spiffe_id.path:
        raise VerificationError(
            Refusal.INTERMEDIATE_SPIFFE_ID_INVALID,
            f"the SPIFFE ID of a signing certificate has a path: {shown(uri)}",
        )
    if spiffe_id.trust_domain != trust_domain:
        raise VerificationError(
            Refusal.INTERMEDIATE_FOREIGN,
            f"a signing certificate of trust domain {spiffe_id.trust_domain} does not speak for {trust_domain}",
        )

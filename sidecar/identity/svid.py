"""Our own certificate: an X.509-SVID and the chain that is presented with it."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING, Final

from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from sidecar.errors import ConfigurationError
from sidecar.identity import pem as pem_format
from sidecar.identity.facts import Facts, issued_by
from sidecar.identity.pins import Pin
from sidecar.identity.profile import check_leaf, check_presented, check_purpose, check_signing, leaf_id
from sidecar.identity.refusal import Refusal, VerificationError
from sidecar.identity.verify import check_chain_size, check_time

if TYPE_CHECKING:
    from cryptography import x509
    from cryptography.hazmat.primitives.asymmetric.types import PublicKeyTypes

    from sidecar.identity.peer import Role
    from sidecar.identity.spiffe import SpiffeId

MAX_PEM_BYTES: Final = 256 * 1024


class CertificateCode(StrEnum):
    """What is wrong with our own certificate file."""

    EMPTY = "identity_empty"
    TOO_LARGE = "identity_too_large"
    NOT_PEM = "identity_not_pem"
    DAMAGED_PEM = "identity_damaged_pem"
    UNEXPECTED_BLOCK = "identity_unexpected_block"
    NO_CERTIFICATE = "identity_no_certificate"
    MALFORMED_CERTIFICATE = "identity_malformed_certificate"
    NO_LEAF = "identity_no_leaf"
    SEVERAL_LEAVES = "identity_several_leaves"
    UNRELATED_CERTIFICATE = "identity_unrelated_certificate"
    CHAIN_TOO_LARGE = "identity_chain_too_large"
    NO_SPIFFE_ID = "identity_no_spiffe_id"
    SEVERAL_URI_NAMES = "identity_several_uri_names"
    SPIFFE_ID_INVALID = "identity_spiffe_id_invalid"
    SPIFFE_ID_WITHOUT_PATH = "identity_spiffe_id_without_path"
    KEY_USAGE = "identity_key_usage"
    WRONG_PURPOSE = "identity_wrong_purpose"
    KEY_UNSUPPORTED = "identity_key_unsupported"
    NOT_ACCEPTABLE = "identity_not_acceptable"
    INTERMEDIATE_INVALID = "identity_intermediate_invalid"
    EXPIRED = "identity_expired"
    NOT_YET_VALID = "identity_not_yet_valid"
    INTERMEDIATE_EXPIRED = "identity_intermediate_expired"
    INTERMEDIATE_NOT_YET_VALID = "identity_intermediate_not_yet_valid"
    KEY_MISMATCH = "identity_key_mismatch"


_CODES: Final = {
    Refusal.CERTIFICATE_MALFORMED: CertificateCode.MALFORMED_CERTIFICATE,
    Refusal.KEY_UNSUPPORTED: CertificateCode.KEY_UNSUPPORTED,
    Refusal.CHAIN_TOO_LONG: CertificateCode.CHAIN_TOO_LARGE,
    Refusal.CHAIN_TOO_LARGE: CertificateCode.CHAIN_TOO_LARGE,
    Refusal.LEAF_TOO_LARGE: CertificateCode.CHAIN_TOO_LARGE,
    Refusal.NO_SPIFFE_ID: CertificateCode.NO_SPIFFE_ID,
    Refusal.SEVERAL_URI_NAMES: CertificateCode.SEVERAL_URI_NAMES,
    Refusal.SPIFFE_ID_INVALID: CertificateCode.SPIFFE_ID_INVALID,
    Refusal.SPIFFE_ID_WITHOUT_PATH: CertificateCode.SPIFFE_ID_WITHOUT_PATH,
    Refusal.KEY_USAGE_MISSING: CertificateCode.KEY_USAGE,
    Refusal.KEY_USAGE_NOT_CRITICAL: CertificateCode.KEY_USAGE,
    Refusal.LEAF_SIGNS_CERTIFICATES: CertificateCode.KEY_USAGE,
    Refusal.LEAF_SIGNS_CRLS: CertificateCode.KEY_USAGE,
    Refusal.LEAF_NO_DIGITAL_SIGNATURE: CertificateCode.KEY_USAGE,
    Refusal.WRONG_PURPOSE: CertificateCode.WRONG_PURPOSE,
    Refusal.EXPIRED: CertificateCode.EXPIRED,
    Refusal.NOT_YET_VALID: CertificateCode.NOT_YET_VALID,
    Refusal.INTERMEDIATE_EXPIRED: CertificateCode.INTERMEDIATE_EXPIRED,
    Refusal.INTERMEDIATE_NOT_YET_VALID: CertificateCode.INTERMEDIATE_NOT_YET_VALID,
}
"""What peers would refuse of our chain, in the words of a configuration file; the rest is NOT_ACCEPTABLE."""

_REISSUE: Final = "have the certificate issued as an X.509-SVID leaf (X509-SVID, section 4)"
_EXPORT: Final = "write the file again from where it comes"
_CLOCK: Final = "look at the clock of this machine"
_HINTS: Final = {
    CertificateCode.EMPTY: "put the certificate there, in PEM, followed by its intermediates",
    CertificateCode.TOO_LARGE: "leave the certificate and its intermediates, and nothing else",
    CertificateCode.NOT_PEM: pem_format.NOT_PEM_HINT,
    CertificateCode.DAMAGED_PEM: _EXPORT,
    CertificateCode.UNEXPECTED_BLOCK: "leave CERTIFICATE blocks, and the PRIVATE KEY if it stands in the same file",
    CertificateCode.NO_CERTIFICATE: "put the certificate of that key there too",
    CertificateCode.MALFORMED_CERTIFICATE: _EXPORT,
    CertificateCode.NO_LEAF: _REISSUE,
    CertificateCode.SEVERAL_LEAVES: "one file holds one identity and the intermediates above it",
    CertificateCode.UNRELATED_CERTIFICATE: "leave out what is not in the chain; authorities stand in identity.trust",
    CertificateCode.CHAIN_TOO_LARGE: "leave out what peers do not need",
    CertificateCode.NO_SPIFFE_ID: _REISSUE,
    CertificateCode.SEVERAL_URI_NAMES: _REISSUE,
    CertificateCode.SPIFFE_ID_INVALID: _REISSUE,
    CertificateCode.SPIFFE_ID_WITHOUT_PATH: _REISSUE,
    CertificateCode.KEY_USAGE: _REISSUE,
    CertificateCode.WRONG_PURPOSE: "have it issued with serverAuth and clientAuth (X509-SVID 4.4)",
    CertificateCode.KEY_UNSUPPORTED: "make a P-256 or P-384 key and have a certificate issued for it",
    CertificateCode.NOT_ACCEPTABLE: _REISSUE,
    CertificateCode.INTERMEDIATE_INVALID: "have the intermediate issued as a signing certificate (X509-SVID 3.2)",
    CertificateCode.EXPIRED: "renew the certificate",
    CertificateCode.NOT_YET_VALID: _CLOCK,
    CertificateCode.INTERMEDIATE_EXPIRED: "put the intermediate's renewal there, or have the certificate issued anew",
    CertificateCode.INTERMEDIATE_NOT_YET_VALID: _CLOCK,
    CertificateCode.KEY_MISMATCH: "name the key that the certificate was issued for, or have one issued for this key",
}
"""What to do about each."""


class CertificateError(ConfigurationError):
    """Our own certificate cannot be used; ``code`` is a :class:`CertificateCode`, ``hint`` says what to do about it."""

    def __init__(self, code: CertificateCode, message: str) -> None:
        super().__init__(code, message, hint=_HINTS[code])


@dataclass(frozen=True, slots=True)
class Svid:
    """Our certificate with its chain, leaf first. Made by :meth:`from_pem` alone, which checks what peers will check.

    ``serial`` is lower-case hex. ``not_before`` (the latest) and ``not_after`` (the earliest of the chain) are seconds
    since the epoch.
    """

    id: SpiffeId
    chain: tuple[x509.Certificate, ...]
    pin: Pin
    serial: str
    not_before: float
    not_after: float

    @classmethod
    def from_pem(cls, pem: bytes, now: float) -> Svid:
        """Our certificate in a PEM file: a chain, or a bundle with the key too, the blocks in any order.

        The leaf is the one certificate that may not sign, and the others are put in the order of their signatures. A
        private key is passed over unread. Raises :class:`CertificateError`.
        """
        chain = _ordered([_load(block) for block in _certificate_blocks(pem)])
        certificates = tuple(facts.certificate for facts in chain)
        try:
            check_chain_size(_der(certificates))
            spiffe_id = leaf_id(chain[0])
            _check_own_key(chain[0])
            check_leaf(chain[0])
            check_time(chain[0], now, (Refusal.EXPIRED, Refusal.NOT_YET_VALID))
            for facts in chain[1:]:
                _check_intermediate(facts, spiffe_id)
                check_time(facts, now, (Refusal.INTERMEDIATE_EXPIRED, Refusal.INTERMEDIATE_NOT_YET_VALID))
        except VerificationError as error:
            raise _own(error) from error
        return cls(
            id=spiffe_id,
            chain=certificates,
            pin=Pin.of_certificate(certificates[0]),
            serial=f"{certificates[0].serial_number:x}",
            not_before=max(facts.not_before for facts in chain),
            not_after=min(facts.not_after for facts in chain),
        )

    @property
    def chain_pem(self) -> bytes:
        """The chain in PEM, leaf first, certificates only: what is handed to TLS."""
        return b"".join(certificate.public_bytes(Encoding.PEM) for certificate in self.chain)

    @property
    def chain_der(self) -> list[bytes]:
        """The chain in DER, leaf first: what a peer's :func:`~sidecar.identity.verify.verify` gets to see."""
        return _der(self.chain)

    def is_for(self, public_key: PublicKeyTypes) -> bool:
        """Says whether the certificate is for the key with that public half."""
        return _spki(public_key) == _spki(self.chain[0].public_key())

    def check_key(self, public_key: PublicKeyTypes) -> None:
        """Accepts the public half of the key that the certificate is for; raises :class:`CertificateError`."""
        if not self.is_for(public_key):
            raise CertificateError(
                CertificateCode.KEY_MISMATCH, f"the key is not the one in the certificate of {self.id}"
            )

    def check_role(self, role: Role) -> None:
        """Accepts a role that the certificate's extendedKeyUsage allows; raises :class:`CertificateError`.

        The inbound side presents it as a server, the outbound side as a client.
        """
        try:
            check_purpose(Facts.of_certificate(self.chain[0]), role)
        except VerificationError as error:
            raise _own(error) from error


def _certificate_blocks(pem: bytes) -> list[pem_format.Block]:
    """The certificates of a file that holds them, maybe with their key."""
    if len(pem) > MAX_PEM_BYTES:
        raise CertificateError(CertificateCode.TOO_LARGE, f"the certificate file is larger than {MAX_PEM_BYTES} bytes")
    if not pem.strip():
        raise CertificateError(CertificateCode.EMPTY, "the certificate file is empty")
    try:
        blocks = pem_format.blocks(pem)
    except pem_format.PemError as error:
        raise CertificateError(CertificateCode.DAMAGED_PEM, f"the certificate file is damaged: {error}") from error
    if not blocks:
        raise CertificateError(
            CertificateCode.NOT_PEM, "the certificate file is not PEM: it has no -----BEGIN CERTIFICATE----- line"
        )
    for block in blocks:
        # `openssl ecparam -genkey` writes the curve's parameters ahead of the key.
        if not (block.is_certificate or block.is_private_key or block.label == "EC PARAMETERS"):
            raise CertificateError(
                CertificateCode.UNEXPECTED_BLOCK, f"line {block.line} begins a {block.label}, not a CERTIFICATE"
            )
    certificates = [block for block in blocks if block.is_certificate]
    if not certificates:
        raise CertificateError(CertificateCode.NO_CERTIFICATE, "the certificate file has a key but no certificate")
    return certificates


def _load(block: pem_format.Block) -> Facts:
    try:
        return Facts.of_der(block.der())
    except pem_format.PemError as error:
        raise CertificateError(CertificateCode.DAMAGED_PEM, f"the certificate file is damaged: {error}") from error
    except VerificationError as error:
        raise _own(error, f"the certificate at line {block.line}: ") from error


def _ordered(found: list[Facts]) -> list[Facts]:
    """Leaf first, each certificate followed by the one that signed it."""
    distinct = list({facts.certificate: facts for facts in found}.values())
    leaves = [facts for facts in distinct if not facts.is_authority]
    if not leaves:
        raise CertificateError(CertificateCode.NO_LEAF, "the file has signing certificates (CA:TRUE) only, no leaf")
    if len(leaves) > 1:
        raise CertificateError(CertificateCode.SEVERAL_LEAVES, f"the file has {len(leaves)} leaf certificates")
    chain = leaves
    rest = [facts for facts in distinct if facts.is_authority]
    while rest:
        issuer = next((facts for facts in rest if issued_by(chain[-1], facts)), None)
        if issuer is None:
            raise CertificateError(
                CertificateCode.UNRELATED_CERTIFICATE, f"{len(rest)} certificates of the file are not above the leaf"
            )
        chain.append(issuer)
        rest = [facts for facts in rest if facts is not issuer]
    return chain


def _check_own_key(leaf: Facts) -> None:
    """Our own keys are P-256 or P-384: what hardware keys can be, and what a handshake is cheap with."""
    if not isinstance(leaf.public_key, ec.EllipticCurvePublicKey):
        raise VerificationError(Refusal.KEY_UNSUPPORTED, "the key is not an EC key; ours are P-256 or P-384")


def _check_intermediate(facts: Facts, spiffe_id: SpiffeId) -> None:
    try:
        check_presented(facts)
        check_signing(facts, spiffe_id.trust_domain)
    except VerificationError as error:
        raise CertificateError(
            CertificateCode.INTERMEDIATE_INVALID, f"peers would refuse an intermediate of the chain: {error}"
        ) from error


def _own(error: VerificationError, where: str = "our certificate: ") -> CertificateError:
    return CertificateError(_CODES.get(error.code, CertificateCode.NOT_ACCEPTABLE), f"{where}{error}")


def _der(chain: tuple[x509.Certificate, ...]) -> list[bytes]:
    return [certificate.public_bytes(Encoding.DER) for certificate in chain]


def _spki(key: PublicKeyTypes) -> bytes:
    return key.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)

"""One presented certificate in words: read with care, since whoever presents it chose every byte."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import TYPE_CHECKING

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec, rsa

from sidecar.identity.facts import Facts
from sidecar.identity.pins import Pin
from sidecar.identity.refusal import VerificationError

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.types import CertificatePublicKeyTypes


@dataclass(frozen=True, slots=True)
class Described:
    """What a certificate says. ``unreadable`` says why there is nothing more than its size and digest.

    ``uris`` are the URI names, of which a SPIFFE certificate has one. Times are seconds since the epoch, ``sha256`` the
    digest of the DER in hex.
    """

    size: int
    sha256: str
    unreadable: str = ""
    subject: str = ""
    issuer: str = ""
    uris: tuple[str, ...] = ()
    dns: tuple[str, ...] = ()
    serial: str = ""
    not_before: float = 0.0
    not_after: float = 0.0
    key: str = ""
    pin: str = ""
    authority: bool = False

    @property
    def self_issued(self) -> bool:
        """Whether its issuer has its own name, as self-signed certificates have it."""
        return bool(self.subject) and self.subject == self.issuer


def describe(der: bytes) -> Described:
    """Reads one certificate. Raises nothing, whatever the bytes."""
    size, digest = len(der), hashlib.sha256(der).hexdigest()
    try:
        facts = Facts.of_der(der)
        return Described(
            size,
            digest,
            subject=facts.subject.rfc4514_string(),
            issuer=facts.issuer.rfc4514_string(),
            uris=facts.uris,
            dns=_dns(facts.certificate),
            serial=f"{facts.certificate.serial_number:x}",
            not_before=facts.not_before,
            not_after=facts.not_after,
            key=_key(facts.public_key),
            pin=str(Pin.of_certificate(facts.certificate)),
            authority=facts.is_authority,
        )
    except VerificationError as error:
        return Described(size, digest, unreadable=str(error))
    except (ValueError, TypeError) as error:
        return Described(size, digest, unreadable=f"it cannot be read: {type(error).__name__}")


def _dns(certificate: x509.Certificate) -> tuple[str, ...]:
    try:
        names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    except x509.ExtensionNotFound:
        return ()
    return tuple(names.get_values_for_type(x509.DNSName))


def _key(key: CertificatePublicKeyTypes) -> str:
    if isinstance(key, ec.EllipticCurvePublicKey):
        return f"EC {key.curve.name}"
    if isinstance(key, rsa.RSAPublicKey):
        return f"RSA {key.key_size}"
    return type(key).__name__.removesuffix("PublicKey").lstrip("_")

"""What the rules look at in one certificate, read once, with whatever hostile DER provokes turned into a refusal."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, ParamSpec, TypeVar

from cryptography import x509
from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.x509.verification import VerificationError as NoPathError

from sidecar.identity.refusal import Refusal, VerificationError

if TYPE_CHECKING:
    from collections.abc import Callable

    from cryptography.hazmat.primitives.asymmetric.types import CertificatePublicKeyTypes

_Parameters = ParamSpec("_Parameters")
_Result = TypeVar("_Result")

_PROCESSED: Final = (
    x509.BasicConstraints,
    x509.KeyUsage,
    x509.ExtendedKeyUsage,
    x509.SubjectAlternativeName,
    x509.NameConstraints,
)
"""The extensions that our rules decide on, and which may therefore be critical (RFC 5280 4.2)."""


@dataclass(frozen=True, slots=True)
class Facts:
    """One certificate, taken apart. The library reads most parts late, so a malformed one shows itself here.

    ``uris`` are the URI names of the subjectAltName as they stand there. ``purposes`` is None when there is no
    extendedKeyUsage. ``unprocessed`` is the first critical extension that no rule here decides on. Times are seconds
    since the epoch.
    """

    certificate: x509.Certificate
    subject: x509.Name
    issuer: x509.Name
    public_key: CertificatePublicKeyTypes
    basic_constraints: x509.BasicConstraints | None
    key_usage: x509.KeyUsage | None
    key_usage_critical: bool
    purposes: x509.ExtendedKeyUsage | None
    uris: tuple[str, ...]
    constrains_names: bool
    unprocessed: x509.ObjectIdentifier | None
    not_before: float
    not_after: float

    @classmethod
    def of_der(cls, der: bytes) -> Facts:
        """Reads one certificate in DER; raises :class:`VerificationError`, and nothing else, for hostile bytes."""
        return shielded(cls._read, shielded(x509.load_der_x509_certificate, der))

    @classmethod
    def of_certificate(cls, certificate: x509.Certificate) -> Facts:
        """The same for a certificate that was loaded before; extensions and key may still be malformed."""
        return shielded(cls._read, certificate)

    @classmethod
    def _read(cls, certificate: x509.Certificate) -> Facts:
        extensions = {type(extension.value): extension for extension in certificate.extensions}
        basic_constraints = extensions.get(x509.BasicConstraints)
        key_usage = extensions.get(x509.KeyUsage)
        purposes = extensions.get(x509.ExtendedKeyUsage)
        names = extensions.get(x509.SubjectAlternativeName)
        return cls(
            certificate=certificate,
            subject=certificate.subject,
            issuer=certificate.issuer,
            public_key=_public_key(certificate),
            basic_constraints=basic_constraints.value if basic_constraints else None,
            key_usage=key_usage.value if key_usage else None,
            key_usage_critical=bool(key_usage and key_usage.critical),
            purposes=purposes.value if purposes else None,
            uris=tuple(names.value.get_values_for_type(x509.UniformResourceIdentifier)) if names else (),
            constrains_names=x509.NameConstraints in extensions,
            unprocessed=next(
                (e.oid for e in certificate.extensions if e.critical and not isinstance(e.value, _PROCESSED)), None
            ),
            not_before=certificate.not_valid_before_utc.timestamp(),
            not_after=certificate.not_valid_after_utc.timestamp(),
        )

    @property
    def is_authority(self) -> bool:
        """Whether this is a signing certificate; no basicConstraints means no (RFC 5280 4.2.1.9)."""
        return self.basic_constraints is not None and self.basic_constraints.ca


def shielded(
    function: Callable[_Parameters, _Result], *args: _Parameters.args, **kwargs: _Parameters.kwargs
) -> _Result:
    """Calls library code on bytes that a peer chose; path building's verdict passes.

    The library raises ValueError, TypeError, its own exceptions and, where its native code panics, a class that derives
    from BaseException and cannot be imported. A peer must be able to provoke a refusal and nothing else.
    """
    try:
        return function(*args, **kwargs)
    except (VerificationError, NoPathError, KeyboardInterrupt, SystemExit):
        raise
    except BaseException as error:  # a panic of the native code derives from nothing narrower
        raise VerificationError(
            Refusal.CERTIFICATE_MALFORMED, f"a certificate cannot be read: {type(error).__name__}"
        ) from error


def _public_key(certificate: x509.Certificate) -> CertificatePublicKeyTypes:
    try:
        return certificate.public_key()
    except UnsupportedAlgorithm as error:
        raise VerificationError(
            Refusal.KEY_UNSUPPORTED, f"the key is of a kind that is not known: {certificate.public_key_algorithm_oid}"
        ) from error


def issued_by(facts: Facts, issuer: Facts) -> bool:
    """Whether the issuer's name and key are those that signed the certificate. Costs one signature check at most."""
    if facts.issuer != issuer.subject:
        return False
    try:
        facts.certificate.verify_directly_issued_by(issuer.certificate)
    except (InvalidSignature, UnsupportedAlgorithm, ValueError, TypeError):
        return False
    return True

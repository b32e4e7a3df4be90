"""Pins: the SHA-256 of a SubjectPublicKeyInfo (RFC 7469 2.4), written ``sha256:<base64>``."""

from __future__ import annotations

import base64
import hashlib
from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING, Final

from sidecar.errors import ConfigurationError
from sidecar.identity.der import subject_public_key_info
from sidecar.identity.spiffe import shown
from sidecar.identity.strict64 import decode

if TYPE_CHECKING:
    from cryptography import x509

PREFIX: Final = "sha256:"
DIGEST_BYTES: Final = 32

_HINT: Final = (
    "openssl x509 -in CERTIFICATE -pubkey -noout | openssl pkey -pubin -outform der"
    " | openssl dgst -sha256 -binary | openssl base64"
)
"""Prints what stands behind the prefix."""


class PinCode(StrEnum):
    """What is wrong with a text that is not a pin."""

    WRONG_PREFIX = "pin_wrong_prefix"
    URL_SAFE = "pin_url_safe"
    NOT_BASE64 = "pin_not_base64"
    NOT_CANONICAL = "pin_not_canonical"
    WRONG_LENGTH = "pin_wrong_length"


class PinError(ConfigurationError):
    """A text is not a pin; ``code`` is a :class:`PinCode`."""


@dataclass(frozen=True, slots=True)
class Pin:
    """The SHA-256 of a SubjectPublicKeyInfo, 32 bytes. Raises :class:`PinError` when made from another length."""

    digest: bytes

    def __post_init__(self) -> None:
        if len(self.digest) != DIGEST_BYTES:
            raise PinError(
                PinCode.WRONG_LENGTH, f"a pin is {DIGEST_BYTES} bytes, this is {len(self.digest)}", hint=_HINT
            )

    @classmethod
    def parse(cls, text: str) -> Pin:
        """The pin ``sha256:<base64>``, so that ``str(parse(x)) == x``.

        The one spelling is RFC 4648 section 4 with padding: two spellings of one pin would make two pins of a set.
        Raises :class:`PinError`.
        """
        if not text.startswith(PREFIX):
            raise PinError(PinCode.WRONG_PREFIX, f"a pin starts with {PREFIX}, this is {shown(text)}", hint=_HINT)
        encoded = text.removeprefix(PREFIX)
        if "-" in encoded or "_" in encoded:
            raise PinError(
                PinCode.URL_SAFE,
                f"this is URL-safe base64: {shown(text)}",
                hint="write + for - and / for _ (RFC 4648 section 4)",
            )
        try:
            digest = decode(encoded.encode("ascii"))
        except ValueError as error:
            raise PinError(PinCode.NOT_BASE64, f"this is not padded base64: {shown(text)}", hint=_HINT) from error
        # Bits after the last byte do not survive the way back.
        if base64.b64encode(digest).decode("ascii") != encoded:
            raise PinError(PinCode.NOT_CANONICAL, f"this is not canonical base64: {shown(text)}", hint=_HINT)
        return cls(digest)

    @classmethod
    def of_spki(cls, der: bytes) -> Pin:
        """The pin of a SubjectPublicKeyInfo in DER."""
        return cls(hashlib.sha256(der).digest())

    @classmethod
    def of_certificate(cls, certificate: x509.Certificate) -> Pin:
        """The pin of the key of a certificate, as the certificate encodes it."""
        return cls.of_spki(subject_public_key_info(certificate))

    def __str__(self) -> str:
        return PREFIX + base64.b64encode(self.digest).decode("ascii")

"""Certificate requests (PKCS#10, RFC 2986) for a key that is wherever it is."""

from __future__ import annotations

from typing import TYPE_CHECKING, NoReturn, Self

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding

from sidecar.keys.selftest import check_signature
from sidecar.keys.signer import Hash, hash_for

if TYPE_CHECKING:
    from sidecar.identity.spiffe import SpiffeId
    from sidecar.keys.signer import Signer


def request(signer: Signer, spiffe_id: SpiffeId | None) -> bytes:
    """Signs a request, PEM. Raises SignError: a signer service signs none.

    The subject is empty, as it is in a certificate that says who it is for by a SPIFFE ID; the name is critical therefore
    (RFC 5280 4.2.1.6).
    """
    builder = x509.CertificateSigningRequestBuilder(x509.Name([]))
    if spiffe_id is not None:
        name = x509.UniformResourceIdentifier(str(spiffe_id))
        builder = builder.add_extension(x509.SubjectAlternativeName([name]), critical=True)
    hash_ = hashes.SHA384() if hash_for(signer.public_key) is Hash.SHA384 else hashes.SHA256()
    made = builder.sign(_SigningKey(signer), hash_)
    return made.public_bytes(Encoding.PEM)


class _SigningKey(ec.EllipticCurvePrivateKey):
    """A signer as `cryptography` wants a private key to be; it signs with the hash that fits its curve and does no more."""

    def __init__(self, signer: Signer) -> None:
        self._signer = signer

    def public_key(self) -> ec.EllipticCurvePublicKey:
        """The public half."""
        return self._signer.public_key

    @property
    def curve(self) -> ec.EllipticCurve:
        """The curve."""
        return self._signer.public_key.curve

    @property
    def key_size(self) -> int:
        """Bits of the curve."""
        return self.curve.key_size

    def sign(
        self, data: bytes | bytearray | memoryview, signature_algorithm: ec.EllipticCurveSignatureAlgorithm
    ) -> bytes:
        """Lets the signer sign, and believes no signature unseen. Raises SignError."""
        hash_ = hash_for(self._signer.public_key)
        if not isinstance(signature_algorithm.algorithm, type(hash_.algorithm)):  # what `request` asks for
            raise TypeError
        message = bytes(data)
        signature = self._signer.sign(message, hash_)
        check_signature(self._signer.public_key, signature, message, hash_)
        return signature

    def exchange(self, *_: object, **__: object) -> NoReturn:
        """It signs and does nothing else."""
        raise TypeError

    def private_numbers(self) -> NoReturn:
        """They are nowhere to be had."""
        raise TypeError

    def private_bytes(self, *_: object, **__: object) -> NoReturn:
        """They are nowhere to be had."""
        raise TypeError

    def __copy__(self) -> Self:
        return self

    def __deepcopy__(self, memo: dict[int, object]) -> Self:
        return self

"""The seam: whatever can use our private key, wherever that key is.

A new kind of key is a new implementation, a row in `sidecar.keys.open` and a row in the conformance suite.
"""

from __future__ import annotations

import hashlib
from enum import StrEnum
from typing import TYPE_CHECKING, Final, Protocol

from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec

if TYPE_CHECKING:
    from sidecar.keys.protection import Protection

#: The curves of our own keys: what hardware keys can be, and what a handshake is cheap with.
CURVES: Final = (ec.SECP256R1, ec.SECP384R1)


class Hash(StrEnum):
    """The hash of a signature; the value is the name that `hashlib` knows."""

    SHA256 = "sha256"
    SHA384 = "sha384"

    def digest(self, message: bytes) -> bytes:
        """Hashes a message."""
        return hashlib.new(self.value, message).digest()

    @property
    def algorithm(self) -> hashes.HashAlgorithm:
        """The same as `cryptography` names it."""
        return hashes.SHA256() if self is Hash.SHA256 else hashes.SHA384()


def hash_for(public_key: ec.EllipticCurvePublicKey) -> Hash:
    """The hash that TLS 1.3 pairs with a key's curve (RFC 8446 4.2.3), and JWS as well (RFC 7518 3.4)."""
    return Hash.SHA384 if isinstance(public_key.curve, ec.SECP384R1) else Hash.SHA256


class Signer(Protocol):
    """Signs with one private key that it may never show.

    ``sign`` takes the whole message, so that whoever owns the key can look at what it signs; it blocks for as long as
    the device takes, at most for its time limit where the device lets it, and may be called from any thread.
    """

    @property
    def public_key(self) -> ec.EllipticCurvePublicKey:
        """The public half, on P-256 or P-384; known from the start."""

    @property
    def protection(self) -> Protection:
        """What keeps the private half from being copied."""

    def sign(self, message: bytes, hash_: Hash) -> bytes:
        """Returns an ECDSA signature over ``message``: DER ``ECDSA-Sig-Value`` (RFC 3279 2.2.3). Raises SignError."""

    def close(self) -> None:
        """Lets go of the device: no handle or session stays behind. Later calls of ``sign`` raise SignError (CLOSED).

        May block like ``sign``. A second call does nothing.
        """


class Device(Protocol):
    """A key in a piece of hardware that does one thing at a time: what `sidecar.keys.serial` makes a Signer of.

    No two methods are ever called at once. ``sign`` gets over a reset of the device by itself, once a call, and never
    repeats what failed for lack of authorisation. All methods may block for ever: the device may hang.
    """

    public_key: ec.EllipticCurvePublicKey
    protection: Protection

    def sign(self, digest: bytes, hash_: Hash) -> bytes:
        """Returns an ECDSA signature over a digest of that hash, DER. Raises SignError."""

    def close(self) -> None:
        """Flushes and closes everything; never raises, also when the device is gone."""

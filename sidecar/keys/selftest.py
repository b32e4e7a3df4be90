"""Whether a signer signs: one signature, verified with its own public key."""

from __future__ import annotations

from typing import TYPE_CHECKING

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric import ec

from sidecar.keys.errors import SignCode, SignError
from sidecar.keys.messages import self_test_message
from sidecar.keys.signer import hash_for

if TYPE_CHECKING:
    from sidecar.keys.signer import Hash, Signer


def self_test(signer: Signer) -> None:
    """Signs and verifies once. Raises SignError."""
    message, hash_ = self_test_message(), hash_for(signer.public_key)
    check_signature(signer.public_key, signer.sign(message, hash_), message, hash_)


def check_signature(public_key: ec.EllipticCurvePublicKey, signature: bytes, message: bytes, hash_: Hash) -> None:
    """Accepts a DER signature of that key over that message; raises SignError (BAD_SIGNATURE)."""
    try:
        public_key.verify(signature, message, ec.ECDSA(hash_.algorithm))
    except InvalidSignature:
        raise SignError(
            SignCode.BAD_SIGNATURE,
            "what the device with our private key returned is no signature by that key",
            hint="was the key replaced, or the device reset? `sidecar key show` names the key that is there now",
        ) from None

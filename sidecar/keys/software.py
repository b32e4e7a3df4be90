"""A private key that lives in a PEM file: for development, and labelled ``software`` wherever the identity is shown."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, ClassVar, Final

from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric import ec, ed448, ed25519, rsa
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    load_der_private_key,
    load_pem_private_key,
)

from sidecar.identity import pem as pem_format
from sidecar.keys.errors import KeyCode, PrivateKeyError, SignCode, SignError
from sidecar.keys.protection import Protection
from sidecar.keys.signer import CURVES

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.types import PrivateKeyTypes

    from sidecar.keys.signer import Hash

#: PKCS#8 (RFC 7468 10), SEC 1 (RFC 5915 4), and the label by which RSA keys are known, for a better message.
_LABELS: Final = frozenset({"PRIVATE KEY", "EC PRIVATE KEY", "RSA PRIVATE KEY"})

#: Kinds that people bring, for the message.
_OTHERS: Final = (
    (rsa.RSAPrivateKey, "an RSA key"),
    (ed25519.Ed25519PrivateKey, "an Ed25519 key"),
    (ed448.Ed448PrivateKey, "an Ed448 key"),
)


@dataclass(frozen=True, slots=True)
class SoftwareKey:
    """A checked key. ``pem`` is what OpenSSL gets: PKCS#8, unencrypted; it never appears in ``repr``."""

    public_key: ec.EllipticCurvePublicKey
    pem: bytes = field(repr=False)
    protection: Protection = Protection.SOFTWARE

    #: Signs in no time: a handshake needs no thread.
    blocking: ClassVar[bool] = False

    def lend(self, _context: object) -> bytes:
        """Returns what OpenSSL takes for the private key: the key itself."""
        return self.pem

    def take_failure(self) -> None:
        """Returns None: OpenSSL signs by itself."""


class SoftwareSigner:
    """A `sidecar.keys.signer.Signer` with the key in this process: for a signer service, and for what signs beside TLS."""

    protection = Protection.SOFTWARE

    def __init__(self, key: SoftwareKey) -> None:
        self.public_key = key.public_key
        self._key: ec.EllipticCurvePrivateKey | None = _parsed(key.pem)

    def sign(self, message: bytes, hash_: Hash) -> bytes:
        """Signs. Raises SignError after ``close``."""
        if self._key is None:
            raise SignError(SignCode.CLOSED, "the key was let go of")
        return self._key.sign(message, ec.ECDSA(hash_.algorithm))

    def close(self) -> None:
        """Drops the key."""
        self._key = None


def holds_key(pem: bytes) -> bool:
    """Says whether a file's bytes hold a private key of any kind, damaged and encrypted ones included."""
    return b"PRIVATE KEY-----" in pem


def load(pem: bytes) -> SoftwareKey:
    """Reads the one private key in ``pem``, which may hold certificates too. Raises PrivateKeyError."""
    try:
        keys = [block for block in pem_format.blocks(pem) if block.is_private_key]
    except pem_format.PemError as error:
        raise PrivateKeyError(KeyCode.GARBAGE, f"the file is damaged: {error}", hint="write it anew") from error
    if not keys:
        raise PrivateKeyError(
            KeyCode.NO_KEY,
            "the file holds no PEM private key",
            hint="it should have a line -----BEGIN PRIVATE KEY----- or -----BEGIN EC PRIVATE KEY-----",
        )
    if len(keys) > 1:
        raise PrivateKeyError(
            KeyCode.SEVERAL_KEYS,
            f"the file holds {len(keys)} private keys",
            hint="leave the one that fits the certificate",
        )
    key = _load_block(keys[0])
    return SoftwareKey(key.public_key(), key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))


def _load_block(block: pem_format.Block) -> ec.EllipticCurvePrivateKey:
    # The second mark is that of the old OpenSSL format (RFC 1421 4.6.1.1), whose label says nothing of encryption.
    if block.label == "ENCRYPTED PRIVATE KEY" or b"ENCRYPTED" in block.body:
        raise PrivateKeyError(
            KeyCode.ENCRYPTED,
            "the private key is encrypted, and there is no way to give a passphrase",
            hint="decrypt it into a file of mode 0600: openssl pkey -in OLD -out NEW",
        )
    if block.label == "TSS2 PRIVATE KEY":
        raise PrivateKeyError(
            KeyCode.UNSUPPORTED,
            "the file holds a TSS2 PRIVATE KEY, which a TPM wrapped and which that TPM alone can use",
            hint="name it as what it is: tpm:file=PATH",
        )
    if block.label not in _LABELS:
        raise _unsupported(f"the file holds a {block.label}")
    try:
        key = load_der_private_key(block.der(), password=None)
    except UnsupportedAlgorithm:
        raise _unsupported("the file holds a private key of an unknown algorithm") from None
    except (ValueError, TypeError):
        # The library's message is left out, and so is its traceback: either may show what could not be read.
        raise PrivateKeyError(
            KeyCode.GARBAGE, f"the private key at line {block.line} cannot be read", hint="write the file anew"
        ) from None
    return _checked(key)


def _parsed(pem: bytes) -> ec.EllipticCurvePrivateKey:
    return _checked(load_pem_private_key(pem, password=None))


def _checked(key: PrivateKeyTypes) -> ec.EllipticCurvePrivateKey:
    if not isinstance(key, ec.EllipticCurvePrivateKey):
        names = [name for kind, name in _OTHERS if isinstance(key, kind)]
        raise _unsupported(f"the file holds {names[0] if names else 'another kind of key'}")
    if not isinstance(key.curve, CURVES):
        raise _unsupported(f"the file holds a key on the curve {key.curve.name}")
    return key


def _unsupported(message: str) -> PrivateKeyError:
    return PrivateKeyError(
        KeyCode.UNSUPPORTED,
        f"{message}; P-256 and P-384 are supported",
        hint="make one, and have a certificate issued for it: openssl ecparam -name prime256v1 -genkey -noout -out NEW",
    )

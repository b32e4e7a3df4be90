"""The public area of a TPM key (TPM 2.0 part 2, 12.2.4), read without a TPM and without its library.

What it says is what the TPM enforces: the key's name is the hash of it, and a wrapped key whose public area was changed
does not load.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import IntFlag
from typing import Final

from cryptography.hazmat.primitives.asymmetric import ec

from sidecar.keys.errors import KeyCode, PrivateKeyError
from sidecar.keys.protection import Protection
from sidecar.keys.signer import hash_for

SUPPORTED: Final = "P-256 and P-384 are supported"


class Attribute(IntFlag):
    """TPMA_OBJECT (TPM 2.0 part 2, 8.3), as far as we look at it."""

    FIXED_TPM = 1 << 1
    FIXED_PARENT = 1 << 4
    SENSITIVE_DATA_ORIGIN = 1 << 5
    USER_WITH_AUTH = 1 << 6
    NO_DA = 1 << 10
    RESTRICTED = 1 << 16
    DECRYPT = 1 << 17
    SIGN = 1 << 18


#: Made in this TPM and bound to it: without any one of these the key is, or may come to be, somewhere else too.
BOUND: Final = (
    (Attribute.FIXED_TPM, "fixedTPM"),
    (Attribute.FIXED_PARENT, "fixedParent"),
    (Attribute.SENSITIVE_DATA_ORIGIN, "sensitiveDataOrigin"),
)

_NULL: Final = 0x0010
_RSA, _KEYED_HASH, _ECC, _CIPHER = 0x0001, 0x0008, 0x0023, 0x0025
_KINDS: Final = {_RSA: "an RSA key", _KEYED_HASH: "an HMAC key or sealed data", _CIPHER: "a symmetric key"}
_ECDSA: Final = 0x0018
#: Hash algorithm -> bytes of its digest, which are also the most that an authorisation value of such a key has.
_HASHES: Final = {0x0004: 20, 0x000B: 32, 0x000C: 48, 0x000D: 64}
_HASH_NAMES: Final = {"sha256": 0x000B, "sha384": 0x000C}
_CURVES: Final[dict[int, ec.EllipticCurve]] = {0x0003: ec.SECP256R1(), 0x0004: ec.SECP384R1()}


@dataclass(frozen=True, slots=True)
class PublicArea:
    """``raw`` is the TPM2B_PUBLIC that it was read from; ``pin_bytes`` is the length of the longest PIN."""

    key: ec.EllipticCurvePublicKey = field(compare=False)
    attributes: Attribute
    pin_bytes: int
    raw: bytes

    @property
    def unbound(self) -> list[str]:
        """The names of the attributes that are missing in a key that cannot be copied."""
        return [name for attribute, name in BOUND if attribute not in self.attributes]


class Reader:
    """Takes big-endian fields off bytes; ValueError where they end too soon."""

    def __init__(self, data: bytes) -> None:
        self._data = data
        self._at = 0

    def take(self, size: int) -> bytes:
        """The next bytes."""
        if size > len(self._data) - self._at:
            raise ValueError("ends too soon")
        self._at += size
        return self._data[self._at - size : self._at]

    def number(self, size: int) -> int:
        """The next unsigned number of that many bytes."""
        return int.from_bytes(self.take(size))

    def sized(self) -> bytes:
        """The contents of a TPM2B structure."""
        return self.take(self.number(2))

    def done(self) -> None:
        """Nothing may follow."""
        if self._at != len(self._data):
            raise ValueError("goes on after its end")


def parse(raw: bytes) -> PublicArea:
    """Reads a TPM2B_PUBLIC with an ECDSA key. Raises PrivateKeyError and nothing else."""
    try:
        return _parse(raw)
    except ValueError as error:
        raise PrivateKeyError(
            KeyCode.GARBAGE, f"the public area of the TPM key cannot be read: it {error}", hint="make the key anew"
        ) from None


def _parse(raw: bytes) -> PublicArea:
    outer = Reader(raw)
    reader = Reader(outer.sized())
    outer.done()
    kind, name_hash = reader.number(2), reader.number(2)
    if kind != _ECC:
        raise _unsupported(f"the TPM object is {_KINDS.get(kind, f'of type {kind:#06x}')}, not an EC key")
    if name_hash not in _HASHES:
        raise _unsupported(f"the TPM key is named by the hash algorithm {name_hash:#06x}")
    attributes = Attribute(reader.number(4))
    reader.sized()  # the policy: irrelevant, since the PIN authorises (userWithAuth)
    if reader.number(2) != _NULL:
        reader.take(4)  # key bits and mode: storage keys have them, and are refused for what they are below
    scheme = reader.number(2)
    scheme_hash = None if scheme == _NULL else reader.number(2)
    curve_id = reader.number(2)
    if scheme not in {_NULL, _ECDSA}:
        raise _unsupported(f"the TPM key signs by the scheme {scheme:#06x} alone, not by ECDSA")
    if curve_id not in _CURVES:
        raise _unsupported(f"the TPM key is on the curve {curve_id:#06x}")
    if reader.number(2) != _NULL:
        reader.take(2)  # the hash of a key derivation, which a signing key does not use
    key = _point(_CURVES[curve_id], reader.sized(), reader.sized())
    reader.done()
    if scheme_hash not in {None, _HASH_NAMES[hash_for(key).value]}:
        raise _unsupported(f"the TPM key signs with the hash {scheme_hash:#06x} alone; TLS wants {hash_for(key)} of it")
    return PublicArea(key, attributes, _HASHES[name_hash], raw)


def _point(curve: ec.EllipticCurve, x: bytes, y: bytes) -> ec.EllipticCurvePublicKey:
    numbers = ec.EllipticCurvePublicNumbers(int.from_bytes(x), int.from_bytes(y), curve)
    try:
        return numbers.public_key()
    except ValueError:
        raise ValueError("holds no point of its curve") from None


def demand_usable(area: PublicArea, *, copyable: bool) -> Protection:
    """Accepts a key that signs for us and cannot leave its TPM, or may with ``copyable``. Raises PrivateKeyError."""
    have = area.attributes
    if Attribute.SIGN not in have or have & (Attribute.RESTRICTED | Attribute.DECRYPT):
        raise PrivateKeyError(
            KeyCode.UNSUPPORTED,
            "the TPM key is not one for signing alone (sign, neither restricted nor decrypt)",
            hint="storage and attestation keys cannot sign handshakes: `sidecar key create` makes one that can",
        )
    if Attribute.USER_WITH_AUTH not in have:
        raise PrivateKeyError(
            KeyCode.UNSUPPORTED,
            "the TPM key signs only under a policy, which is not supported",
            hint="make one with userWithAuth, and a PIN if you like: `sidecar key create` does",
        )
    if not area.unbound:
        return Protection.TPM
    if not copyable:
        raise PrivateKeyError(
            KeyCode.COPYABLE,
            f"the TPM key can be, or was, outside this TPM: it lacks {', '.join(area.unbound)}",
            hint="`sidecar key create` makes one that cannot; unsafe-copyable=true takes it and calls it software",
        )
    return Protection.SOFTWARE


def demand_pin_fits(size: int, most: int) -> None:
    """Raises PrivateKeyError for a PIN that no such key can have: the TPM would take it for a wrong one."""
    if size > most:
        raise PrivateKeyError(
            KeyCode.BAD_PIN, f"a PIN of this TPM key has at most {most} bytes", hint="choose a shorter one"
        )


def _unsupported(message: str) -> PrivateKeyError:
    return PrivateKeyError(
        KeyCode.UNSUPPORTED, f"{message}; {SUPPORTED}", hint="make one: sidecar key create, with the same place"
    )

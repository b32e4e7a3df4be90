"""Wrapped keys: TSS2 PEM, the format of tpm2-openssl and tpm2-tss-engine, read without a TPM and without its library.

    TPMKey ::= SEQUENCE {
        type        OBJECT IDENTIFIER (2.23.133.10.1.3, a loadable key),
        emptyAuth   [0] EXPLICIT BOOLEAN OPTIONAL,
        policy      [1], secret [2], authPolicy [3], description [4], rsaParent [5]   all OPTIONAL,
        parent      INTEGER,
        pubkey      OCTET STRING (TPM2B_PUBLIC),
        privkey     OCTET STRING (TPM2B_PRIVATE) }

(draft-bottomley-tpm2-keys-00 3.1). The private part is encrypted by the TPM's storage key: the file is no secret, and no
use without that TPM.
"""

from __future__ import annotations

import base64
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

from sidecar.identity import pem as pem_format
from sidecar.keys.errors import KeyCode, PrivateKeyError
from sidecar.keys.tpm import public
from sidecar.keys.tpm.public import Attribute, PublicArea, Reader

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric import ec

    from sidecar.keys.protection import Protection

LABEL: Final = "TSS2 PRIVATE KEY"
#: The owner hierarchy: the parent is the primary key that the usual template makes there.
OWNER: Final = 0x40000001
PERSISTENT: Final = range(0x81000000, 0x82000000)

_BOOLEAN, _INTEGER, _OCTETS, _OID, _SEQUENCE = 0x01, 0x02, 0x04, 0x06, 0x30
_LOADABLE: Final = bytes.fromhex("67 81 05 0a 01 03")
_EMPTY_AUTH, _DESCRIPTION, _RSA_PARENT = 0xA0, 0xA4, 0xA5
_TRUTH: Final = (b"\x00", b"\xff")
_POLICIES: Final = frozenset({0xA1, 0xA2, 0xA3})
#: TPM2B_PRIVATE and TPM2B_PUBLIC together stay far below; the reference code's largest are 1.5 KB.
_MAX_BYTES: Final = 8192


@dataclass(frozen=True, slots=True)
class Wrapped:
    """One wrapped key. ``parent`` is the handle of its storage key.

    ``empty_auth`` says that the key has no PIN; None where the file does not say so in DER.
    """

    area: PublicArea
    parent: int
    empty_auth: bool | None
    private: bytes = field(repr=False)

    @property
    def public_key(self) -> ec.EllipticCurvePublicKey:
        """The public half."""
        return self.area.key

    @property
    def attributes(self) -> Attribute:
        """What the TPM enforces about the key."""
        return self.area.attributes

    def pem(self) -> bytes:
        """Writes the key as `inspect` reads it."""
        auth = b"" if self.empty_auth is None else _encoded(_EMPTY_AUTH, _encoded(_BOOLEAN, _TRUTH[self.empty_auth]))
        # One byte more where the first bit is set: DER numbers have a sign.
        parent = self.parent.to_bytes(self.parent.bit_length() // 8 + 1)
        body = (
            _encoded(_OID, _LOADABLE)
            + auth
            + _encoded(_INTEGER, parent)
            + _encoded(_OCTETS, self.area.raw)
            + _encoded(_OCTETS, self.private)
        )
        text = base64.b64encode(_encoded(_SEQUENCE, body))
        lines = [text[at : at + 64] for at in range(0, len(text), 64)]
        return b"\n".join([f"-----BEGIN {LABEL}-----".encode(), *lines, f"-----END {LABEL}-----".encode(), b""])


def holds_tss2(pem: bytes) -> bool:
    """Says whether a file's bytes hold a wrapped key, damaged ones included."""
    return f"-----BEGIN {LABEL}-----".encode() in pem


def public_key_of(pem: bytes) -> ec.EllipticCurvePublicKey:
    """The public half of the one wrapped key in ``pem``. Raises PrivateKeyError."""
    return inspect(pem).public_key


def demand_usable(wrapped: Wrapped, *, copyable: bool, has_pin: bool) -> Protection:
    """Refuses early what the TPM would refuse, or what could be copied. Raises PrivateKeyError."""
    # That a key has a PIN is not believed: Debian 12's tpm2_encodeobject says so of those that have none.
    if wrapped.empty_auth and has_pin:
        raise PrivateKeyError(
            KeyCode.BAD_PIN, "the wrapped key has no PIN, and one is given", hint="remove pin-source="
        )
    return public.demand_usable(wrapped.area, copyable=copyable)


def inspect(pem: bytes) -> Wrapped:
    """Reads the one wrapped key in ``pem``, which may hold certificates too. Raises PrivateKeyError and nothing else."""
    try:
        keys = [block for block in pem_format.blocks(pem) if block.is_private_key]
        if not any(block.label == LABEL for block in keys):
            raise PrivateKeyError(
                KeyCode.NO_KEY,
                "the file holds no key that a TPM wrapped",
                hint=f"it should have a line -----BEGIN {LABEL}-----; a key in the clear is named by its path alone",
            )
        if len(keys) > 1:
            raise PrivateKeyError(
                KeyCode.SEVERAL_KEYS,
                f"the file holds {len(keys)} private keys",
                hint="leave the one that fits the certificate",
            )
        return _key(keys[0].der())
    except ValueError as error:  # PemError included
        raise PrivateKeyError(
            KeyCode.GARBAGE, f"the wrapped key cannot be read: {error}", hint="write the file anew"
        ) from None


def _key(der: bytes) -> Wrapped:
    if len(der) > _MAX_BYTES:
        raise ValueError("it is longer than any TPM key")
    outer = Reader(der)
    fields = Reader(_value(outer, _SEQUENCE))
    outer.done()
    if _value(fields, _OID) != _LOADABLE:
        raise _unsupported("it is to be imported, or is sealed data", "import it once, and export what the TPM loads")
    empty_auth, parent = _head(fields)
    if parent != OWNER and parent not in PERSISTENT:
        raise _unsupported(
            f"its storage key is {parent:#010x}", "make it under 0x81000001 or the owner hierarchy (0x40000001)"
        )
    area, private = public.parse(_value(fields, _OCTETS)), _value(fields, _OCTETS)
    fields.done()
    wrapper = Reader(private)
    if not wrapper.sized():
        raise ValueError("it has no private part")
    wrapper.done()
    return Wrapped(area, parent, empty_auth, private)


def _head(fields: Reader) -> tuple[bool | None, int]:
    """The optional fields, in their order, and the parent."""
    empty_auth = None
    last = 0
    while True:
        tag, value = _element(fields)
        if tag == _INTEGER:
            return empty_auth, _natural(value)
        if tag <= last:
            raise ValueError("its fields are out of order")
        last = tag
        if tag == _EMPTY_AUTH:
            empty_auth = _boolean(value)
        elif tag in _POLICIES:
            raise _unsupported("it is used under a policy", "make one without: `sidecar key create` does")
        elif tag == _RSA_PARENT and _boolean(value) is not False:
            raise _unsupported("its storage key is an RSA primary", "make it under an EC primary, or 0x81000001")
        elif tag not in {_DESCRIPTION, _RSA_PARENT}:
            raise ValueError("it has a field that is not defined")


def _element(reader: Reader) -> tuple[int, bytes]:
    """One element of DER (X.690 10.1): the only form that a length has."""
    tag, size = reader.number(1), reader.number(1)
    if size >= 0x80:
        count = size - 0x80
        if count not in {1, 2}:
            raise ValueError("it is not DER")
        size = reader.number(count)
        if size < (0x80 if count == 1 else 0x100):
            raise ValueError("it is not DER")
    return tag, reader.take(size)


def _encoded(tag: int, value: bytes) -> bytes:
    size = len(value)
    length = bytes([size]) if size < 0x80 else b"\x81" + bytes([size]) if size < 0x100 else b"\x82" + size.to_bytes(2)
    return bytes([tag]) + length + value


def _value(reader: Reader, expected: int) -> bytes:
    tag, value = _element(reader)
    if tag != expected:
        raise ValueError("it is no TPMKey")
    return value


def _boolean(explicit: bytes) -> bool | None:
    """Reads TRUE, FALSE, or 1, with which no DER says true.

    Older releases of tpm2-openssl mean true by it, and Debian 12's tpm2_encodeobject the opposite.
    """
    reader = Reader(explicit)
    value = _value(reader, _BOOLEAN)
    reader.done()
    if value not in {b"\0", b"\1", b"\xff"}:
        raise ValueError("it is not DER")
    return None if value == b"\1" else value != b"\0"


def _natural(value: bytes) -> int:
    if not value or value[0] >= 0x80 or (len(value) > 1 and value[0] == 0 and value[1] < 0x80):
        raise ValueError("its parent is no handle")
    return int.from_bytes(value)


def _unsupported(message: str, hint: str) -> PrivateKeyError:
    return PrivateKeyError(KeyCode.UNSUPPORTED, f"the wrapped key cannot be used: {message}", hint=hint)

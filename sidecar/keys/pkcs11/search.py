"""Which object of a token is our key, whether it can be copied, and its public half."""

from __future__ import annotations

import itertools
import sys
from contextlib import closing
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, Protocol, cast

from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric import ec
from pkcs11.constants import Attribute, ObjectClass
from pkcs11.exceptions import AttributeSensitive, AttributeTypeInvalid, FunctionFailed
from pkcs11.mechanisms import KeyType, Mechanism
from pkcs11.types import SignMixin

from sidecar.keys.errors import KeyCode, PrivateKeyError
from sidecar.keys.protection import Protection
from sidecar.keys.signer import CURVES
from sidecar.keys.uri import shown

if TYPE_CHECKING:
    from collections.abc import Generator

    from pkcs11.types import Session

    from sidecar.keys.uri import Pkcs11Key

#: CKA_EC_PARAMS of our curves: the DER of their object identifiers (RFC 5480 2.1.1.1).
EC_PARAMS: Final[dict[type[ec.EllipticCurve], bytes]] = {
    ec.SECP256R1: bytes.fromhex("06082a8648ce3d030107"),
    ec.SECP384R1: bytes.fromhex("06052b81040022"),
}
_TRUE: Final = b"\1"
_FALSE: Final = b"\0"
#: How many objects of one label or identifier are looked at.
_MANY: Final = 8


class TokenObject(Protocol):
    """An object in a token, as far as it is used here."""

    def __getitem__(self, attribute: Attribute) -> Any:
        """Reads an attribute."""


@dataclass(frozen=True, slots=True)
class Found:
    """A private key that can be used; ``per_signature`` says that each use asks for the PIN (CKA_ALWAYS_AUTHENTICATE)."""

    key: TokenObject
    id: bytes
    public_key: ec.EllipticCurvePublicKey
    protection: Protection
    per_signature: bool

    def sign(self, digest: bytes, pin: bytes | None) -> bytes:
        """Returns r and s, one behind the other. Raises PKCS11Error."""
        asked = pin.decode() if self.per_signature and pin is not None else None
        signature: bytes = cast("SignMixin", self.key).sign(digest, mechanism=Mechanism.ECDSA, pin=asked)
        return signature


def find_key(session: Session, spec: Pkcs11Key, *, logged_in: bool) -> Found | None:
    """Finds the one private key that a URI names, None where there is none. Raises PrivateKeyError, PKCS11Error."""
    keys = objects(session, _template(ObjectClass.PRIVATE_KEY, label=spec.object, id_=spec.id))
    if not logged_in:
        # Another key of this process may have logged in; that must not decide what this one finds.
        keys = [key for key in keys if read(key, Attribute.PRIVATE) == _FALSE]
    if not keys:
        return None
    if len(keys) > 1:
        raise PrivateKeyError(
            KeyCode.SEVERAL_KEYS,
            f"the token has several private keys that are {described(spec)}",
            hint="name one by object= and id= together, or delete the others",
        )
    return checked(session, keys[0], spec)


def checked(session: Session, key: TokenObject, spec: Pkcs11Key) -> Found:
    """Makes sure that a private key is what we can use and nobody can copy. Raises PrivateKeyError, PKCS11Error."""
    kind = int.from_bytes(read(key, Attribute.KEY_TYPE) or b"\xff", sys.byteorder)
    if kind != KeyType.EC:
        raise _unsupported("an RSA key" if kind == KeyType.RSA else "no EC key", spec)
    if not isinstance(key, SignMixin):
        raise PrivateKeyError(
            KeyCode.UNSUPPORTED,
            f"the private key that is {described(spec)} may not sign (CKA_SIGN)",
            hint="make another one: sidecar key create",
        )
    id_ = read(key, Attribute.ID) or b""
    return Found(
        key=key,
        id=id_,
        public_key=_public_key(session, id_, spec),
        protection=_protection(key, spec),
        per_signature=read(key, Attribute.ALWAYS_AUTHENTICATE) == _TRUE,
    )


def _protection(key: TokenObject, spec: Pkcs11Key) -> Protection:
    # Any other value than the standard's two counts against the key.
    if read(key, Attribute.SENSITIVE) == _TRUE and read(key, Attribute.EXTRACTABLE) == _FALSE:
        return Protection.HSM
    if not spec.copyable:
        raise PrivateKeyError(
            KeyCode.COPYABLE,
            f"the private key that is {described(spec)} can be copied out of its token (CKA_SENSITIVE, CKA_EXTRACTABLE)",
            hint="make one that cannot: sidecar key create; or accept it with unsafe-copyable=true, labelled software",
        )
    return Protection.SOFTWARE


def _public_key(session: Session, id_: bytes, spec: Pkcs11Key) -> ec.EllipticCurvePublicKey:
    """Finds the public half: anybody may have put it there, so nothing is signed before the self-test has verified it."""
    for template in _public_templates(id_, spec.object):
        halves = {_numbers(public): public for public in map(_public_half, objects(session, template, _MANY))}
        if len(halves) > 1:
            raise PrivateKeyError(
                KeyCode.SEVERAL_KEYS,
                f"the token has several public keys that belong to the one that is {described(spec)}",
                hint="delete those that do not belong to it",
            )
        for public in halves.values():
            return public
    raise PrivateKeyError(
        KeyCode.NO_KEY,
        f"the token has no public key and no certificate for the private key that is {described(spec)}",
        hint="write the public key into the token, with the same identifier (CKA_ID)",
    )


def _public_templates(id_: bytes, label: str | None) -> Generator[dict[Attribute, Any]]:
    if id_:
        yield _template(ObjectClass.PUBLIC_KEY, id_=id_)
    if label is not None:
        yield _template(ObjectClass.PUBLIC_KEY, label=label)
    if id_:
        yield _template(ObjectClass.CERTIFICATE, id_=id_)


def _public_half(found: TokenObject) -> ec.EllipticCurvePublicKey:
    value = read(found, Attribute.VALUE)
    return _of_certificate(value) if value is not None else _of_point(found)


def _of_point(found: TokenObject) -> ec.EllipticCurvePublicKey:
    parameters, point = read(found, Attribute.EC_PARAMS), read(found, Attribute.EC_POINT)
    for curve in CURVES:
        if parameters == EC_PARAMS[curve]:
            try:
                return ec.EllipticCurvePublicKey.from_encoded_point(curve(), _bare(point or b"", curve))
            except ValueError:
                raise PrivateKeyError(
                    KeyCode.GARBAGE, "the public key in the token is no point of its curve", hint="write it anew"
                ) from None
    raise _unsupported("no key on either")


def _bare(point: bytes, curve: type[ec.EllipticCurve]) -> bytes:
    # An OCTET STRING in DER, says the standard; without it, say many tokens. The length tells: 1 + twice the field's.
    size = 1 + 2 * (48 if curve is ec.SECP384R1 else 32)
    return point[2:] if len(point) == size + 2 and point[:2] == bytes([0x04, size]) else point


def _of_certificate(value: bytes) -> ec.EllipticCurvePublicKey:
    try:
        public = x509.load_der_x509_certificate(value).public_key()
    except (ValueError, UnsupportedAlgorithm):
        raise PrivateKeyError(
            KeyCode.GARBAGE, "the certificate in the token cannot be read", hint="write it anew"
        ) from None
    if not isinstance(public, ec.EllipticCurvePublicKey) or not isinstance(public.curve, CURVES):
        raise _unsupported("a certificate for another kind of key")
    return public


def objects(session: Session, template: dict[Attribute, Any], most: int = 2) -> list[TokenObject]:
    """The first few objects that have these attributes. Raises PKCS11Error."""
    with closing(cast("Generator[TokenObject]", session.get_objects(template))) as found:
        return list(itertools.islice(found, most))


def read(found: TokenObject, attribute: Attribute) -> bytes | None:
    """Reads an attribute as bytes, None where the object has none or does not show it. Raises PKCS11Error."""
    try:
        value = found[attribute]
    except (AttributeTypeInvalid, AttributeSensitive, FunctionFailed):
        return None  # the last is what the library makes of an absent value that the token calls a success
    return value if isinstance(value, bytes) else None


def _template(kind: ObjectClass, *, label: str | None = None, id_: bytes | None = None) -> dict[Attribute, Any]:
    wanted = {Attribute.CLASS: kind, Attribute.LABEL: label, Attribute.ID: id_}
    return {attribute: value for attribute, value in wanted.items() if value is not None}


def _numbers(public: ec.EllipticCurvePublicKey) -> ec.EllipticCurvePublicNumbers:
    return public.public_numbers()


def described(spec: Pkcs11Key) -> str:
    """Names a key for a message."""
    named = [f"labelled {shown(spec.object)}"] if spec.object is not None else []
    return " with ".join([*named, f"identifier {spec.id.hex()[:32]}"] if spec.id is not None else named)


def _unsupported(what: str, spec: Pkcs11Key | None = None) -> PrivateKeyError:
    where = f"what is {described(spec)} in the token is {what}" if spec else f"the public key in the token is {what}"
    return PrivateKeyError(
        KeyCode.UNSUPPORTED,
        f"{where}; P-256 and P-384 are supported",
        hint="make one, and have a certificate issued for it: sidecar key create",
    )

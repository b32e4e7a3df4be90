"""A trust bundle as JSON: the JWK Set of the SPIFFE Trust Domain and Bundle specification (4), as SPIRE writes it.

Of each key whose ``use`` is ``x509-svid`` the certificate in ``x5c`` is an authority (X509-SVID 6). Keys of another use,
such as ``jwt-svid``, of none, and of a type that nobody here knows are left out, as 4.1.3 and 4.2.2 demand. In one thing
this is stricter than X509-SVID 6.2, which ignores an ``x509-svid`` key without a certificate, and further certificates
beside the first: whoever wrote it meant an authority that would not be trusted, so it is an error here, as it is in
SPIFFE's own Go library. What is told of a key is its place, never what it holds.
"""

from __future__ import annotations

import base64
from typing import Any, Final, NamedTuple

from cryptography.hazmat.primitives.asymmetric import ec, rsa

from sidecar.identity.bundle_fault import BundleCode, BundleError, Listed, check_count, load
from sidecar.identity.strict64 import decode
from sidecar.identity.strict_json import Defect, read_object

_USE: Final = "x509-svid"
#: Key types (RFC 7518 6.1, RFC 8037 2): an authority of one that we cannot use is an error, not a key to leave out.
_TYPES: Final = frozenset({"EC", "RSA", "OKP", "oct"})
#: What makes a key a private or shared one (RFC 7518 6.2.2, 6.3.2, 6.4.1).
_SECRETS: Final = frozenset({"d", "p", "q", "dp", "dq", "qi", "oth", "k", "priv"})
_NUMBERS: Final = ("spiffe_sequence", "spiffe_refresh_hint")
_CURVES: Final = {"secp256r1": "P-256", "secp384r1": "P-384"}
_DEFECTS: Final = {
    Defect.NOT_JSON: "the bundle is not JSON, though it begins with {",
    Defect.DUPLICATE_NAME: "the bundle is damaged: a name stands twice in one object",
    Defect.NOT_AN_OBJECT: "the bundle is not a JSON object",
}


class Document(NamedTuple):
    """What a bundle says: its X.509 authorities, none if it has none, and its ``spiffe_sequence``."""

    listed: list[Listed]
    sequence: int | None


def read(text: bytes) -> Document:
    """The authorities in the order of their keys; raises :class:`BundleError`."""
    found = read_object(text)
    if isinstance(found, Defect):
        raise BundleError(BundleCode.DAMAGED_JSON, _DEFECTS[found])
    if "trust_domains" in found:
        raise BundleError(
            BundleCode.NOT_KEY_SET, "this is a SPIFFE bundle map, which holds the bundles of several domains"
        )
    keys = found.get("keys")
    if not isinstance(keys, list):
        raise BundleError(BundleCode.NOT_KEY_SET, "the bundle has no list of keys")
    for name in _NUMBERS:
        if name in found and type(found[name]) is not int:  # neither true nor 1.0
            raise BundleError(BundleCode.NOT_KEY_SET, f"{name} is not a whole number")
    named = [(f"keys[{number}]", key) for number, key in enumerate(keys)]
    chosen = [(place, key) for place, key in named if _is_authority(place, key)]
    check_count(len(chosen))
    return Document([_authority(place, key) for place, key in chosen], found.get("spiffe_sequence"))


def _is_authority(place: str, key: Any) -> bool:
    """Whether a key is to be read; whatever is in the way of saying so is an error."""
    if not isinstance(key, dict):
        raise BundleError(BundleCode.MALFORMED_KEY, f"{place} is not an object")
    if not _SECRETS.isdisjoint(key):
        raise BundleError(BundleCode.PRIVATE_KEY, f"there is a private key in {place}")
    kind = key.get("kty")
    if not isinstance(kind, str):
        raise BundleError(BundleCode.MALFORMED_KEY, f"{place} has no kty (RFC 7517 4.1)")
    return key.get("use") == _USE and kind in _TYPES


def _authority(place: str, key: dict[str, Any]) -> Listed:
    chain = key.get("x5c")
    if not isinstance(chain, list) or len(chain) != 1 or not isinstance(chain[0], str):
        raise BundleError(
            BundleCode.MALFORMED_KEY, f"{place} is an x509-svid key, and x5c is not a list of one certificate"
        )
    try:
        der = decode(chain[0].encode())
    except ValueError as error:
        raise BundleError(
            BundleCode.MALFORMED_KEY, f"the certificate in {place} is not base64 (RFC 7517 4.7)"
        ) from error
    listed = load(place, der)
    expected = _members(listed)
    if any(key.get(name, value) != value for name, value in expected.items()):
        raise BundleError(BundleCode.MALFORMED_KEY, f"the key in {place} is not that of its certificate (RFC 7517 4.7)")
    return listed


def _members(listed: Listed) -> dict[str, str]:
    """What a key says when it is that of the certificate (RFC 7518 6.2.1, 6.3.1); nothing for keys that none may have."""
    key = listed.certificate.public_key()
    if isinstance(key, rsa.RSAPublicKey):
        numbers = key.public_numbers()
        return {"kty": "RSA", "n": _base64url(numbers.n), "e": _base64url(numbers.e)}
    if isinstance(key, ec.EllipticCurvePublicKey) and key.curve.name in _CURVES:
        point, size = key.public_numbers(), key.key_size // 8
        return {
            "kty": "EC",
            "crv": _CURVES[key.curve.name],
            "x": _base64url(point.x, size),
            "y": _base64url(point.y, size),
        }
    return {}


def _base64url(number: int, size: int = 0) -> str:
    """Base64urlUInt of RFC 7518 2: big-endian, of that many bytes or as few as do."""
    data = number.to_bytes(size or (number.bit_length() + 7) // 8, "big")
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode("ascii")

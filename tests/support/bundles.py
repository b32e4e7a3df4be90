"""Trust bundles for tests, in each format that they are written in."""

from __future__ import annotations

import base64
import json
from typing import TYPE_CHECKING, Any

from cryptography.hazmat.primitives.asymmetric import ec, rsa

from tests.support.ca import der, pem

if TYPE_CHECKING:
    from collections.abc import Callable

    from cryptography import x509

_CURVES = {"secp256r1": "P-256", "secp384r1": "P-384", "secp521r1": "P-521", "secp224r1": "P-224"}


def _uint(number: int, size: int | None = None) -> str:
    data = number.to_bytes(size or (number.bit_length() + 7) // 8, "big")
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()


def jwk(certificate: x509.Certificate, **members: Any) -> dict[str, Any]:
    """The key of an authority in a SPIFFE bundle; ``members`` that are None are left out."""
    key: Any = certificate.public_key()
    found: dict[str, Any] = {"use": "x509-svid"}
    if isinstance(key, rsa.RSAPublicKey):
        found |= {"kty": "RSA", "n": _uint(key.public_numbers().n), "e": _uint(key.public_numbers().e)}
    elif isinstance(key, ec.EllipticCurvePublicKey):
        size, point = (key.key_size + 7) // 8, key.public_numbers()
        found |= {"kty": "EC", "crv": _CURVES[key.curve.name], "x": _uint(point.x, size), "y": _uint(point.y, size)}
    else:
        found |= {"kty": "OKP", "crv": "Ed25519", "x": base64.urlsafe_b64encode(key.public_bytes_raw()).decode()[:-1]}
    found["x5c"] = [base64.b64encode(der(certificate)).decode()]
    return {name: value for name, value in (found | members).items() if value is not None}


#: What bundles of SPIRE hold beside authorities for X.509.
JWT_KEY = {"kty": "EC", "use": "jwt-svid", "kid": "k", "crv": "P-256", "x": "AA", "y": "AA"}


def bundle_json(*keys: x509.Certificate | dict[str, Any], **members: Any) -> bytes:
    """A SPIFFE bundle with these keys; ``members`` stand beside them."""
    listed = [key if isinstance(key, dict) else jwk(key) for key in keys]
    return json.dumps({"keys": listed, "spiffe_sequence": 1, "spiffe_refresh_hint": 300} | members).encode()


#: Every format of a bundle, by its name.
FORMATS: dict[str, Callable[..., bytes]] = {"pem": pem, "json": bundle_json}

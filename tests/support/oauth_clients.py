"""Registrations of clients, as an authorisation server wants them (RFC 7591 2, RFC 8705 2 and 3.4).

``bound``: the server ties the client's tokens to the certificate that it asked with, and refuses it without one.
"""

from __future__ import annotations

import base64
from typing import TYPE_CHECKING, Any, TypeAlias

from cryptography.hazmat.primitives.asymmetric import ec

from tests.support.ca import der

if TYPE_CHECKING:
    from cryptography import x509

Client: TypeAlias = dict[str, Any]

#: The algorithm of a key, by its curve (RFC 7518 3.4).
ALGORITHMS = {"secp256r1": ("P-256", "ES256"), "secp384r1": ("P-384", "ES384")}


def by_uri_san(client_id: str, uri: str, *, bound: bool = True) -> Client:
    """Any certificate of the server's ``client_ca`` with that URI name: ``tls_client_auth``."""
    return _client(client_id, "tls_client_auth", bound, tls_client_auth_san_uri=uri)


def by_self_signed(client_id: str, *certificates: x509.Certificate, bound: bool = True) -> Client:
    """These certificates, whoever signed them: ``self_signed_tls_client_auth``."""
    keys = [jwk(each.public_key()) | {"x5c": [base64.b64encode(der(each)).decode()]} for each in certificates]
    return _client(client_id, "self_signed_tls_client_auth", bound, jwks={"keys": keys})


def by_key(client_id: str, *keys: object, bound: bool = False) -> Client:
    """Assertions signed by one of these (public) keys: ``private_key_jwt``."""
    return _client(client_id, "private_key_jwt", bound, jwks={"keys": [jwk(key) for key in keys]})


def by_secret(client_id: str, secret: str, *, method: str = "client_secret_basic", bound: bool = False) -> Client:
    """A secret, in the header or (``client_secret_post``) in the body."""
    return _client(client_id, method, bound, client_secret=secret)


def jwk(key: object) -> dict[str, Any]:
    """A public key on P-256 or P-384 as JWK (RFC 7518 6.2.1)."""
    assert isinstance(key, ec.EllipticCurvePublicKey)
    curve, algorithm = ALGORITHMS[key.curve.name]
    numbers, size = key.public_numbers(), key.curve.key_size // 8
    x, y = (base64url(number.to_bytes(size, "big")) for number in (numbers.x, numbers.y))
    return {"kty": "EC", "crv": curve, "x": x, "y": y, "alg": algorithm, "use": "sig"}


def base64url(data: bytes) -> str:
    """Without padding (RFC 7515 2)."""
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()


def _client(client_id: str, method: str, bound: bool, **more: Any) -> Client:
    client = {"client_id": client_id, "token_endpoint_auth_method": method}
    return client | {"tls_client_certificate_bound_access_tokens": bound} | more

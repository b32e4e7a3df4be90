"""What the tools' server reads in a token that came with a request. Their sidecar has verified it before."""

from __future__ import annotations

import base64
from typing import TYPE_CHECKING, Any

import jwt

if TYPE_CHECKING:
    from collections.abc import Sequence


def told(authorizations: Sequence[str]) -> dict[str, str]:
    """What the fields ``Authorization`` of a request say, as texts to show; never the token, nor a part of it.

    ``life`` is in seconds; ``cnf`` is the SHA-256 of a certificate, in hexadecimal (RFC 8705 3.1 has it in base64url).
    """
    if not authorizations:
        return {}
    if len(authorizations) > 1:
        return {"authorization": f"{len(authorizations)} fields"}
    scheme, _, token = authorizations[0].partition(" ")
    try:
        claims = jwt.decode(token, options={"verify_signature": False})
        return {"authorization": f"{scheme}, a token"} | _shown(claims)
    except (jwt.InvalidTokenError, LookupError, TypeError, ValueError):
        return {"authorization": "no token with the claims that are looked for"}


def _shown(claims: dict[str, Any]) -> dict[str, str]:
    # A SHA-256 in base64url lacks one character of padding.
    thumbprint = base64.urlsafe_b64decode(claims["cnf"]["x5t#S256"] + "=")
    return {
        "sub": str(claims["sub"]),
        "aud": str(claims["aud"]),
        "jti": str(claims["jti"]),
        "life": f"{claims['exp'] - claims['iat']} s",
        "cnf": thumbprint.hex(),
    }

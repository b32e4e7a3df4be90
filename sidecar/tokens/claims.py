"""What a token says, read into values: the header's rules and the claims' types, before anybody believes any of it."""

from __future__ import annotations

import math
import re
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from sidecar.tokens.codes import TokenCode, TokenError
from sidecar.tokens.jws import decode
from sidecar.tokens.requirement import Verified

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping

#: Header parameters that would bring the key along, or say where to fetch it (RFC 7515 4.1.2, 4.1.3, 4.1.5).
_KEYS_WITHIN: Final = ("jwk", "jku", "x5u")
#: What a ``kid`` may be: no path, no query, nothing that a shell or a database reads (RFC 8725 3.10).
_KID: Final = re.compile(r"(?!.*\.\.)[A-Za-z0-9._~:+=@-]{1,256}")
#: The longest value of ``iss``, ``sub`` and ``jti``: they go into the log.
_TEXT: Final = 1024
#: The thumbprint of a certificate, SHA-256 (RFC 8705 3.1).
THUMBPRINT: Final = "x5t#S256"
_DIGEST_BYTES: Final = 32


class Header(NamedTuple):
    """The parameters that mean something to us."""

    algorithm: str
    key_id: str | None


def read_header(header: Mapping[str, Any], *, algorithms: Collection[str], typ: str | None) -> Header:
    """Holds a header to what its issuer is configured for; ``typ`` None: it has none. Raises TokenError."""
    algorithm = header.get("alg")
    if not isinstance(algorithm, str) or algorithm not in algorithms:
        raise TokenError(TokenCode.ALGORITHM, "the token's alg is not one that its issuer is configured for")
    # RFC 7515 4.1.11: we understand no extension, so whatever crit names must not be ignored; b64 (RFC 7797) would say
    # that the payload is another than the one we read.
    if "crit" in header or "b64" in header:
        raise TokenError(TokenCode.CRITICAL, "the token has a crit or b64 header, and no extension is understood")
    if any(name in header for name in _KEYS_WITHIN):
        raise TokenError(TokenCode.EMBEDDED_KEY, "the token brings a key along, or a place to fetch one from")
    kid = header.get("kid")
    if "kid" in header and (not isinstance(kid, str) or _KID.fullmatch(kid) is None):
        raise TokenError(TokenCode.KEY_ID, "the token's kid is not the plain name of a key")
    _check_type(header, typ)
    return Header(algorithm, kid)


def read_claims(claims: Mapping[str, Any]) -> Verified:
    """Reads the claims that a decision may need. Raises TokenError where one is missing or of the wrong type.

    The result means nothing before the signature was checked.
    """
    issued, expires = _time(claims, "iat"), _time(claims, "exp")
    return Verified(
        issuer=_text(claims, "iss", TokenCode.ISSUER) or "",
        subject=_text(claims, "sub", TokenCode.SUBJECT),
        id=_text(claims, "jti", TokenCode.CLAIM, required=False),
        audience=_audience(claims.get("aud")),
        scopes=_scopes(claims),
        issued=issued,
        expires=expires,
        not_before=_time(claims, "nbf") if "nbf" in claims else issued,
        bound_to=_confirmation(claims["cnf"]) if "cnf" in claims else None,
        key_id=None,
        claims=claims,
    )


def _check_type(header: Mapping[str, Any], wanted: str | None) -> None:
    if wanted is None:
        if "typ" in header:
            raise TokenError(TokenCode.TYPE, "the token has a typ, and those of its issuer have none")
        return
    found = header.get("typ")
    if not isinstance(found, str) or not found.isascii() or _subtype(found) != _subtype(wanted):
        raise TokenError(TokenCode.TYPE, f"the token's typ is not {wanted}")


def _subtype(media_type: str) -> str:
    """RFC 7515 4.1.9: a media type, compared without regard to case, whose "application/" may be left out."""
    return media_type.lower().removeprefix("application/")


def _text(claims: Mapping[str, Any], name: str, code: TokenCode, *, required: bool = True) -> str | None:
    value = claims.get(name)
    if value is None and not required and name not in claims:
        return None
    if not isinstance(value, str) or not 0 < len(value) <= _TEXT:
        raise TokenError(code, f"the token's {name} is not a string of 1 to {_TEXT} characters")
    return value


def _time(claims: Mapping[str, Any], name: str) -> float:
    value = claims.get(name)
    # RFC 7519 2: NumericDate. True is a number to Python.
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value < 2**53 or math.isnan(value):
        raise TokenError(TokenCode.CLAIM, f"the token's {name} is not a time")
    return float(value)


def _audience(value: object) -> str:
    """RFC 7519 4.1.3: a string, or an array; one of several elements says that others may use the token as well."""
    if isinstance(value, list) and len(value) == 1:
        value = value[0]
    if not isinstance(value, str) or not value:
        raise TokenError(TokenCode.AUDIENCE, "the token's aud is not one audience")
    return value


def _scopes(claims: Mapping[str, Any]) -> frozenset[str]:
    """RFC 8693 4.2: one string with blanks; some issuers write ``scp``, and a list."""
    value = claims.get("scope", claims.get("scp", ""))
    names = value if isinstance(value, list) else value.split(" ") if isinstance(value, str) else [None]
    if not all(isinstance(name, str) for name in names):
        raise TokenError(TokenCode.CLAIM, "the token's scope is neither a string nor a list of strings")
    return frozenset(filter(None, names))


def _confirmation(value: object) -> bytes:
    """The certificate that the token is bound to. Any other binding cannot be checked here, so nobody may use it."""
    if not isinstance(value, dict) or set(value) != {THUMBPRINT} or not isinstance(value[THUMBPRINT], str):
        raise TokenError(TokenCode.NOT_BOUND, "the token is bound to something else than a certificate")
    digest = decode(value[THUMBPRINT].encode())
    if digest is None or len(digest) != _DIGEST_BYTES:
        raise TokenError(TokenCode.NOT_BOUND, "the token's cnf holds no SHA-256 of a certificate")
    return digest

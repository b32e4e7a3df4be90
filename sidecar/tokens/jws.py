"""A compact JWS (RFC 7515 7.1) that holds a JSON Web Token, taken apart strictly; nothing here believes what it says.

Where two readers could see two tokens in the same bytes there is none: base64url that is not canonical, a name that
stands twice at any level (RFC 7519 4 lets a parser keep the last one), text that is no UTF-8.
"""

from __future__ import annotations

import base64
import re
from dataclasses import dataclass, field
from typing import Any, Final

from sidecar.identity.strict_json import Defect, read_object
from sidecar.tokens.codes import TokenCode, TokenError
from sidecar.tokens.token import MAX_BYTES

_COMPACT: Final = re.compile(rb"([A-Za-z0-9_-]+)\.([A-Za-z0-9_-]+)\.([A-Za-z0-9_-]*)")
#: RFC 6750 2.1, but that we take no other blank than the one (RFC 9110 11.4: scheme 1*SP token68).
_BEARER: Final = re.compile(rb"bearer ([!-~]+)", re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class Jws:
    """The parts of a token. ``signed`` is what the signature is over: header and payload as they were written."""

    header: dict[str, Any] = field(repr=False)
    claims: dict[str, Any] = field(repr=False)
    signed: bytes = field(repr=False)
    signature: bytes = field(repr=False)


def bearer(authorization: bytes | None) -> bytes | None:
    """Returns the token in the value of an ``Authorization`` field; None where it is of another scheme, or none."""
    found = None if authorization is None else _BEARER.fullmatch(authorization)
    return None if found is None else found[1]


def parse(token: bytes) -> Jws:
    """Takes a token apart. Raises TokenError: TOO_LONG, MALFORMED, DUPLICATE_NAME, and ALGORITHM for one unsigned."""
    if len(token) > MAX_BYTES:
        raise TokenError(TokenCode.TOO_LONG, f"the token is longer than {MAX_BYTES} bytes")
    parts = _COMPACT.fullmatch(token)
    if parts is None:
        raise TokenError(TokenCode.MALFORMED, "the token is no compact JWS")
    header, claims = _object(_decode(parts[1])), _object(_decode(parts[2]))
    if not parts[3]:
        raise TokenError(TokenCode.ALGORITHM, "the token has no signature")
    return Jws(header, claims, token[: parts.end(2)], _decode(parts[3]))


def encode(data: bytes) -> str:
    """Returns base64url without padding (RFC 7515 2)."""
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode("ascii")


def decode(text: bytes) -> bytes | None:
    """Reads canonical base64url without padding; None for anything else."""
    try:
        data = base64.urlsafe_b64decode(text + b"=" * (-len(text) % 4))
    except ValueError:
        return None
    # Python skips what is not of the alphabet, and ignores bits that would have to be zero.
    return data if base64.urlsafe_b64encode(data).rstrip(b"=") == text else None


def _decode(part: bytes) -> bytes:
    data = decode(part)
    if data is None:
        raise TokenError(TokenCode.MALFORMED, "a part of the token is no canonical base64url")
    return data


def _object(data: bytes) -> dict[str, Any]:
    found = read_object(data)
    if found is Defect.DUPLICATE_NAME:
        raise TokenError(TokenCode.DUPLICATE_NAME, "a name stands twice in the token")
    if isinstance(found, Defect):
        raise TokenError(TokenCode.MALFORMED, "a part of the token is no JSON object")
    return found

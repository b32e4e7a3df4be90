"""What a token that we were given says about itself. Nobody checked its signature: it is used against it alone.

It can make us keep a token for a shorter time, or not use it at all, and nothing else.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from sidecar.tokens import jws
from sidecar.tokens.codes import SourceCode, SourceError, TokenCode, TokenError

if TYPE_CHECKING:
    from collections.abc import Mapping

#: The year 9999: a later time is a mistake (milliseconds, most often), and would not fit everywhere.
_LATEST: Final = 253_402_300_800


def claims(value: str) -> Mapping[str, Any] | None:
    """Returns the claims of a JWT (RFC 7519), None for a token that is none and is opaque to us.

    Raises SourceError (BAD_TOKEN) for a JWT that two readers could read differently, or that nobody signed.
    """
    try:
        return jws.parse(value.encode("ascii")).claims
    except TokenError as error:
        if error.code is TokenCode.MALFORMED:
            return None
        raise SourceError(SourceCode.BAD_TOKEN, f"the token is no good JWT ({error.code})") from None


def expiry(said: Mapping[str, Any] | None) -> float | None:
    """Returns ``exp`` (RFC 7519 4.1.4) in seconds since the epoch, None where there is none.

    Raises SourceError (BAD_TOKEN) where it is no time.
    """
    value = None if said is None else said.get("exp")
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 < value < _LATEST:
        raise SourceError(SourceCode.BAD_TOKEN, "the token's `exp` is no time in seconds (RFC 7519 4.1.4)")
    return float(value)


def confirmation(said: Mapping[str, Any] | None) -> str | None:
    """Returns the certificate's hash that a token names as ``cnf`` ``x5t#S256`` (RFC 8705 3.1), as it is written there.

    None where it names no certificate; "" where what stands there is no text, and so the hash of none.
    """
    cnf = None if said is None else said.get("cnf")
    if not isinstance(cnf, dict) or "x5t#S256" not in cnf:
        return None
    named = cnf["x5t#S256"]
    return named if isinstance(named, str) else ""

"""What a caller is told whose request lacks nothing but a token: RFC 6750 3, and not a word more."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from sidecar.policy.decision import FORBIDDEN, UNAUTHORIZED
from sidecar.tokens.codes import TokenCode

if TYPE_CHECKING:
    from sidecar.policy.decision import Denial

# RFC 6750 3: the scheme is followed by at least one parameter, and without a token by no error code.
_NO_TOKEN: Final = b'WWW-Authenticate: Bearer realm="sidecar"\r\n'
_INVALID: Final = b'WWW-Authenticate: Bearer realm="sidecar", error="invalid_token"\r\n'
_SCOPE: Final = b'WWW-Authenticate: Bearer realm="sidecar", error="insufficient_scope"\r\n'


def challenge(denial: Denial) -> bytes:
    """Returns the field line of a denial's answer; empty where the answer has none."""
    if denial.refused is None:
        return b""
    if denial.status == FORBIDDEN:
        return _SCOPE
    if denial.status != UNAUTHORIZED:
        return b""
    return _NO_TOKEN if denial.reason is TokenCode.MISSING else _INVALID

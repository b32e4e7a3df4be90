"""A token that we were given, on its way to one upstream."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Final

from sidecar.tokens.codes import SourceCode, SourceError

#: Longer than any token of a kind that is served; RFC 6750 names no bound, heads commonly have 8 to 16 KiB.
MAX_BYTES: Final = 8 * 1024
#: Visible ASCII: no CR, LF or NUL, with which a value could become two fields, and no blank, which no token has
#: (RFC 6750 2.1, RFC 9110 11.2).
_VISIBLE: Final = re.compile(r"[!-~]+")


class Binding(StrEnum):
    """What keeps a token from being used by somebody else; part of the output, never renamed."""

    #: To a certificate whose key is in a TPM or an HSM (RFC 8705 3).
    HARDWARE = "hardware"
    #: To a certificate whose key is in a file.
    BOUND = "bound"
    #: Nothing, as far as can be seen: whoever has it may use it, until it expires.
    BEARER = "bearer"
    #: Nothing, and it does not say when it expires.
    STATIC = "static"


@dataclass(frozen=True, slots=True)
class Token:
    """``value`` is what goes into the field, visible ASCII; it never appears in ``repr``.

    ``expires`` is in seconds since the epoch, None where nothing says when. ``lifetime`` is how long it lives from when it
    was obtained, in seconds, by whatever is shorter of what the answer and the token say; None likewise. ``bound``: it
    names our certificate's SHA-256 in ``cnf`` (RFC 8705 3.1).
    """

    value: str = field(repr=False)
    expires: float | None = None
    lifetime: float | None = None
    bound: bool = False


def checked(value: str) -> str:
    """Returns a token's value, or raises SourceError (BAD_TOKEN) for one that no header field may hold."""
    if not value or len(value) > MAX_BYTES or _VISIBLE.fullmatch(value) is None:
        raise SourceError(
            SourceCode.BAD_TOKEN,
            f"the token is not 1 to {MAX_BYTES} visible ASCII characters",
            hint="a token is one word: no blanks, no line breaks",
        )
    return value

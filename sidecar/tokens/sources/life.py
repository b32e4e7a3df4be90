"""How long a token is good for: the shortest of what everybody says, and never longer than the configuration lets it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from sidecar.tokens.codes import SourceCode, SourceError
from sidecar.tokens.token import Token

if TYPE_CHECKING:
    from collections.abc import Iterable


def token_of(
    value: str,
    *,
    now: float,
    until: Iterable[float | None],
    most: float,
    within: float | None = None,
    bound: bool = False,
    hint: str = "",
) -> Token:
    """Makes a token of a checked value.

    ``until``: the times at which it ends, by whoever says so; ``within``: the seconds after which it does, likewise;
    ``most``: the seconds that it is kept at most. Where nobody says when it ends it has no lifetime (`Token`). Raises
    SourceError (EXPIRED) where it has ended; ``hint`` is for that.
    """
    left = [time - now for time in until if time is not None]
    if within is not None:
        left.append(within)
    if not left:
        return Token(value, bound=bound)
    lifetime = float(min(*left, most))
    if lifetime <= 0:
        raise SourceError(SourceCode.EXPIRED, f"the token expired {-lifetime:.0f} s ago", hint=hint)
    return Token(value, expires=now + lifetime, lifetime=lifetime, bound=bound)

"""A token as it goes along with requests: its field line, made once, and how long it is good for."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from sidecar.tokens.token import Token


@dataclass(frozen=True, slots=True)
class Field:
    """The field that a token is put in: its name as it is written, and the scheme before the token, or none."""

    name: bytes = b"Authorization"
    scheme: bytes = b"Bearer"

    def line(self, token: Token) -> bytes:
        """Returns the field line, with its CRLF."""
        value = token.value.encode("ascii")
        return b"%b: %b %b\r\n" % (self.name, self.scheme, value) if self.scheme else b"%b: %b\r\n" % (self.name, value)


@dataclass(frozen=True, slots=True, eq=False)
class Credential:
    """A token with its line. Monotonic times: from ``refresh`` on a newer one is fetched, from ``until`` on it is dead."""

    token: Token = field(repr=False)
    line: bytes = field(repr=False)
    obtained: float
    refresh: float
    until: float

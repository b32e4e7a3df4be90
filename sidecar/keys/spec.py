"""What ``identity.key`` says: where the private key is, never the key itself."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING

from sidecar.keys.errors import KeyCode, PrivateKeyError

if TYPE_CHECKING:
    from pathlib import Path

#: The shape of a URI scheme (RFC 3986 3.1). One letter is taken for a path, as a courtesy to short folder names.
_SCHEME = re.compile(r"([A-Za-z][A-Za-z0-9+.-]+):")


@dataclass(frozen=True, slots=True)
class KeyFile:
    """A private key in a PEM file; ``path`` is absolute."""

    path: Path

    def __str__(self) -> str:
        """Returns the path."""
        return str(self.path)


#: Every kind of place a key can be in. Hardware adds its own.
KeySpec = KeyFile


def scheme(text: str) -> str | None:
    """Returns the lower-case scheme that ``text`` begins with, None for a plain path."""
    match = _SCHEME.match(text)
    return match[1].lower() if match else None


def parse(text: str, base: Path) -> KeySpec:
    """Parses a key's place; relative paths start at ``base``. Raises PrivateKeyError for a scheme, which no path has."""
    kind = scheme(text)
    if kind is not None:
        raise PrivateKeyError(
            KeyCode.UNKNOWN_KIND,
            f"{kind}: is not a kind of key",
            hint="name the path of a PEM file; write ./ before a path that begins like a scheme",
        )
    return KeyFile(base / text)

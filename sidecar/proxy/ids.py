"""Identifiers that cannot be guessed, made in batches: one system call serves hundreds of requests."""

from __future__ import annotations

import os

#: 128 bits, as W3C trace ids and UUIDs have.
ID_BYTES = 16
BATCH = 256


class Ids:
    """Gives 32 lower-case hex digits at a time."""

    def __init__(self) -> None:
        self._digits = ""
        self._at = 0

    def pair(self) -> tuple[str, str]:
        """Returns two fresh identifiers, in one step."""
        at = self._at
        end = at + 4 * ID_BYTES
        if end > len(self._digits):
            return self.next(), self.next()
        self._at = end
        return self._digits[at : at + 2 * ID_BYTES], self._digits[at + 2 * ID_BYTES : end]

    def next(self) -> str:
        """Returns a fresh identifier."""
        at = self._at
        if at >= len(self._digits):
            self._digits = os.urandom(ID_BYTES * BATCH).hex()
            at = 0
        self._at = at + 2 * ID_BYTES
        return self._digits[at : self._at]

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

    def next(self) -> str:
        """Returns a fresh identifier."""
        at = self._at
        if at >= len(self._digits):
            self._digits = os.urandom(ID_BYTES * BATCH).hex()
            at = 0
        self._at = at + 2 * ID_BYTES
        return self._digits[at : self._at]

"""Base64 with one verdict on every Python: the standard library's decoder forgives other things in each version."""

from __future__ import annotations

import base64
import re
from typing import Final

_GRAMMAR: Final = re.compile(rb"(?:[A-Za-z0-9+/]{4})*(?:[A-Za-z0-9+/]{2}==|[A-Za-z0-9+/]{3}=)?")


def decode(text: bytes) -> bytes:
    """The bytes of padded base64 by RFC 4648 section 4, without blanks or line ends; raises ValueError.

    Bits after the last byte are let pass, as PEM's own writers have been seen to leave some.
    """
    if not _GRAMMAR.fullmatch(text):
        raise ValueError("not padded base64")
    return base64.b64decode(text)

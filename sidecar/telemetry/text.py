"""Any text, also a hostile one, as a JSON string of printable ASCII and bounded length."""

from __future__ import annotations

from json.encoder import encode_basestring_ascii

#: Longest text of one field, in bytes as received. What is longer is cut and marked with how much is missing.
TEXT_LIMIT = 2048


def quoted(text: str | bytes) -> str:
    r"""Returns a JSON string with its quotes: ASCII only, so neither control characters nor line separators stand in it.

    Bytes are read as UTF-8; a byte that is not (and a lone surrogate) becomes ``\xNN`` (``\udcNN``) in the text, since a
    lone surrogate in JSON stops many readers. A text that was cut ends in ``…(+N bytes)`` or ``…(+N characters)``.
    """
    missing = len(text) - TEXT_LIMIT
    if missing > 0:
        return _cut(text, missing)
    if isinstance(text, bytes):
        return encode_basestring_ascii(text.decode("utf-8", "backslashreplace"))
    if not text.isascii():
        text = text.encode("utf-8", "backslashreplace").decode("utf-8")
    return encode_basestring_ascii(text)


def _cut(text: str | bytes, missing: int) -> str:
    unit = "bytes" if isinstance(text, bytes) else "characters"
    return f'{quoted(text[:TEXT_LIMIT])[:-1]}\\u2026(+{missing} {unit})"'

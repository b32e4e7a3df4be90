"""Reads the server name out of a ClientHello, for logs only.

It decides nothing. OpenSSL can report the name by a callback, but Python's wrapper of it aborts the handshake and writes
a traceback to stderr where the name is not ASCII, and any stranger can send such a name.
"""

from __future__ import annotations

#: A ClientHello is looked at up to this many bytes; post-quantum key shares make it about 2 KiB.
HELLO_BYTES = 16 * 1024

_HANDSHAKE_RECORD = 22
_CLIENT_HELLO = 1
_SERVER_NAME = 0
_HOST_NAME = 0


class _Short(Exception):  # noqa: N818 - never leaves this file
    """The bytes end before the field does."""


class _Cursor:
    """Takes length-prefixed fields off the front of some bytes."""

    __slots__ = ("_data", "_position")

    def __init__(self, data: bytes) -> None:
        self._data = data
        self._position = 0

    def __bool__(self) -> bool:
        return self._position < len(self._data)

    def take(self, size: int) -> bytes:
        end = self._position + size
        if end > len(self._data):
            raise _Short
        taken = self._data[self._position : end]
        self._position = end
        return taken

    def number(self, size: int) -> int:
        return int.from_bytes(self.take(size), "big")

    def vector(self, size: int) -> bytes:
        """Takes a field whose length stands before it in ``size`` bytes."""
        return self.take(self.number(size))


def server_name(data: bytes) -> str | None:
    """Returns the host_name (RFC 6066 3) of the ClientHello (RFC 8446 4.1.2) that ``data`` starts with.

    None where there is none, or where the bytes are something else. What is not printable ASCII comes out escaped, in at
    most four characters a byte. Never raises.
    """
    try:
        return _name_in_extensions(_extensions(_hello(_Cursor(data))))
    except _Short:
        return None


def _hello(records: _Cursor) -> _Cursor:
    """Returns the body of the first handshake message, which may be spread over records (RFC 8446 5.1)."""
    message = b""
    while len(message) < 4 or len(message) < 4 + int.from_bytes(message[1:4], "big"):
        if records.number(1) != _HANDSHAKE_RECORD:
            raise _Short
        records.take(2)  # legacy_record_version
        message += records.vector(2)
    if message[0] != _CLIENT_HELLO:
        raise _Short
    return _Cursor(_Cursor(message[1:]).vector(3))


def _extensions(hello: _Cursor) -> _Cursor:
    hello.take(2 + 32)  # legacy_version, random
    hello.vector(1)  # legacy_session_id
    hello.vector(2)  # cipher_suites
    hello.vector(1)  # legacy_compression_methods
    return _Cursor(hello.vector(2))


def _name_in_extensions(extensions: _Cursor) -> str | None:
    while extensions:
        kind, body = extensions.number(2), extensions.vector(2)
        if kind != _SERVER_NAME:
            continue
        names = _Cursor(_Cursor(body).vector(2))
        if names.number(1) != _HOST_NAME:
            return None
        return "".join(chr(c) if 0x20 < c < 0x7F else f"\\x{c:02x}" for c in names.vector(2))
    return None

"""The name that a client begins TLS for, where that decides: read strictly, or not at all.

`sidecar.tls.hello` reads the same bytes for the log and takes what it finds. Here two readers could come to differ over
what is unusual, and the other one is the server, so whatever is unusual is refused: a second name, a second extension of
a kind, a length that does not add up.

An encrypted ClientHello (RFC 9849) has its true name inside; the outer one, which is compared here, is that of the
server that opens it. So where the outer name is the right one, that server decides about the inner.
"""

from __future__ import annotations

from enum import StrEnum
from typing import Final

from sidecar.errors import PeerError

#: Bytes of records that a ClientHello may take. Post-quantum key shares make one about 2 KiB, tickets add to that.
HELLO_BYTES: Final = 20 * 1024

_HANDSHAKE_RECORD: Final = 22
_RECORD_BYTES: Final = 2**14
_CLIENT_HELLO: Final = 1
_SERVER_NAME: Final = 0
_HOST_NAME: Final = 0


class HelloCode(StrEnum):
    """Why bytes are no ClientHello for that host."""

    NOT_TLS = "hello_not_tls"
    TOO_LARGE = "hello_too_large"
    MALFORMED = "hello_malformed"
    NAME = "sni_mismatch"


class HelloError(PeerError):
    """These bytes begin no TLS connection to the host that is meant."""

    def __init__(self, code: HelloCode, message: str) -> None:
        super().__init__(code, message)
        self.code: HelloCode = code


class _Fields:
    """Takes length-prefixed fields off the front of bytes that are complete."""

    __slots__ = ("_data", "_position")

    def __init__(self, data: bytes) -> None:
        self._data = data
        self._position = 0

    @property
    def rest(self) -> int:
        return len(self._data) - self._position

    def take(self, size: int) -> bytes:
        if size > self.rest:
            raise HelloError(HelloCode.MALFORMED, "a length in the ClientHello leads beyond its end")
        taken = self._data[self._position : self._position + size]
        self._position += size
        return taken

    def number(self, size: int) -> int:
        return int.from_bytes(self.take(size), "big")

    def vector(self, size: int) -> bytes:
        return self.take(self.number(size))

    def end(self) -> None:
        if self.rest:
            raise HelloError(HelloCode.MALFORMED, "there is something behind the end of a part of the ClientHello")


class ClientHello:
    """One that arrives piece by piece, from a client that may choose the pieces: every byte is looked at once."""

    __slots__ = ("_left", "_message", "_rest", "_size")

    def __init__(self) -> None:
        self._size = 0  # of all bytes so far
        self._rest = bytearray()  # those that were not taken out of their records yet
        self._left = 0  # how much of a record is still to come
        self._message = bytearray()

    def begins_for(self, host: str, data: bytes) -> bool:
        """Takes what comes next; says whether a whole ClientHello for ``host`` is there, False: more is needed.

        ``host`` is a DNS name in lower case. Raises HelloError as soon as that cannot be.
        """
        name = self.feed(data)
        if name is not None and name != host:
            raise HelloError(HelloCode.NAME, f"the ClientHello is for another host than {host}")
        return name is not None

    def feed(self, data: bytes) -> str | None:
        """Takes what comes next; returns the host_name (RFC 6066 3) of a ClientHello (RFC 8446 4.1.2), in lower case.

        None while more bytes are needed, at most `HELLO_BYTES` in all. Raises HelloError as soon as they can become none.
        """
        self._size += len(data)
        self._rest += data
        message = self._take_records()
        if message is not None:
            return _read(message)
        if self._size >= HELLO_BYTES:
            raise HelloError(HelloCode.TOO_LARGE, f"the ClientHello does not end within {HELLO_BYTES} bytes")
        return None

    def _take_records(self) -> bytes | None:
        """Returns the body of the ClientHello, which may be spread over records (RFC 8446 5.1); None where it is not all here."""
        rest, message = self._rest, self._message
        while self._left or self._take_header():
            piece = rest[: self._left]
            if not piece:
                return None
            del rest[: len(piece)]
            self._left -= len(piece)
            message += piece
            if message[0] != _CLIENT_HELLO:
                raise HelloError(HelloCode.NOT_TLS, "the TLS handshake does not begin with a ClientHello")
            if len(message) >= 4:
                wanted = int.from_bytes(message[1:4], "big")
                if wanted > HELLO_BYTES:
                    raise HelloError(HelloCode.TOO_LARGE, f"a ClientHello of {wanted} bytes")
                if len(message) >= 4 + wanted:
                    return bytes(message[4 : 4 + wanted])
        return None

    def _take_header(self) -> bool:
        """Takes the header of the next record; says whether it was all there."""
        header = bytes(self._rest[:5])
        if header[:1] not in {b"", bytes((_HANDSHAKE_RECORD,))} or header[1:2] not in {b"", b"\3"}:
            raise HelloError(HelloCode.NOT_TLS, "this is no TLS handshake")
        if len(header) < 5:
            return False
        self._left = int.from_bytes(header[3:5], "big")
        if not 0 < self._left <= _RECORD_BYTES:
            raise HelloError(HelloCode.MALFORMED, "a TLS record of that size is none")
        del self._rest[:5]
        return True


def _read(message: bytes) -> str:
    """Returns the name in the body of a ClientHello."""
    hello = _Fields(message)
    hello.take(2 + 32)  # legacy_version, random
    hello.vector(1)  # legacy_session_id
    hello.vector(2)  # cipher_suites
    hello.vector(1)  # legacy_compression_methods
    extensions = _Fields(hello.vector(2)) if hello.rest else _Fields(b"")
    hello.end()
    return _name(extensions)


def _name(extensions: _Fields) -> str:
    found: bytes | None = None
    seen: set[int] = set()
    while extensions.rest:
        kind, body = extensions.number(2), extensions.vector(2)
        if kind in seen:  # RFC 8446 4.2: at most one of each
            raise HelloError(HelloCode.MALFORMED, "the ClientHello has an extension twice")
        seen.add(kind)
        if kind == _SERVER_NAME:
            found = _only_name(body)
    if not found:
        raise HelloError(HelloCode.NAME, "the ClientHello does not say for which host it is (no SNI)")
    try:
        return found.decode("ascii").lower()
    except UnicodeDecodeError:
        raise HelloError(HelloCode.MALFORMED, "the server name in the ClientHello is not ASCII") from None


def _only_name(body: bytes) -> bytes:
    """Returns the one name in the extension: RFC 6066 3 allows one of each kind, and there is only one kind."""
    extension = _Fields(body)
    names = _Fields(extension.vector(2))
    extension.end()
    if names.number(1) != _HOST_NAME:
        raise HelloError(HelloCode.NAME, "the ClientHello names its host in a way that nobody knows")
    name = names.vector(2)
    names.end()
    return name

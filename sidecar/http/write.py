"""Messages as bytes. What is written is always HTTP/1.1 and always written anew; nothing is passed on as received.

A field block is any number of ``Name: value CRLF`` lines, without the empty line; ``fields`` makes them.
"""

from __future__ import annotations

from http import HTTPStatus
from typing import Final

CONTINUE: Final = b"HTTP/1.1 100 Continue\r\n\r\n"
"""The interim response that lets a client with ``Expect: 100-continue`` go on (RFC 9110 section 10.1.1)."""

ESTABLISHED: Final = b"HTTP/1.1 200 Connection established\r\n\r\n"
"""The answer to a CONNECT, which has no length and no body (RFC 9110 section 9.3.6)."""

LAST_CHUNK: Final = b"0\r\n\r\n"
"""The end of a chunked body without trailers (RFC 9112 section 7.1)."""

REASONS: Final[dict[int, bytes]] = {status.value: status.phrase.encode("ascii") for status in HTTPStatus}
"""Reason phrases of the registered statuses."""


def chunk(data: bytes) -> bytes:
    """Data, which must not be empty, as one chunk: an empty one would end the body."""
    return b"%x\r\n%b\r\n" % (len(data), data)


def last_chunk(trailers: bytes = b"") -> bytes:
    """The end of a chunked body with a block of trailer fields."""
    return b"0\r\n%b\r\n" % trailers


def error_response(
    status: int,
    body: bytes = b"",
    content_type: bytes = b"application/json",
    *,
    close: bool = True,
    head_only: bool = False,
    extra: bytes = b"",
) -> bytes:
    """A whole response of our own, head and body.

    ``close`` tells the client that the connection ends after it; ``head_only`` leaves the body out, as an answer to HEAD
    needs it; ``extra`` is a field block, for example ``Allow`` with 405.
    """
    head = b"HTTP/1.1 %d %b\r\nContent-Length: %d\r\n" % (status, REASONS.get(status, b""), len(body))
    kind = b"Content-Type: %b\r\n" % content_type if body else b""
    ending = b"Connection: close\r\n" if close else b""
    return b"%b%b%b%b\r\n%b" % (head, kind, extra, ending, b"" if head_only else body)

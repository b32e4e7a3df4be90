"""The two libraries that delimit chunked bodies, behind one interface, chosen from a table.

Either gets only what the guard in ``chunked`` has accepted: whole chunk-size lines without extensions, data, the CRLF
after the data, and at the very end the last chunk without trailers. So nothing in which the two differ reaches them, and
a third parser is one more function and one more line in ``BODY_PARSERS``.

Both want a message around the body, so each gets a head of ours first.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final, Protocol

try:
    import httptools
except ImportError:  # only CPython has wheels of it
    httptools = None  # type: ignore[assignment]  # the usual idiom; each use below is behind a test for it

_HEAD: Final = b"POST / HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\n"


class BodyParser(Protocol):
    """Delimits one chunked body."""

    done: bool
    """Whether the end of the body was seen."""

    def feed(self, run: bytes | memoryview) -> list[bytes]:
        """The data in a run of accepted bytes, in order; raises whatever it likes when it disagrees."""


ParserFactory = Callable[[], BodyParser]


class _Events:
    """What httptools calls back. It does not know its parser: no reference cycle keeps either alive."""

    __slots__ = ("done", "on_body", "pieces")

    def __init__(self) -> None:
        self.done = False
        self.pieces: list[bytes] = []
        self.on_body = self.pieces.append

    def on_message_complete(self) -> None:
        self.done = True


class HttptoolsParser:
    """llhttp, by way of httptools."""

    __slots__ = ("_events", "_parser", "done")

    def __init__(self) -> None:
        self.done = False
        self._events = _Events()
        self._parser = httptools.HttpRequestParser(self._events)
        self._parser.feed_data(_HEAD)

    def feed(self, run: bytes | memoryview) -> list[bytes]:
        """See :class:`BodyParser`; raises ``httptools.HttpParserError``."""
        self._parser.feed_data(run)
        events = self._events
        self.done = events.done
        pieces = events.pieces.copy()
        events.pieces.clear()
        return pieces


class H11Parser:
    """h11, through its public interface, as the server that receives a request."""

    __slots__ = ("_connection", "_h11", "done")

    def __init__(self) -> None:
        import h11  # noqa: PLC0415 - a megabyte, for those who have no httptools

        self._h11 = h11
        self.done = False
        self._connection = h11.Connection(h11.SERVER)
        self._connection.receive_data(_HEAD)
        self._connection.next_event()

    def feed(self, run: bytes | memoryview) -> list[bytes]:
        """See :class:`BodyParser`; raises ``h11.RemoteProtocolError``."""
        connection = self._connection
        connection.receive_data(bytes(run))
        pieces: list[bytes] = []
        while isinstance(event := connection.next_event(), self._h11.Data):
            pieces.append(bytes(event.data))
        self.done = isinstance(event, self._h11.EndOfMessage)
        return pieces


BODY_PARSERS: Final[dict[str, ParserFactory]] = {"h11": H11Parser}
if httptools is not None:
    BODY_PARSERS["httptools"] = HttptoolsParser


def best_parser() -> ParserFactory:
    """The fastest parser that is installed."""
    return BODY_PARSERS.get("httptools", H11Parser)

"""Chunked bodies (RFC 9112 section 7.1): our own guard first, then a library.

The guard decides. It follows the coding byte by byte in meaning, though not in code: a chunk-size line is 1 to 16
hexadecimal digits and then CRLF, or ``;`` and extensions, which are bounded, looked at for bytes that may not be there,
and dropped; data is followed by exactly CRLF; trailers are fields under the rules and bounds of a head's. What it has
accepted goes to a body parser, which delimits it once more, and both must agree on the bytes and on the end. So the
verdict and its code are the same whichever library is installed, and nothing goes on that only one of two readers saw.

Nothing is held but up to 16 digits and the trailers: data leaves with the call that brought it.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Final

from sidecar.http.errors import HttpCode, HttpError
from sidecar.http.grammar import END_OF_HEAD, VALUE_CHAR
from sidecar.http.scanner import scan_trailers
from sidecar.http.watch import Watch, WatchRules, control_defect

if TYPE_CHECKING:
    from collections.abc import Callable

    from sidecar.http.limits import HttpLimits
    from sidecar.http.messages import Field
    from sidecar.http.parsers import ParserFactory

# From the end of one chunk's data to the beginning of the next one's, as nearly everybody sends it.
_NEXT: Final = re.compile(rb"\r\n([0-9A-Fa-f]{1,16}+)\r\n")
_LINE: Final = re.compile(rb"([0-9A-Fa-f]{1,16}+)\r\n")
_DIGITS: Final = re.compile(rb"[0-9A-Fa-f]*+")
_EXTENSION: Final = re.compile(VALUE_CHAR + rb"*+")

_CR, _LF, _SEMICOLON = 0x0D, 0x0A, 0x3B


class ChunkedReader:
    """Reads one chunked body; see :class:`~sidecar.http.bodies.BodyReader`.

    ``_step`` is the state: the function that reads what comes next. Each takes the data and a position, reads what is its
    own, and returns the position after it; it is never called at the end of the data. They are kept unbound: a bound one
    would make of every body a reference cycle, and work for the garbage collector.
    """

    __slots__ = (
        "_counted", "_digits", "_extension", "_left", "_limits", "_mark", "_parser", "_pieces", "_step", "_tail", "_watch",
        "defect", "done", "trailers",
    )  # fmt: skip

    def __init__(self, limits: HttpLimits, parser: ParserFactory) -> None:
        self.done = False
        self.trailers: list[Field] = []
        self.defect: tuple[HttpCode, str] | None = None
        self._limits = limits
        self._parser = parser()
        self._step: Callable[[ChunkedReader, bytes, int], int] = ChunkedReader._read_size
        self._left = 0  # data bytes of the current chunk still to come
        self._digits = b""  # of an unfinished chunk-size line
        self._extension = 0  # bytes of its extensions
        self._mark = 0  # from here to the position everything is accepted and not yet given to the parser
        self._pieces: list[bytes] = []  # what the parser gave in this call
        self._counted = 0  # and what it should have given
        self._tail = bytearray()
        self._watch: Watch | None = None

    def feed(self, data: bytes, start: int) -> tuple[bytes, int]:
        """Reads ``data`` from ``start`` on.

        A defect behind good bytes is kept in ``defect``: the sink shall hear the same, however the stream was cut. Raises
        ``HttpError`` with BODY_DISAGREEMENT alone.
        """
        self._mark = start
        self._counted = 0
        pieces = self._pieces = []
        pos, end = start, len(data)
        try:
            while pos < end and not self.done:
                pos = self._step(self, data, pos)
        except HttpError as defect:
            if defect.code is HttpCode.BODY_DISAGREEMENT:
                raise
            self.defect = (defect.code, str(defect))
        self._flush(data, pos)
        body = pieces[0] if len(pieces) == 1 else b"".join(pieces)
        if len(body) != self._counted or self._parser.done is not self.done:
            raise HttpError(HttpCode.BODY_DISAGREEMENT, "the body parser delimits the body differently")
        return body, pos

    def _flush(self, data: bytes, end: int) -> None:
        """Gives the parser what is accepted, up to ``end``."""
        mark = self._mark
        if mark < end:
            self._give(data if end - mark == len(data) else memoryview(data)[mark:end])
            self._mark = end

    def _give(self, run: bytes | memoryview) -> None:
        try:
            self._pieces += self._parser.feed(run)
        except Exception as error:  # any failure of any parser is one and the same thing: it disagrees
            raise HttpError(HttpCode.BODY_DISAGREEMENT, "the body parser refuses the body") from error

    # --- the steps ---------------------------------------------------------------------------------------------------

    def _read_size(self, data: bytes, pos: int) -> int:
        """At the first byte of a chunk-size line, or within its digits."""
        if not self._digits:
            line = _LINE.match(data, pos)
            if line is not None:
                return self._begin_chunk(line[1], line.end())
            self._flush(data, pos)
        found = _DIGITS.match(data, pos)
        digits = self._digits = self._digits + found[0]  # type: ignore[index]  # it matches everywhere
        if len(digits) > 16:
            raise HttpError(HttpCode.BAD_CHUNK_SIZE, "a chunk size of more than 16 digits")
        end = self._mark = pos + len(found[0])  # type: ignore[index]
        if end == len(data):
            return end
        byte = data[end]
        self._mark = end + 1
        if digits and byte == _CR:
            self._step = ChunkedReader._read_size_lf
        elif digits and byte == _SEMICOLON:
            self._step, self._extension = ChunkedReader._read_extension, 1
        elif byte == _LF:
            raise control_defect(b"\n")
        else:
            raise HttpError(HttpCode.BAD_CHUNK_SIZE, "a chunk-size line that is not 1 to 16 hexadecimal digits")
        return end + 1

    def _read_extension(self, data: bytes, pos: int) -> int:
        """Behind the ``;`` of a chunk-size line (RFC 9112 section 7.1.1: what is not understood is ignored)."""
        end = _EXTENSION.match(data, pos).end()  # type: ignore[union-attr]  # it matches everywhere
        self._extension += end - pos
        if len(self._digits) + self._extension > self._limits.chunk_line_bytes:
            raise HttpError(HttpCode.CHUNK_LINE_TOO_LONG, f"more than {self._limits.chunk_line_bytes} bytes")
        self._mark = end
        if end == len(data):
            return end
        if data[end] != _CR:
            raise control_defect(data[end : end + 1])
        self._step = ChunkedReader._read_size_lf
        self._mark = end + 1
        return end + 1

    def _read_size_lf(self, data: bytes, pos: int) -> int:
        """Behind the CR of a chunk-size line."""
        if data[pos] != _LF:
            raise control_defect(b"\r")
        digits, self._digits = self._digits, b""
        self._give(digits + b"\r\n")
        self._mark = pos + 1
        return self._begin_chunk(digits, pos + 1)

    def _begin_chunk(self, digits: bytes, pos: int) -> int:
        self._left = int(digits, 16)
        self._step = ChunkedReader._read_data if self._left else ChunkedReader._read_trailers
        return pos

    def _read_data(self, data: bytes, pos: int) -> int:
        """Within a chunk's data, and on through whole chunks as long as they are plain."""
        left, size, counted = self._left, len(data), self._counted
        while True:
            end = pos + left
            if end > size:
                self._left = end - size
                self._counted = counted + size - pos
                return size
            counted += left
            following = _NEXT.match(data, end)
            if following is None:
                self._step = ChunkedReader._read_end
                break
            left, end = int(following[1], 16), following.end()
            if not left:
                self._step = ChunkedReader._read_trailers
                break
            pos = end
        self._counted = counted
        return end

    def _read_end(self, data: bytes, pos: int) -> int:
        """Behind a chunk's data."""
        if data[pos] != _CR:
            raise HttpError(HttpCode.BAD_CHUNK_END, "the data of a chunk is not followed by CRLF")
        self._step = ChunkedReader._read_end_lf
        return pos + 1

    def _read_end_lf(self, data: bytes, pos: int) -> int:
        if data[pos] != _LF:
            raise HttpError(HttpCode.BAD_CHUNK_END, "the data of a chunk is not followed by CRLF")
        self._step = ChunkedReader._read_size
        return pos + 1

    def _read_trailers(self, data: bytes, pos: int) -> int:
        """Behind the last chunk's line. The parser gets the empty line and never a trailer."""
        tail = self._tail
        if not tail:
            if data.startswith(b"\r\n", pos):
                self.done = True
                self._flush(data, pos + 2)
                return pos + 2
            self._flush(data, pos)
            tail += b"\r\n"  # of the last chunk's line: so the end looks the same with and without trailers
        seen = len(tail) - 3
        tail += data[pos:]
        end = tail.find(END_OF_HEAD, max(seen, 0))
        if end < 0:
            if self._watch is None:
                self._watch = Watch(WatchRules.trailers(self._limits))
            self._watch.look(tail)
            self._mark = len(data)
            return len(data)
        end += len(END_OF_HEAD)
        self.trailers = scan_trailers(bytes(tail[:end]), self._limits)
        self._give(b"\r\n")
        self.done = True
        self._mark = len(data) - (len(tail) - end)
        return self._mark

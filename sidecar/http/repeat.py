"""Heads that repeat themselves: what the fields of a connection's last head came to, used again for the same bytes.

The heads of one connection differ in little: the target, the length of the body, the trace, once a second the date. As
HPACK's dynamic table does for HTTP/2, these classes remember one head for each connection. The bytes alone decide: where
every byte of the field section is what it was, but for the values of Content-Length and traceparent, reading it again
would give the same fields, so they are taken from the head before. Anything else goes to the scanner. Nothing here
accepts a head: it was accepted before, and a new value of those two is held to the rule that the scanner has for it.

What is remembered is as secret as what the connection carries, belongs to it alone and goes with it.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Final

from sidecar.http.controls import read_length
from sidecar.http.messages import Framing, RequestHead, ResponseHead, TargetForm
from sidecar.http.scanner import ORIGIN_LINE, scan_request, scan_response
from sidecar.http.trace import same_form

if TYPE_CHECKING:
    from sidecar.http.limits import HttpLimits
    from sidecar.http.messages import Field

#: A longer head is not worth its memory.
HEAD_BYTES: Final = 4096
#: After so many heads in a row that did not repeat, only one in as many is remembered.
PATIENCE: Final = 16

# The fields whose values may differ, where they stand in a head that was accepted.
_VARYING: Final = re.compile(rb"\r\n(content-length|traceparent):[ \t]*+([-0-9a-f]++)(?=[ \t]*+\r\n)", re.IGNORECASE)
_NONE, _LENGTH, _ORIGIN = Framing.NONE, Framing.LENGTH, TargetForm.ORIGIN
_BY_LENGTH: Final = b"content-length"


class _Memory:
    """The bytes of one head around the values that may differ."""

    __slots__ = ("_length_at", "_limits", "_literals", "_misses", "_places", "_rest", "_trace_at")

    def __init__(self, limits: HttpLimits) -> None:
        self._limits = limits
        #: What stands before each value that may differ, and behind the last.
        self._literals: list[bytes] = []
        self._rest = b""
        #: Where those values are among the head's fields; which of them is which, or -1.
        self._places: list[int] = []
        self._length_at = self._trace_at = -1
        self._misses = 0

    def _missed(self, block: bytes) -> bool:
        """Counts a head that did not repeat; says whether to remember it."""
        misses = self._misses
        self._misses = misses + 1
        return len(block) <= HEAD_BYTES and (misses < PATIENCE or misses % PATIENCE == 0)

    def _keep(self, block: bytes, start: int, head: RequestHead | ResponseHead, *, traced: bool = False) -> None:
        """Keeps the bytes of an accepted head from ``start`` on; ``traced`` says that its traceparent may differ."""
        literals: list[bytes] = []
        places: list[int] = []
        names = [lower for lower, _, _ in head.fields]
        self._length_at = self._trace_at = -1
        for found in _VARYING.finditer(block, start - 2 if start else 0):
            name = found[1].lower()
            if name == _BY_LENGTH:
                if head.framing is not _LENGTH:
                    continue
                self._length_at = len(places)
            elif traced:
                self._trace_at = len(places)
            else:
                continue
            literals.append(block[start : found.start(2)])
            places.append(names.index(name))
            start = found.end(2)
        self._literals, self._places, self._rest = literals, places, block[start:]

    def _values(self, block: bytes, start: int) -> list[bytes] | None:
        """The values that may differ, if everything else from ``start`` on is what it was and they are sound."""
        values: list[bytes] = []
        for literal in self._literals:
            if not block.startswith(literal, start):
                return None
            start += len(literal)
            end = block.find(b"\r", start)
            values.append(block[start:end])
            start = end
        if block[start:] != self._rest:
            return None
        if self._length_at >= 0 and read_length(values[self._length_at]) < 0:
            return None
        return None if self._trace_at >= 0 and not same_form(values[self._trace_at]) else values

    def _fields(self, fields: list[Field], values: list[bytes]) -> list[Field]:
        """The fields with these values in place."""
        fields = fields.copy()
        for place, value in zip(self._places, values, strict=True):
            lower, name, _ = fields[place]
            fields[place] = (lower, name, value)
        return fields


class RequestMemory(_Memory):
    """Scans the request heads of one connection; ``secure`` says that they come by TLS."""

    __slots__ = ("_last", "_line", "_secure")

    def __init__(self, limits: HttpLimits, *, secure: bool = False) -> None:
        super().__init__(limits)
        self._secure = secure
        self._last: RequestHead | None = None
        self._line = b""  # its first line, with the CRLF

    def scan(self, block: bytes) -> RequestHead:
        """Does what `scan_request` does."""
        last = self._last
        if last is not None:
            head = self._again(block, last)
            if head is not None:
                self._misses = 0
                return head
        head = scan_request(block, self._limits, secure=self._secure)
        self._last = None
        if self._missed(block) and head.form is _ORIGIN:
            start = block.index(b"\r\n") + 2
            self._keep(block, start, head, traced=same_form(head.trace))
            self._last, self._line = head, block[:start]
        return head

    def _again(self, block: bytes, last: RequestHead) -> RequestHead | None:
        if block.startswith(self._line):
            method, target, path, query = last.method, last.target, last.path, last.query
            values = self._values(block, len(self._line))
            if not values:
                return last if values is not None else None
        else:
            line = ORIGIN_LINE.match(block)
            if line is None:
                return None
            method, target, path, rest, minor = line.groups()
            query = rest or b""
            if minor != b"%d" % last.minor or len(target) > self._limits.target_bytes:
                return None
            values = self._values(block, line.end())
        if values is None or len(block) > self._limits.head_bytes:
            return None
        fields, length, trace = last.fields, last.length, last.trace
        if values:
            fields = self._fields(fields, values)
            length = int(values[self._length_at]) if self._length_at >= 0 else length
            trace = values[self._trace_at] if self._trace_at >= 0 else trace
        return RequestHead(
            method, target, _ORIGIN, b"", path, query, last.minor, fields, last.host, last.framing, length,
            last.keep_alive, last.connection, last.expect_continue, b"", trace, last.derived,
        )  # fmt: skip


class ResponseMemory(_Memory):
    """Scans the response heads of one connection."""

    __slots__ = ("_last",)

    def __init__(self, limits: HttpLimits) -> None:
        super().__init__(limits)
        self._last: ResponseHead | None = None

    def scan(self, block: bytes, request_method: bytes) -> ResponseHead:
        """Does what `scan_response` does."""
        last = self._last
        plain = request_method not in {b"HEAD", b"CONNECT"}
        if last is not None and plain:
            head = self._again(block, last)
            if head is not None:
                self._misses = 0
                return head
        head = scan_response(block, request_method, self._limits)
        self._last = None
        # What has no body whatever it announces is left out (RFC 9112 section 6.3, rule 1).
        if self._missed(block) and plain and head.status >= 200 and head.framing is not _NONE:
            self._keep(block, 0, head)
            self._last = head
        return head

    def _again(self, block: bytes, last: ResponseHead) -> ResponseHead | None:
        values = self._values(block, 0)
        if values is None or len(block) > self._limits.head_bytes:
            return None
        if not values or values[0] == last.fields[self._places[0]][2]:
            return last
        return ResponseHead(
            last.status, last.reason, last.minor, self._fields(last.fields, values), last.framing, int(values[0]),
            last.keep_alive, last.connection, last.derived,
        )  # fmt: skip

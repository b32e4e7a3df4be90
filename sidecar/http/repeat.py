"""Heads that repeat themselves: what the fields of a connection's last head came to, used again for the same bytes.

The heads of one connection differ in little: the target, the length of the body, once a second the date. As HPACK's
dynamic table does for HTTP/2, these classes remember one head for each connection. The bytes alone decide: where every
byte of the field section is what it was, but for the digits of Content-Length, reading it again would give the same
fields, so they are taken from the head before. Anything else goes to the scanner. Nothing here accepts a head: it was
accepted before, and a new length is held to the scanner's own rule.

What is remembered is as secret as what the connection carries, belongs to it alone and goes with it.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Final

from sidecar.http.controls import read_length
from sidecar.http.messages import Framing, RequestHead, ResponseHead, TargetForm
from sidecar.http.scanner import ORIGIN_LINE, scan_request, scan_response

if TYPE_CHECKING:
    from sidecar.http.limits import HttpLimits

#: A longer head is not worth its memory.
HEAD_BYTES: Final = 4096
#: After so many heads in a row that did not repeat, only one in as many is remembered.
PATIENCE: Final = 16

_LENGTH_VALUE: Final = re.compile(rb"\r\ncontent-length:[ \t]*+([0-9]++)[ \t]*+\r\n", re.IGNORECASE)
_NONE, _LENGTH, _ORIGIN = Framing.NONE, Framing.LENGTH, TargetForm.ORIGIN
_BY_LENGTH: Final = b"content-length"


class _Memory:
    """The bytes of one head: before the digits of its Content-Length, and behind them."""

    __slots__ = ("_after", "_at", "_before", "_index", "_limits", "_misses")

    def __init__(self, limits: HttpLimits) -> None:
        self._limits = limits
        self._before = b""
        self._after = b""
        self._at = 0  # where the digits begin, counted from the beginning of `_before`; 0 where there are none
        self._index = 0  # which field they stand in
        self._misses = 0

    def _missed(self, block: bytes) -> bool:
        """Counts a head that did not repeat; says whether to remember it."""
        misses = self._misses
        self._misses = misses + 1
        return len(block) <= HEAD_BYTES and (misses < PATIENCE or misses % PATIENCE == 0)

    def _keep(self, block: bytes, start: int, head: RequestHead | ResponseHead) -> None:
        """Keeps the bytes of an accepted head from ``start`` on."""
        self._before, self._after, self._at = block[start:], b"", 0
        if head.framing is not _LENGTH:
            return
        found = _LENGTH_VALUE.search(block, start - 2 if start else 0)
        if found is not None:  # always: the scanner has read it there
            self._before, self._after = block[start : found.start(1)], block[found.end(1) :]
            self._at = found.start(1) - start
            self._index = [lower for lower, _, _ in head.fields].index(_BY_LENGTH)


class RequestMemory(_Memory):
    """Scans the request heads of one connection; ``secure`` says that they come by TLS."""

    __slots__ = ("_last", "_secure")

    def __init__(self, limits: HttpLimits, *, secure: bool = False) -> None:
        super().__init__(limits)
        self._secure = secure
        self._last: RequestHead | None = None

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
            self._keep(block, block.index(b"\r\n") + 2, head)
            self._last = head
        return head

    def _again(self, block: bytes, last: RequestHead) -> RequestHead | None:
        line = ORIGIN_LINE.match(block)
        if line is None:
            return None
        method, target, path, query, minor_digit = line.groups()
        minor = 1 if minor_digit == b"1" else 0
        limits = self._limits
        if minor != last.minor or len(target) > limits.target_bytes or len(block) > limits.head_bytes:
            return None
        start = line.end()
        fields, length = last.fields, last.length
        at = self._at
        if not at:
            if block[start:] != self._before:
                return None
        else:
            at += start
            end = block.find(b"\r", at)
            if block[start:at] != self._before or block[end:] != self._after:
                return None
            digits = block[at:end]
            if digits != fields[self._index][2]:
                length = read_length(digits)
                if length < 0:
                    return None
                fields = fields.copy()
                fields[self._index] = (_BY_LENGTH, fields[self._index][1], digits)
        return RequestHead(
            method, target, _ORIGIN, b"", path, query or b"", minor,
            fields, last.host, last.framing, length, last.keep_alive, last.connection, last.expect_continue, b"", last.derived,
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
        at = self._at
        if not at:
            return last if block == self._before else None
        end = block.find(b"\r", at)
        if block[:at] != self._before or block[end:] != self._after:
            return None
        digits = block[at:end]
        fields = last.fields
        if digits == fields[self._index][2]:
            return last
        length = read_length(digits)
        if length < 0 or len(block) > self._limits.head_bytes:
            return None
        fields = fields.copy()
        fields[self._index] = (_BY_LENGTH, fields[self._index][1], digits)
        return ResponseHead(
            last.status, last.reason, last.minor, fields, last.framing, length, last.keep_alive, last.connection, last.derived,
        )  # fmt: skip

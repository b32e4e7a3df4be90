"""What can be refused before a head is complete, so that nobody can make us wait or hold for it.

The verdict on a byte stream must not depend on how the stream was cut into reads. So each defect found here has a place:
the number of bytes that must have been seen to know that no continuation heals it. Of several the one with the lowest
place counts, and at the same place the bound on the size comes first. A head that arrives whole and is refused by the
scanner goes through here too, and gets the code that it would have got byte by byte.

A watch never accepts anything: that is the scanner's part, once the head is complete.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from sidecar.http.errors import HttpCode, HttpError

if TYPE_CHECKING:
    from collections.abc import Callable

    from sidecar.http.limits import HttpLimits

# A control byte other than HTAB, with the LF if it is a CR that is followed by one.
_EVENT: Final = re.compile(rb"[\x00-\x08\x0a-\x1f\x7f](?:(?<=\r)\n)?")
# The beginning of a request line: a method of at most 32 bytes, and as much of the target as is there.
_TARGET: Final = re.compile(rb"[^\x00-\x20\x7f]{0,32}+ ([^\x00-\x20\x7f]*+)")


@dataclass(frozen=True, slots=True)
class WatchRules:
    """What is watched for. ``first_line`` gets the first line, without CRLF, and raises if it is not a good one."""

    max_bytes: int
    too_large: HttpCode
    fields: int
    too_many: HttpCode
    first_line: Callable[[bytes], object]
    target_bytes: int | None = None

    @classmethod
    def head(
        cls, limits: HttpLimits, first_line: Callable[[bytes], object], target_bytes: int | None = None
    ) -> WatchRules:
        """For the head of a message; ``target_bytes`` for a request's."""
        too_large, too_many = HttpCode.HEAD_TOO_LARGE, HttpCode.TOO_MANY_FIELDS
        return cls(limits.head_bytes, too_large, limits.fields, too_many, first_line, target_bytes)

    @classmethod
    def trailers(cls, limits: HttpLimits) -> WatchRules:
        """For a trailer section with the CRLF of the last chunk's line still before it, as the empty first line."""
        too_large, too_many = HttpCode.TRAILERS_TOO_LARGE, HttpCode.TOO_MANY_TRAILERS
        return cls(limits.trailer_bytes + 2, too_large, limits.fields, too_many, len)


class Watch:
    """Looks at a growing head; linear in its bytes however often it is asked."""

    __slots__ = ("_last", "_lines", "_pos", "_rules", "_target_end")

    def __init__(self, rules: WatchRules) -> None:
        self._rules = rules
        self._pos = 0  # all before it has been looked at
        self._lines = 0  # complete lines seen
        self._last = 0  # where the last complete line ended
        self._target_end: int | None = None  # so many bytes tell whether the target is too long; 0: no longer asked

    def look(self, head: bytes | bytearray) -> None:
        """Looks at what was appended to the head since the last call; raises ``HttpError``."""
        rules = self._rules
        size = min(len(head), rules.max_bytes)
        if rules.target_bytes is not None and self._target_end != 0:
            self._look_at_target(head, size, rules.target_bytes)
        for event in _EVENT.finditer(head, self._pos, size):
            found = event[0]
            if found == b"\r\n":
                self._end_line(head, event.start(), event.end())
            elif found != b"\r" or event.end() < size:
                raise control_defect(found)
            else:
                size -= 1  # a CR at the very end: the next byte decides
        self._pos = size
        if len(head) > rules.max_bytes:
            raise HttpError(rules.too_large, f"more than {rules.max_bytes} bytes")

    def _end_line(self, head: bytes | bytearray, start: int, end: int) -> None:
        rules = self._rules
        self._lines += 1
        if self._lines == 1:
            rules.first_line(bytes(head[:start]))
        elif self._lines > rules.fields + 1 and start != self._last:  # not the empty line
            raise HttpError(rules.too_many, f"more than {rules.fields} fields")
        self._last = end

    def _look_at_target(self, head: bytes | bytearray, size: int, target_bytes: int) -> None:
        if self._target_end is None:
            space = head.find(b" ", 0, 33)
            if space < 0:
                return
            self._target_end = space + 2 + target_bytes
        if size >= self._target_end:
            self._target_end = 0
            match = _TARGET.match(head)
            if match is not None and len(match[1]) > target_bytes:
                raise HttpError(HttpCode.TARGET_TOO_LONG, f"a request target of more than {target_bytes} bytes")


def control_defect(found: bytes) -> HttpError:
    """The error for a control byte that stands where none may."""
    if found == b"\n":
        return HttpError(
            HttpCode.BARE_LF, "a line ends with LF alone"
        )  # RFC 9112 section 2.2 allows it, and to refuse it
    if found == b"\r":
        return HttpError(HttpCode.BARE_CR, "a CR without LF")  # RFC 9112 section 2.2
    return HttpError(HttpCode.CONTROL_BYTE, f"the control byte 0x{found[0]:02x}")  # RFC 9110 section 5.5

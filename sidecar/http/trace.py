"""What ties log lines together: ``trace.id`` from W3C Trace Context, and ``session.id``.

Both are the sender's word and attribution only; nothing is ever decided by them.
"""

from __future__ import annotations

import re
from hashlib import sha256
from typing import TYPE_CHECKING, Final

from sidecar.http.grammar import TCHAR

if TYPE_CHECKING:
    from collections.abc import Iterable

    from sidecar.http.messages import Field

# Trace Context section 3.2.2: version, trace-id, parent-id, flags; lower-case hexadecimal; version ff and ids of zeros are
# invalid. Section 3.2.4: a later version may go on after another "-", version 00 may not.
_TRACEPARENT: Final = re.compile(
    rb"(?!ff)([0-9a-f]{2})-(?!0{32})([0-9a-f]{32})-(?!0{16})[0-9a-f]{16}-[0-9a-f]{2}(-.*+)?"
)
_VERSION_00: Final = re.compile(rb"00-(?!0{32})[0-9a-f]{32}-(?!0{16})[0-9a-f]{16}-[0-9a-f]{2}")
_SESSION: Final = re.compile(TCHAR + rb"{1,128}+")


def parse(value: bytes) -> str | None:
    """The trace id (32 hexadecimal digits) in a ``traceparent`` value, or None if it is not a valid one."""
    match = _TRACEPARENT.fullmatch(value)
    if match is None or (match[1] == b"00" and match[3] is not None):
        return None
    return match[2].decode("ascii")


def same_form(value: bytes) -> bool:
    """Whether this is a valid ``traceparent`` value of version 00: any other such value can stand in its place."""
    return _VERSION_00.fullmatch(value) is not None


def make(trace_id: str, span_id: str) -> bytes:
    """A ``traceparent`` value of version 00, not sampled; of 32 and 16 lower-case hexadecimal digits, not all zero.

    The flag stays 0: whether this trace is recorded is for a tracing system to say (section 3.2.2.5.1).
    """
    return f"00-{trace_id}-{span_id}-00".encode("ascii")


def session_id(fields: Iterable[Field]) -> str | None:
    """The ``session.id`` of a message.

    That is the first 16 hexadecimal digits of the SHA-256 of ``mcp-session-id``, whose value is a credential, else
    ``x-session-id`` as it is if it consists of 1 to 128 token characters, else None. Of several fields the first counts.
    """
    other = None
    for lower, _, value in fields:
        if lower == b"mcp-session-id":
            return sha256(value).hexdigest()[:16]
        if lower == b"x-session-id" and other is None:
            other = value
    if other is None or _SESSION.fullmatch(other) is None:
        return None
    return other.decode("ascii")

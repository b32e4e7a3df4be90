"""The bounds of everything that a peer can make us hold."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class HttpLimits:
    """Bounds of one message's parts other than its body, which is never held.

    ============== ============================================================================ ===================
    limit          bounds                                                                       answer when exceeded
    ============== ============================================================================ ===================
    head_bytes     a head, from its first byte to the end of its empty line                     431
    target_bytes   the request target                                                           414
    fields         the fields of a head, and of a trailer section                               431
    trailer_bytes  a trailer section, from its first byte to the end of its empty line          431
    chunk_line_bytes  a chunk-size line with its extensions, without the CRLF                   400
    informational  1xx responses before one final response                                      502
    ============== ============================================================================ ===================

    For a response the answer is 502 throughout. Others' defaults for a head: nginx 4 x 8 KiB, Envoy 60 KiB, HAProxy
    16 KiB, node 16 KiB; for the number of fields: Envoy 100, Apache 100.
    """

    head_bytes: int = 64 * 1024
    target_bytes: int = 16 * 1024
    fields: int = 128
    trailer_bytes: int = 8 * 1024
    chunk_line_bytes: int = 4 * 1024
    informational: int = 100

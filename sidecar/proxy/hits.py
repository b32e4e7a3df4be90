"""Which limit a code of the log stands for: a limit that is met is counted where its line is written, once.

A code ``limit_<name>`` has the name of its limit. The others are older, and of what has names of its own: HTTP, TLS, keys.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from sidecar.http.errors import HttpCode
from sidecar.proxy.failure import ProxyCode

if TYPE_CHECKING:
    from sidecar.telemetry.metrics import Metrics

PREFIX: Final = "limit_"
_NAMED_OTHERWISE: Final[dict[str, str]] = {
    HttpCode.HEAD_TOO_LARGE: "head_bytes",
    HttpCode.TARGET_TOO_LONG: "target_bytes",
    HttpCode.TOO_MANY_FIELDS: "fields",
    HttpCode.TOO_MANY_TRAILERS: "fields",
    HttpCode.TRAILERS_TOO_LARGE: "trailer_bytes",
    HttpCode.CHUNK_LINE_TOO_LONG: "chunk_line_bytes",
    HttpCode.TOO_MANY_INFORMATIONAL: "informational",
    ProxyCode.UPSTREAM_CONNECT_TIMEOUT: "connect_timeout",
    ProxyCode.UPSTREAM_TIMEOUT: "upstream_timeout",
    ProxyCode.UPSTREAM_STALLED: "stall_timeout",
    ProxyCode.SIGNING_LATE: "sign_timeout",
}


def limit_of(code: str) -> str | None:
    """Returns the name of the limit that a code says was met, in `limits:` or of a fixed one; None where it says something else."""
    return code.removeprefix(PREFIX) if code.startswith(PREFIX) else _NAMED_OTHERWISE.get(code)


def count(metrics: Metrics, code: str | None) -> None:
    """Counts the limit that a code stands for, if any."""
    limit = None if code is None else limit_of(code)
    if limit is not None:
        metrics.limit_hits_total.labels(limit).inc()

"""What is wrong with a question that ``sidecar explain`` is asked."""

from __future__ import annotations

from enum import StrEnum

from sidecar.config.faults import quote
from sidecar.errors import ConfigurationError


class ExplainCode(StrEnum):
    """Stable codes."""

    UNKNOWN_ENTRY = "unknown_entry"
    NO_SUCH_REQUEST = "no_such_request"


def no_such_request(request: str, why: str) -> ConfigurationError:
    """Names a request that is refused before anything is decided about it."""
    return ConfigurationError(
        ExplainCode.NO_SUCH_REQUEST,
        f"{quote(request)} is no request that any rule sees: {why}",
        hint="write a path, or a URL, as it is sent: what is odd in it is percent-encoded",
    )

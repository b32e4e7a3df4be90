"""Which certificates a caller showed a moment ago: so that a token from before a rotation is not taken for a stolen one."""

from __future__ import annotations

from typing import Final

#: How long a certificate that was replaced is remembered, in seconds.
GRACE_SECONDS: Final = 60.0
#: Callers remembered; the one heard of longest ago is forgotten.
MAX_CALLERS: Final = 4096
#: Certificates remembered of one caller beside the present one.
_EACH: Final = 2


class RecentLeaves:
    """One for each listener. Leaves are SHA-256 of DER, times seconds of one clock."""

    __slots__ = ("_seen",)

    def __init__(self) -> None:
        self._seen: dict[str, dict[bytes, float]] = {}

    def note(self, caller: str, leaf: bytes, now: float) -> None:
        """Takes note that a caller shows this certificate now."""
        leaves = self._seen.pop(caller, None)
        if leaves is None:
            leaves = {}
            if len(self._seen) >= MAX_CALLERS:
                del self._seen[next(iter(self._seen))]
        self._seen[caller] = leaves
        leaves.pop(leaf, None)
        leaves[leaf] = now
        if len(leaves) > 1 + _EACH:
            del leaves[next(iter(leaves))]

    def recent(self, caller: str, leaf: bytes, now: float) -> bool:
        """Says whether the caller showed this certificate until at most `GRACE_SECONDS` ago."""
        seen = self._seen.get(caller, {}).get(leaf)
        # Either way: a clock that was set back makes nothing recent for longer than that.
        return seen is not None and abs(now - seen) <= GRACE_SECONDS

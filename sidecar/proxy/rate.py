"""How often a caller may ask: a bucket of tokens for each, with so many at most, filled at a constant rate.

Friction, not a barrier: whoever may call may call slowly. It keeps a caller that runs wild, as agents in a loop do, from
taking the upstream from the others.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Hashable

    from sidecar.limits import Limits

#: Callers that are remembered. For one more those are forgotten whose buckets are full again, which changes nothing for
#: them; and where that is nobody, whoever was met first.
MAX_CALLERS: Final = 10_000


class Bucket:
    """What one caller has left. Begins full."""

    __slots__ = ("_at", "_left")

    def __init__(self, now: float, limits: Limits) -> None:
        self._at = now
        self._left = float(limits.request_burst)

    def take(self, now: float, limits: Limits) -> float:
        """Takes a token, at a monotonic time; returns 0, or the seconds until there will be one."""
        left = self._fill(now, limits)
        if left >= 1:
            self._left = left - 1
            return 0.0
        return (1 - left) / limits.request_rate

    def full(self, now: float, limits: Limits) -> bool:
        """Says whether forgetting it would change nothing."""
        return self._fill(now, limits) >= limits.request_burst

    def _fill(self, now: float, limits: Limits) -> float:
        # By the limits in force now: a reload may have changed them since.
        self._left = left = min(self._left + (now - self._at) * limits.request_rate, float(limits.request_burst))
        self._at = now
        return left


class Rates:
    """The buckets of all callers."""

    def __init__(self, most: int = MAX_CALLERS) -> None:
        self._most = most
        self._buckets: dict[Hashable, Bucket] = {}

    def __len__(self) -> int:
        """How many callers are remembered."""
        return len(self._buckets)

    def of(self, caller: Hashable, now: float, limits: Limits) -> Bucket:
        """Returns a caller's bucket. Asked for each request: a bucket that was forgotten meanwhile is another one now."""
        bucket = self._buckets.get(caller)
        if bucket is None:
            if len(self._buckets) >= self._most:
                self._make_room(now, limits)
            bucket = self._buckets[caller] = Bucket(now, limits)
        return bucket

    def _make_room(self, now: float, limits: Limits) -> None:
        self._buckets = {who: each for who, each in self._buckets.items() if not each.full(now, limits)}
        while len(self._buckets) >= self._most:
            del self._buckets[next(iter(self._buckets))]

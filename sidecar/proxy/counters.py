"""The metric children of one listener, found once instead of for every request."""

from __future__ import annotations

from typing import TYPE_CHECKING

from sidecar.telemetry.metrics import status_class

if TYPE_CHECKING:
    from sidecar.telemetry.metrics import Counter, Metrics


class Counters:
    """Counts the requests of one listener."""

    __slots__ = ("_allowed", "_direction", "_listener", "_metrics", "duration")

    def __init__(self, metrics: Metrics, direction: str, listener: str) -> None:
        self._metrics = metrics
        self._direction = direction
        self._listener = listener
        #: By status: three digits from the wire make no more than 500 entries, and few counters.
        self._allowed: dict[int, Counter] = {}
        self.duration = metrics.request_duration_seconds.labels(direction, listener)

    def allowed(self, status: int, seconds: float) -> None:
        """Counts a request that was let through and answered with ``status``."""
        counter = self._allowed.get(status)
        if counter is None:
            counter = self._allowed[status] = self.requests("allow", status)
        counter.value += 1
        self.duration.observe(seconds)

    def requests(self, decision: str, status: int) -> Counter:
        """The counter of one outcome; its labels come from closed sets, never from the wire."""
        return self._metrics.requests_total.labels(self._direction, self._listener, decision, status_class(status))

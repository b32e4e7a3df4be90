"""The metric children of one listener, found once instead of for every request."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from sidecar.telemetry.metrics import Counter, Metrics


class Counters:
    """Counts the requests of one listener."""

    __slots__ = ("_direction", "_listener", "_metrics", "_requests", "duration")

    def __init__(self, metrics: Metrics, direction: str, listener: str) -> None:
        self._metrics = metrics
        self._direction = direction
        self._listener = listener
        self._requests: dict[tuple[str, str], Counter] = {}
        self.duration = metrics.request_duration_seconds.labels(direction, listener)

    def requests(self, decision: str, status_class: str) -> Counter:
        """The counter of one outcome; both values come from closed sets, never from the wire."""
        key = (decision, status_class)
        counter = self._requests.get(key)
        if counter is None:
            counter = self._metrics.requests_total.labels(self._direction, self._listener, decision, status_class)
            self._requests[key] = counter
        return counter

"""A process to ask, as the admin tests need it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from sidecar.telemetry.metrics import Metrics

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping


class FakeStatus:
    """Answers what a test put there."""

    def __init__(self) -> None:
        self.reason: str | None = None
        self.drains = 0
        self.live: int = 2
        self.counted = Metrics()
        self.counted.connections.labels("inbound").set(2)
        self.broken: Exception | None = None

    def ready(self) -> str | None:
        return self.reason

    def metrics(self) -> bytes:
        return self.counted.render()

    def config(self) -> Mapping[str, object]:
        if self.broken is not None:
            raise self.broken
        return {"version": 1, "access_log": None}

    def certs(self) -> list[Mapping[str, object]]:
        return [{"identity": "spiffe://example.org/agent/tools/1", "key_protection": "software"}]

    def connections(self) -> Iterator[Mapping[str, object]]:
        return ({"listener": "tools", "number": number} for number in range(self.live))

    def drain(self) -> None:
        self.drains += 1

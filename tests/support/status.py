"""A process to ask, as the admin tests need it."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from sidecar.admin.answers import GivenToken, NoToken
from sidecar.telemetry.metrics import Metrics

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping


#: Found in no message, log or repr.
CANARY = "canary-8a41d0c7"


class FakeStatus:
    """Answers what a test put there. Of its sources ``mesh`` gives tokens, at once unless ``hold`` is cleared."""

    def __init__(self) -> None:
        self.reason: str | None = None
        self.drains = 0
        self.live: int = 2
        self.counted = Metrics()
        self.counted.connections.labels("inbound").set(2)
        self.broken: Exception | None = None
        self.asked: list[str] = []
        self.given: GivenToken | NoToken = GivenToken(CANARY)
        self.hold = asyncio.Event()
        self.hold.set()
        self.cancelled = 0

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

    def tokens(self) -> Mapping[str, object]:
        return {"tokens": [{"name": "mesh", "kind": "self-signed", "helper": True}], "issuers": []}

    async def token(self, name: str) -> GivenToken | NoToken | None:
        self.asked.append(name)
        try:
            await self.hold.wait()
        except asyncio.CancelledError:
            self.cancelled += 1
            raise
        if self.broken is not None:
            raise self.broken
        return self.given if name == "mesh" else None

    def drain(self) -> None:
        self.drains += 1

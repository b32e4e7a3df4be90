"""Token sources and issuers that a test holds the reins of, and leases over them."""

from __future__ import annotations

import asyncio
import os
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from sidecar.telemetry.messages import Messages
from sidecar.telemetry.metrics import Metrics
from sidecar.tokens.codes import SourceCode, SourceError
from sidecar.tokens.credential import Field
from sidecar.tokens.lease import Lease, Tools
from sidecar.tokens.settings import FileSource, Keeping
from sidecar.tokens.token import Token
from tests.support.clock import Shifted

if TYPE_CHECKING:
    from collections.abc import Coroutine, Iterable
    from pathlib import Path

    from sidecar.clock import Clock

#: What no output may ever hold.
CANARY = "canary-7f3a9c1e"


@dataclass
class Scripted:
    """A source that gives ``canary-…-1``, ``-2`` and so on. ``gate``: cleared, every fetch waits for it."""

    clock: Clock
    lifetime: float | None = 100.0
    bound: bool = False
    failing: Exception | None = None
    values: list[str] = field(default_factory=list)
    fetches: int = 0
    revoked: list[str] = field(default_factory=list)
    watched: bool = False
    replaced: bool = False
    looks: int = 0
    gate: asyncio.Event = field(default_factory=asyncio.Event)

    def __post_init__(self) -> None:
        self.gate.set()

    async def fetch(self) -> Token:
        self.fetches += 1
        number = self.fetches
        await self.gate.wait()
        if self.failing is not None:
            raise self.failing
        self.replaced = False
        value = f"{CANARY}-{number}"
        self.values.append(value)
        expires = None if self.lifetime is None else self.clock.wall() + self.lifetime
        return Token(value, expires, self.lifetime, self.bound)

    async def revoke(self, token: Token) -> None:
        await self.gate.wait()
        if self.failing is not None:
            raise self.failing
        self.revoked.append(token.value)

    async def changed(self) -> bool:
        self.looks += 1
        return self.replaced


def down() -> SourceError:
    return SourceError(SourceCode.UNREACHABLE, "nobody listens on issuer.example:443", hint="start it")


@dataclass
class Bench:
    """A lease, its source, its clock, and what was said about it."""

    lease: Lease
    source: Scripted
    shifted: Shifted
    metrics: Metrics
    said: Path

    def later(self, seconds: float) -> None:
        self.shifted.monotonic += seconds
        self.shifted.wall += seconds

    def refreshed(self, result: str) -> float:
        child = self.metrics.tokens_refreshed_total.children.get(("mesh", result))
        return 0 if child is None else child.read()

    def messages(self) -> str:
        return self.said.read_text()


def tools_for(clock: Clock, metrics: Metrics, said: Path) -> Tools:
    # The descriptor lives as long as the process: a few of them, in tests alone.
    return Tools(clock, Messages(clock.wall, fd=os.open(said, os.O_WRONLY | os.O_CREAT | os.O_APPEND)), metrics)


KEPT = Keeping()


def bench(folder: Path, keeping: Keeping = KEPT, **script: Any) -> Bench:
    shifted, metrics, said = Shifted(), Metrics(), folder / "said"
    source = Scripted(shifted.clock, **script)
    settings = FileSource("mesh", folder / "token", keeping)
    tools = tools_for(shifted.clock, metrics, said)
    lease = Lease(settings, source, Field(), tools, entry="tools", hardware=False)
    return Bench(lease, source, shifted, metrics, said)


def waiter(coroutine: Coroutine[Any, Any, Any]) -> asyncio.Task[Any]:
    """Somebody who waits, and who may leave."""
    return asyncio.get_running_loop().create_task(coroutine)


async def all_of(waiting: Iterable[asyncio.Future[Any]]) -> list[Any]:
    return await asyncio.wait_for(asyncio.gather(*waiting, return_exceptions=True), 10)

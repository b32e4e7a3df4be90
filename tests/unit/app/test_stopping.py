from __future__ import annotations

import asyncio
from types import SimpleNamespace
from typing import Any

from sidecar.app.stopping import Stopping
from sidecar.telemetry.record import Event
from tests.support.eventually import soon
from tests.support.log import KeptMessages


class FakeProcess:
    """Drains when it is told to, with that outcome."""

    def __init__(self, *, in_time: bool = True) -> None:
        self.messages = KeptMessages()
        self.loaded: Any = SimpleNamespace(config=SimpleNamespace(drain_timeout=7.0))
        self.in_time: bool | Exception = in_time
        self.over = asyncio.Event()
        self.happened: list[object] = []

    def write(self, event: Event) -> None:
        self.happened.append(event)

    async def drain(self, seconds: float) -> bool:
        self.happened.append(seconds)
        await self.over.wait()
        if isinstance(self.in_time, Exception):
            raise self.in_time
        return self.in_time

    async def drained(self) -> None:
        self.happened.append("drained")


async def test_it_ends_in_order_when_nothing_is_in_flight_any_more() -> None:
    process = FakeProcess()
    stopping = Stopping(process)
    assert not stopping.begun
    stopping.begin()
    stopping.begin()
    assert stopping.begun
    process.over.set()
    assert await stopping.ended == 0
    assert process.happened == [Event.DRAIN, 7.0, "drained"]
    assert process.messages.lines == ["info draining timeout_seconds=7.0"]
    stopping.ask()  # while it lets go of things
    assert stopping.ended.result() == 0


async def test_what_takes_longer_than_it_may_is_told() -> None:
    process = FakeProcess(in_time=False)
    stopping = Stopping(process)
    stopping.ask()
    process.over.set()
    assert await stopping.ended == 0
    assert process.messages.lines[1:] == ["warning drain_timeout is over: what was still in flight is cut"]


async def test_asked_again_it_ends_at_once() -> None:
    process = FakeProcess()
    stopping = Stopping(process)
    stopping.begin()
    await soon(lambda: 7.0 in process.happened, "the drain to begin")
    stopping.ask()
    assert await stopping.ended == 1
    assert process.messages.lines[1:] == ["warning asked again: ending at once"]
    process.over.set()
    await soon(lambda: "drained" in process.happened, "the drain to end all the same")
    assert stopping.ended.result() == 1


async def test_a_drain_that_breaks_ends_the_process_and_is_told() -> None:
    process = FakeProcess()
    process.in_time = ZeroDivisionError("hunter2")
    stopping = Stopping(process)
    stopping.begin()
    process.over.set()
    assert await stopping.ended == 1
    (told,) = process.messages.lines[1:]
    assert "the drain failed" in told
    assert "ZeroDivisionError" in told
    assert "hunter2" not in told

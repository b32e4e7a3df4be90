from __future__ import annotations

import asyncio
import os
import signal
from typing import TYPE_CHECKING

import pytest

from sidecar.app.signals import Signals
from tests.support.eventually import soon
from tests.support.pair import turns

if TYPE_CHECKING:
    from collections.abc import AsyncIterator


class FakeServer:
    """Counts what is asked of it; a reload takes until it is let go on."""

    def __init__(self) -> None:
        self.stops = 0
        self.reloads = 0
        self.reopened = 0
        self.go_on = asyncio.Event()
        self.fails = False

    def stop(self) -> None:
        self.stops += 1

    def reopen_log(self) -> None:
        self.reopened += 1

    async def reload(self, cause: str) -> bool:
        assert cause == "SIGHUP"
        self.reloads += 1
        await self.go_on.wait()
        if self.fails:
            raise ValueError
        return True


@pytest.fixture
async def signals() -> AsyncIterator[Signals]:
    yield Signals()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        loop.remove_signal_handler(number)


def send(number: signal.Signals) -> None:
    os.kill(os.getpid(), number)


async def test_what_it_serves_is_asked(signals: Signals) -> None:
    server = FakeServer()
    signals.serve(server)  # type: ignore[arg-type] - as much of one as is asked
    await turns(3)
    assert (server.stops, server.reloads) == (0, 0)
    send(signal.SIGTERM)
    await soon(lambda: server.stops == 1, "SIGTERM to be heard")
    send(signal.SIGINT)
    await soon(lambda: server.stops == 2, "SIGINT to be heard")
    assert not signals.ended_start


async def test_any_number_of_hangups_is_one_reload_after_the_one_that_runs(signals: Signals) -> None:
    server = FakeServer()
    signals.serve(server)  # type: ignore[arg-type] - likewise
    send(signal.SIGHUP)
    await soon(lambda: server.reloads == 1, "the first reload")
    for count in range(1, 6):
        send(signal.SIGHUP)
        await soon(lambda: server.reopened == count, "the log to be opened again at once")  # noqa: B023 - called at once
    assert server.reloads == 1
    server.go_on.set()
    await soon(lambda: server.reloads == 2, "another one, for what came since it began")
    await turns(10)
    assert server.reloads == 2
    send(signal.SIGHUP)
    await soon(lambda: server.reloads == 3, "one more")


async def test_a_reload_that_breaks_is_not_the_last_one(signals: Signals) -> None:
    told: list[object] = []
    asyncio.get_running_loop().set_exception_handler(lambda _, context: told.append(context["where"]))
    server = FakeServer()
    server.fails = True
    server.go_on.set()
    signals.serve(server)  # type: ignore[arg-type] - likewise
    for count in (1, 2):
        send(signal.SIGHUP)
        await soon(lambda: len(told) == count, "the defect to be told")  # noqa: B023 - called at once
    assert (server.reloads, told) == (2, ["reload", "reload"])


async def test_while_it_starts_a_hangup_waits_and_a_termination_ends_the_start() -> None:
    server = FakeServer()

    async def start() -> str:
        signals = Signals()
        try:
            await asyncio.sleep(99)
        except asyncio.CancelledError:
            assert signals.ended_start
            signals.serve(server)  # type: ignore[arg-type] - likewise
            return "ended"
        return "served"

    starting = asyncio.ensure_future(start())  # noqa: TID251 - a test's own task, awaited below
    await turns(2)
    send(signal.SIGHUP)
    await turns(5)
    assert not starting.done()
    send(signal.SIGTERM)
    await soon(starting.done, "the start to be given up")
    assert starting.result() == "ended"
    await soon(lambda: server.reloads == 1, "the reload that waited")
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        loop.remove_signal_handler(number)

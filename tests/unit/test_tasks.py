from __future__ import annotations

import asyncio
import gc
from typing import Any

from sidecar import tasks
from sidecar.tasks import describe, exception_handler, spawn
from sidecar.telemetry.metrics import Metrics
from tests.support.log import KeptMessages


async def ended(task: asyncio.Task[Any]) -> None:
    """Waits for a task and for those who were told of its end."""
    await asyncio.wait([task])
    await asyncio.sleep(0)


async def test_a_task_lives_though_nobody_holds_it() -> None:
    done = asyncio.Event()
    released = asyncio.Event()

    async def work() -> None:
        await released.wait()
        done.set()

    spawn(work(), name="work")
    await asyncio.sleep(0)
    gc.collect()
    released.set()
    await asyncio.wait_for(done.wait(), 5)


async def test_a_task_that_ended_is_let_go() -> None:
    async def work() -> None:
        pass

    task = spawn(work(), name="work")
    assert task in tasks._running
    await ended(task)
    assert task not in tasks._running
    assert task.get_name() == "work"


async def test_a_failure_is_told_to_whoever_wants_to_know() -> None:
    async def work() -> None:
        raise KeyError("x")

    told: list[tuple[str, BaseException]] = []
    await ended(spawn(work(), name="work", on_error=lambda name, error: told.append((name, error))))
    assert [(name, type(error)) for name, error in told] == [("work", KeyError)]


async def test_a_cancelled_task_is_no_failure() -> None:
    told: list[object] = []
    task = spawn(asyncio.Event().wait(), name="work", on_error=lambda *what: told.append(what))  # type: ignore[arg-type]
    await asyncio.sleep(0)
    task.cancel()
    await ended(task)
    assert told == []
    assert task not in tasks._running


async def test_an_unexpected_failure_is_logged_and_counted() -> None:
    async def work() -> None:
        raise ValueError("the secret is hunter2")

    messages, metrics = KeptMessages(), Metrics()
    asyncio.get_running_loop().set_exception_handler(exception_handler(messages, metrics))
    await ended(spawn(work(), name="dial"))
    assert metrics.internal_errors_total.labels("dial").value == 1
    (line,) = messages.lines
    assert line.startswith('error unexpected: a task failed where=dial error="ValueError at test_tasks.py:')
    assert "in work" in line
    assert "hunter2" not in line


async def test_a_failure_in_a_callback_is_logged_and_counted_too() -> None:
    messages, metrics = KeptMessages(), Metrics()
    loop = asyncio.get_running_loop()
    loop.set_exception_handler(exception_handler(messages, metrics))
    loop.call_soon(lambda: 1 // 0)
    for _ in range(3):
        await asyncio.sleep(0)
    assert metrics.internal_errors_total.labels("loop").value == 1
    assert "ZeroDivisionError" in messages.lines[0]


def test_a_report_without_an_exception_is_still_one() -> None:
    messages, metrics = KeptMessages(), Metrics()
    loop = asyncio.new_event_loop()
    exception_handler(messages, metrics)(loop, {})
    loop.close()
    assert messages.lines == ['error unexpected: an error where=loop error=""']


def test_an_exception_is_named_without_its_text() -> None:
    assert describe(ValueError("hunter2")) == "ValueError at no frame"

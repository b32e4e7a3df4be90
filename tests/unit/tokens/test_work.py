from __future__ import annotations

import asyncio
import threading

import pytest

from sidecar.threads import Workers
from sidecar.tokens.codes import SourceCode, SourceError
from sidecar.tokens.work import work
from tests.support.eventually import soon


async def test_a_call_is_made_in_a_thread() -> None:
    assert await work(Workers("w", 1, 1), threading.get_ident, 20) != threading.get_ident()


async def test_what_it_raises_is_raised() -> None:
    with pytest.raises(ZeroDivisionError):
        await work(Workers("w", 1, 1), lambda: 1 // 0, 20)


async def test_a_full_queue() -> None:
    with pytest.raises(SourceError) as caught:
        await work(Workers("w", 1, 0), lambda: None, 20)
    assert caught.value.code is SourceCode.BUSY


async def test_what_takes_too_long_is_left_to_itself() -> None:
    go_on = threading.Event()
    workers = Workers("w", 1, 4)
    with pytest.raises(TimeoutError):
        await work(workers, lambda: go_on.wait(20), 0.05)
    go_on.set()
    assert await work(workers, lambda: "next", 20) == "next"


async def test_what_was_not_begun_never_is() -> None:
    go_on, begun, made = threading.Event(), threading.Event(), []
    workers = Workers("w", 1, 4)
    loop = asyncio.get_running_loop()
    first = loop.create_task(work(workers, lambda: begun.set() or go_on.wait(20), 20))
    await soon(begun.is_set, "the first call")
    second = loop.create_task(work(workers, lambda: made.append(1), 20))
    await soon(lambda: workers.waiting, "the second call")
    second.cancel()
    with pytest.raises(asyncio.CancelledError):
        await second
    assert workers.waiting == 0
    go_on.set()
    await first
    assert await work(workers, lambda: list(made), 20) == []

"""A changed file is taken when two looks agree, once, and a refused one only when it changes again."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import pytest

from sidecar.app import watch as watching
from sidecar.app.watch import Settled, watch

if TYPE_CHECKING:
    from collections.abc import Iterator


def looks(settled: Settled, *seen: str) -> list[bool]:
    return [settled.changed(look) for look in seen]


def test_nothing_changed_is_nothing() -> None:
    assert looks(Settled("a"), "a", "a", "a") == [False, False, False]


def test_a_change_counts_when_two_looks_agree() -> None:
    assert looks(Settled("a"), "b", "b") == [False, True]


@pytest.mark.threat(24)
def test_threat_24_a_file_that_is_still_being_written_is_not_taken() -> None:
    assert looks(Settled("a"), "half", "most", "all", "all") == [False, False, False, True]


def test_a_change_that_was_taken_back_is_nothing() -> None:
    assert looks(Settled("a"), "b", "a", "a") == [False, False, False]


def test_what_was_tried_is_not_tried_again_until_it_changes() -> None:
    settled = Settled("a")
    assert looks(settled, "bad", "bad") == [False, True]
    settled.took("bad")
    assert looks(settled, "bad", "bad", "good", "good") == [False, False, False, True]


async def test_the_watch_looks_again_and_again_and_calls_once_for_one_change(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(watching, "LOOK_SECONDS", 0.001)
    settled = Settled("a")
    states: Iterator[str] = iter(["a", "b", "b", "b", "b"])
    seen = "a"
    calls: list[str] = []
    done = asyncio.Event()

    def look() -> str:
        nonlocal seen
        seen = next(states, seen)
        return seen

    async def changed() -> None:
        calls.append(seen)
        settled.took(seen)
        done.set()

    task = asyncio.get_running_loop().create_task(watch(settled, look, changed))
    await asyncio.wait_for(done.wait(), 5)
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
    assert calls == ["b"]


async def test_a_look_or_a_reload_that_fails_does_not_end_the_watch(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(watching, "LOOK_SECONDS", 0.001)
    told: list[BaseException] = []
    asyncio.get_running_loop().set_exception_handler(lambda _, context: told.append(context["exception"]))
    states: Iterator[str | Exception] = iter([MemoryError(), "b", "b", "b"])
    done = asyncio.Event()
    calls = 0

    def look() -> str:
        seen = next(states, "b")
        if isinstance(seen, Exception):
            raise seen
        return seen

    async def changed() -> None:
        nonlocal calls
        calls += 1
        if calls == 1:
            raise OSError("no descriptor")
        done.set()

    task = asyncio.get_running_loop().create_task(watch(Settled("a"), look, changed))
    await asyncio.wait_for(done.wait(), 10)
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
    asyncio.get_running_loop().set_exception_handler(None)
    assert [type(error) for error in told] == [MemoryError, OSError]

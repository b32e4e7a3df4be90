"""Calls in daemon threads: bounded, given up, late, and never in the way of the process's end."""

from __future__ import annotations

import asyncio
import subprocess
import sys
import threading

import pytest

from sidecar.threads import Job, Workers, apart
from tests.support.eventually import soon


class Held:
    """Calls that end when the test says so."""

    def __init__(self) -> None:
        self.go = threading.Event()
        self.inside = 0
        self.made = 0

    def __call__(self) -> int:
        self.inside += 1
        self.go.wait(30)
        self.made += 1
        return self.made


def ended(outcomes: list[object]) -> Job[int]:
    return Job(lambda: 7, outcomes.append)


async def test_a_job_is_told_its_result_on_the_loop() -> None:
    workers, outcomes = Workers("test", 2, 8), list[object]()
    threads: list[int] = []
    assert workers.submit(Job(threading.get_ident, lambda outcome: threads.extend([outcome, threading.get_ident()])))  # type: ignore[list-item]  # no error here
    assert workers.submit(ended(outcomes))
    await soon(lambda: outcomes and threads, "both ends")
    assert outcomes == [7]
    assert threads[0] != threading.get_ident() == threads[1]


async def test_an_exception_is_an_outcome_and_the_thread_goes_on() -> None:
    workers, outcomes = Workers("test", 1, 8), list[object]()

    def broken() -> int:
        raise SystemExit(3)

    workers.submit(Job(broken, outcomes.append))
    workers.submit(ended(outcomes))
    await soon(lambda: len(outcomes) == 2, "both ends")
    assert isinstance(outcomes[0], SystemExit)
    assert outcomes[1] == 7


async def test_no_more_threads_and_no_more_waiting_than_allowed() -> None:
    workers, held, outcomes = Workers("test", 2, 3), Held(), list[object]()
    for _ in range(2):
        assert workers.submit(Job(held, outcomes.append))
    await soon(lambda: held.inside == 2, "both threads inside")
    assert [workers.submit(Job(held, outcomes.append)) for _ in range(5)] == [True, True, True, False, False]
    assert workers.waiting == 3
    assert workers.submit(Job(held, outcomes.append), bounded=False)
    assert held.inside == 2
    held.go.set()
    await soon(lambda: len(outcomes) == 6, "all ends")
    assert workers.waiting == 0


async def test_one_thread_is_enough_for_what_comes_one_by_one() -> None:
    workers, outcomes = Workers("test", 4, 8), list[object]()
    for n in range(20):
        workers.submit(ended(outcomes))
        await soon(lambda n=n: len(outcomes) == n + 1, "its end")  # type: ignore[misc]  # bound here
    assert workers._threads <= 2  # a thread may still be putting its last job away


async def test_what_is_given_up_before_it_begins_is_never_called() -> None:
    workers, held, outcomes = Workers("test", 1, 8), Held(), list[object]()
    called: list[int] = []
    workers.submit(Job(held, outcomes.append))
    await soon(lambda: held.inside == 1, "the thread inside")
    job = Job(lambda: called.append(1), outcomes.append)
    workers.submit(job)
    job.give_up()
    assert workers.waiting == 0
    workers.submit(ended(outcomes))
    held.go.set()
    await soon(lambda: len(outcomes) == 2, "the others' ends")
    assert called == []


async def test_what_takes_too_long_is_late_once_and_its_end_is_told_to_nobody() -> None:
    workers, held, outcomes, late = Workers("test", 1, 8), Held(), list[object](), list[int]()
    workers.submit(Job(held, outcomes.append, late=lambda: late.append(1)))
    await soon(lambda: held.inside == 1, "the thread inside")
    assert workers.late(60) == []
    await soon(lambda: workers.late(0.01), "it to be late")
    for _ in range(3):
        for job in workers.late(0.01):
            job.tell_late()
    assert late == [1]
    held.go.set()
    workers.submit(ended(outcomes))
    await soon(lambda: outcomes, "the next one's end")
    assert outcomes == [7]
    assert workers.late(0) == []


async def test_apart_returns_and_raises_what_the_call_does() -> None:
    assert await apart(lambda: 5, 10, "test") == 5
    with pytest.raises(ZeroDivisionError):
        await apart(lambda: 1 // 0, 10, "test")


async def test_apart_gives_up_and_a_late_result_is_not_kept() -> None:
    held, unwanted = Held(), list[int]()
    with pytest.raises(TimeoutError):
        await apart(held, 0.05, "test", unwanted=unwanted.append)
    assert unwanted == []
    held.go.set()
    await soon(lambda: unwanted, "the late result")
    assert unwanted == [1]


async def test_a_cancelled_apart_does_not_keep_its_result_either() -> None:
    held, unwanted = Held(), list[int]()
    waiting = asyncio.get_running_loop().create_task(apart(held, 30, "test", unwanted=unwanted.append))
    await soon(lambda: held.inside == 1, "the thread inside")
    waiting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await waiting
    held.go.set()
    await soon(lambda: unwanted, "the late result")


BLOCKED = """
import asyncio, threading
from sidecar.threads import Job, Workers, apart
async def main():
    workers = Workers("test", 2, 8)
    inside = threading.Semaphore(0)
    def hang():
        inside.release()
        threading.Event().wait()
    for _ in range(4):
        workers.submit(Job(hang, print))
    for _ in range(2):
        inside.acquire()
    try:
        await apart(hang, 0.01, "x")
    except TimeoutError:
        print("given up")
asyncio.run(main())
"""


def test_threads_that_never_return_do_not_keep_the_process() -> None:
    done = subprocess.run([sys.executable, "-c", BLOCKED], capture_output=True, text=True, timeout=30, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (0, "given up\n", "")


async def test_a_thread_without_work_ends_after_its_patience_and_another_begins() -> None:
    workers = Workers("patient", 2, 4, patience=0.05)
    names: list[str] = []

    async def work() -> None:
        done = asyncio.Event()
        assert workers.submit(Job(lambda: names.append(threading.current_thread().name), lambda _: done.set()))
        await asyncio.wait_for(done.wait(), 5)

    await work()
    await soon(lambda: workers._threads == 0, "the thread to end")
    assert not any(thread.name.startswith("patient") for thread in threading.enumerate())
    await work()
    assert len(names) == 2

"""What may block, for sources: a call in one of our worker threads, waited for within a time limit."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, TypeVar

from sidecar.threads import Job
from sidecar.tokens.codes import SourceCode, SourceError

if TYPE_CHECKING:
    from collections.abc import Callable

    from sidecar.threads import Workers

T = TypeVar("T")


async def work(workers: Workers, call: Callable[[], T], seconds: float) -> T:
    """Makes a call in a thread and waits for it; whoever is cancelled waits no more, and a call not begun never is.

    Raises what it raises, SourceError (BUSY) where the queue is full, and TimeoutError after ``seconds``: then the thread
    is left to itself.
    """
    future: asyncio.Future[T] = asyncio.get_running_loop().create_future()

    def done(outcome: T | BaseException) -> None:
        if future.done():
            return
        if isinstance(outcome, BaseException):
            future.set_exception(outcome)
        else:
            future.set_result(outcome)

    job = Job(call, done)
    if not workers.submit(job):
        raise SourceError(
            SourceCode.BUSY,
            "too much else waits for a thread",
            hint="is the device with our key, or a file system, hung?",
        )
    try:
        async with asyncio.timeout(seconds):
            return await future
    finally:
        job.give_up()

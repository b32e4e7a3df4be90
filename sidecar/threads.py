"""Calls that may block for ever, in daemon threads of our own: a device that hangs costs a thread and nothing else.

`concurrent.futures` and `asyncio.to_thread` will not do: their threads are joined when the interpreter ends, so a process
with a thread inside a hung TPM would never end.
"""

from __future__ import annotations

import asyncio
import contextlib
import threading
import time
from typing import TYPE_CHECKING, Any, Generic, TypeVar

if TYPE_CHECKING:
    from collections.abc import Callable

T = TypeVar("T")


class Job(Generic[T]):
    """One call: ``call`` runs in a thread, ``done`` is told of its end by the event loop, unless it was given up.

    ``done`` gets the result, or the exception that the call raised; ``late`` is called instead by `tell_late`. A result
    that nobody waits for any more goes to ``unwanted``, in a thread of its own.
    """

    __slots__ = ("_call", "_done", "_forget", "_late", "_loop", "_unwanted", "given_up", "started")

    def __init__(
        self,
        call: Callable[[], T],
        done: Callable[[T | BaseException], None],
        *,
        late: Callable[[], None] | None = None,
        unwanted: Callable[[T], None] | None = None,
    ) -> None:
        self._call = call
        self._done = done
        self._loop = asyncio.get_running_loop()
        self._late = late
        self._unwanted = unwanted
        self._forget: Callable[[Job[Any]], None] | None = None
        #: Nobody waits for it any more: see `give_up`.
        self.given_up = False
        #: When it began, by `time.monotonic`; None while it waits.
        self.started: float | None = None

    def queued(self, forget: Callable[[Job[Any]], None]) -> None:
        """Takes note of what takes it off a queue."""
        self._forget = forget

    def give_up(self) -> None:
        """Waits for it no more: it is not begun, if it has not; else its end is told to nobody."""
        self.given_up = True
        if self._forget is not None:
            self._forget(self)

    def run(self) -> None:
        """Makes the call, in the thread that this is called in."""
        self.started = time.monotonic()
        try:
            outcome: T | BaseException = self._call()
        except BaseException as error:  # noqa: BLE001 - handed on to whoever waits
            outcome = error
        # The loop may be closed: the process is ending, and nobody waits.
        with contextlib.suppress(RuntimeError):
            self._loop.call_soon_threadsafe(self._tell, outcome)

    def tell_late(self) -> None:
        """Gives a call up that has been running for too long; whoever waits is told so instead."""
        if not self.given_up:
            self.give_up()
            if self._late is not None:
                self._late()

    def _tell(self, outcome: T | BaseException) -> None:
        if not self.given_up:
            self._done(outcome)
        elif self._unwanted is not None and not isinstance(outcome, BaseException):
            threading.Thread(target=self._unwanted, args=(outcome,), daemon=True).start()


class Workers:
    """A bounded set of daemon threads with a bounded queue before them; threads are started when there is work.

    One that had no work for ``patience`` seconds ends; without that they stay. ``submit`` and ``late`` are for the event
    loop's thread alone.
    """

    def __init__(self, name: str, threads: int, waiting: int, *, patience: float | None = None) -> None:
        self.limit = waiting
        self._patience = patience
        self._name = name
        self._most = threads
        self._changed = threading.Condition()
        self._waiting: dict[Job[Any], None] = {}  # in their order
        self._running: dict[int, Job[Any]] = {}
        self._threads = 0
        self._idle = 0

    @property
    def waiting(self) -> int:
        """Jobs that no thread has taken yet, and that somebody waits for."""
        return len(self._waiting)

    def submit(self, job: Job[T], *, bounded: bool = True) -> bool:
        """Queues a job; False, and nothing else, when the queue is full, or when no thread can be had for it.

        One that goes on with what was begun is not ``bounded``: its number is bounded by that of the beginnings.
        """
        with self._changed:
            if bounded and len(self._waiting) >= self.limit:
                return False
            self._waiting[job] = None
            job.queued(self._forget)
            if self._idle < len(self._waiting) and self._threads < self._most and not self._start():
                del self._waiting[job]
                return False
            self._changed.notify()
        return True

    def late(self, seconds: float) -> list[Job[Any]]:
        """Returns the jobs that a thread has been at for longer than that."""
        if not self._running:
            return []
        before = time.monotonic() - seconds
        return [job for job in list(self._running.values()) if job.started is not None and job.started < before]

    def _start(self) -> bool:
        """Starts one more thread; False where there is none at all, and none can be had."""
        try:
            threading.Thread(target=self._work, name=f"{self._name}-{self._threads}", daemon=True).start()
        except RuntimeError:
            return self._threads > 0
        self._threads += 1
        return True

    def _forget(self, job: Job[Any]) -> None:
        with self._changed:
            self._waiting.pop(job, None)

    def _work(self) -> None:
        me = threading.get_ident()
        while True:
            with self._changed:
                self._idle += 1
                while not self._waiting:
                    if not self._changed.wait(self._patience) and not self._waiting:
                        self._idle -= 1
                        self._threads -= 1
                        return
                self._idle -= 1
                job = next(iter(self._waiting))
                del self._waiting[job]
                self._running[me] = job
            job.run()
            del self._running[me]
            del job  # or it would live, with all that it names, until the next one comes


async def apart(call: Callable[[], T], seconds: float, name: str, *, unwanted: Callable[[T], None] | None = None) -> T:
    """Makes one call in a daemon thread of its own and waits for it.

    Raises what it raises, and TimeoutError after ``seconds``: then the thread is left to itself, and what comes of the
    call after all is given to ``unwanted``, in a thread as well.
    """
    future: asyncio.Future[T] = asyncio.get_running_loop().create_future()

    def done(outcome: T | BaseException) -> None:
        if future.done():
            return
        if isinstance(outcome, BaseException):
            future.set_exception(outcome)
        else:
            future.set_result(outcome)

    job = Job(call, done, unwanted=unwanted)
    threading.Thread(target=job.run, name=name, daemon=True).start()
    try:
        async with asyncio.timeout(seconds):
            return await future
    finally:
        job.give_up()

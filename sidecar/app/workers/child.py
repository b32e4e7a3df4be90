"""A worker as its parent sees it: asked over its channel, killed when it answers late or nonsense."""

from __future__ import annotations

import asyncio
import contextlib
import os
import time
from typing import TYPE_CHECKING, Final

from sidecar.app.workers.channel import MAX_DESCRIPTORS, Channel, Content
from sidecar.app.workers.wire import Ask, Refusal, WorkerCode, WorkerError

if TYPE_CHECKING:
    from collections.abc import Mapping

    from sidecar.app.workers.process import Process
    from sidecar.telemetry.turns import Turns

#: An answer is at most 10,000 connections, or all metrics.
ANSWER_BYTES: Final = 32 * 1024 * 1024


class Child:
    """One process at the other end of a channel, asked any number of things at once."""

    def __init__(self, name: str, process: Process) -> None:
        self.name = name
        self.process = process
        self.pid = process.pid
        self.began = time.monotonic()
        #: Resolves to what became of it, in words, when the channel ends.
        self.gone: asyncio.Future[str] = asyncio.get_running_loop().create_future()
        self._channel = Channel(process.sock, self._answered, self._ended, most=ANSWER_BYTES)
        self._waiting: dict[int, asyncio.Future[Content]] = {}
        self._number = 0

    async def ask(self, kind: Ask, content: Content | None = None, *, seconds: float, patient: bool = False) -> Content:
        """Asks and returns the answer.

        Raises WorkerError where there is none; one that is late for an answer is killed, unless ``patient``. Raises the
        SidecarError that the process refuses with.
        """
        if self.gone.done():
            raise self._error(WorkerCode.GONE, self.gone.result())
        self._number = number = self._number + 1
        answer: asyncio.Future[Content] = asyncio.get_running_loop().create_future()
        self._waiting[number] = answer
        self._channel.send({**(content or {}), "ask": kind.value, "number": number})
        try:
            async with asyncio.timeout(seconds):
                return await answer
        except TimeoutError:
            if not patient:
                self.end(f"did not answer within {seconds:g} s")
            raise self._error(WorkerCode.LATE, f"did not answer within {seconds:g} s") from None
        finally:
            self._waiting.pop(number, None)

    def hand(self, descriptors: Mapping[str, int]) -> None:
        """Gives it open descriptors under names, for the question that follows; ours stay open."""
        items = list(descriptors.items())
        for start in range(0, len(items), MAX_DESCRIPTORS):
            part = items[start : start + MAX_DESCRIPTORS]
            content = {"ask": Ask.HAND.value, "number": 0, "places": [name for name, _ in part]}
            self._channel.send(content, [number for _, number in part])

    def hand_turns(self, turns: Turns) -> None:
        """Gives it what it takes turns by with us and the other workers."""
        content = {"ask": Ask.HAND.value, "number": 0, "places": [], "turns": True}
        self._channel.send(content, [turns.descriptor])

    def tell(self, kind: Ask, content: Content) -> None:
        """Tells it something that has no answer."""
        self._channel.send({**content, "ask": kind.value, "number": 0})

    def end(self, why: str) -> None:
        """Kills it."""
        self._channel.close()
        self._ended(why)

    # -- what the channel calls ---------------------------------------------------------------------------------------

    def _answered(self, content: Content, descriptors: list[int]) -> None:
        for each in descriptors:  # nobody asks for any
            os.close(each)
        waiting = self._waiting.get(content["number"]) if isinstance(content.get("number"), int) else None
        if waiting is None:
            return  # to a question that is given up
        done, refused = content.get("done"), content.get("refused")
        if waiting.done():
            return
        if isinstance(done, dict):
            waiting.set_result(done)
            return
        try:
            waiting.set_exception(Refusal.parse(refused).error())
        except ValueError:
            self.end("sent what is no answer")

    def _ended(self, why: str) -> None:
        if self.gone.done():
            return
        self.gone.set_result(why)
        self.process.kill()  # it may live on with its channel closed
        for waiting in self._waiting.values():
            if not waiting.done():
                waiting.set_exception(self._error(WorkerCode.GONE, why))

    def _error(self, code: WorkerCode, what: str) -> WorkerError:
        return WorkerError(code, f"the process {self.name} (pid {self.pid}) {what}")

    async def ended(self, seconds: float) -> int | None:
        """Waits for its end; returns its exit code, or None where it has not ended by then."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                return await asyncio.shield(self.process.ended)
        return None

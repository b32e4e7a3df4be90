"""The end of a process that serves: in order when it is asked for once, at once when it is asked for again."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Protocol

from sidecar.tasks import describe, spawn
from sidecar.telemetry.record import Event

if TYPE_CHECKING:
    from sidecar.config.load import Loaded
    from sidecar.telemetry.messages import Messages


class Ending(Protocol):
    """The process that ends."""

    messages: Messages

    @property
    def loaded(self) -> Loaded:
        """What is in force."""

    def write(self, event: Event) -> None:
        """Writes the log line of a change of the process."""

    async def drain(self, seconds: float) -> bool:
        """Ends what it does in order, the rest after ``seconds``; says whether everything ended within them."""

    async def drained(self) -> None:
        """Does what is left to do when nothing is in flight any more."""


class Stopping:
    """``ended`` resolves to the exit code when the process should end; ``begun`` says that it ends."""

    def __init__(self, process: Ending) -> None:
        self.begun = False
        self.ended: asyncio.Future[int] = asyncio.get_running_loop().create_future()
        self._process = process

    def begin(self) -> None:
        """Begins the drain, once; ``ended`` gets the exit code 0 when it is over."""
        if not self.begun:
            self.begun = True
            spawn(self._drain(), name="drain", on_error=self._broke)

    def ask(self) -> None:
        """Obeys a signal: begins the drain; called again, ends at once with exit code 1."""
        if not self.begun:
            self.begin()
        elif not self.ended.done():
            self._process.messages.warning("asked again: ending at once")
            self.ended.set_result(1)

    async def _drain(self) -> None:
        process = self._process
        timeout = process.loaded.config.drain_timeout
        process.messages.info("draining", timeout_seconds=timeout)
        process.write(Event.DRAIN)
        if not await process.drain(timeout):
            process.messages.warning("drain_timeout is over: what was still in flight is cut")
        await process.drained()
        if not self.ended.done():
            self.ended.set_result(0)

    def _broke(self, where: str, error: BaseException) -> None:
        self._process.messages.error("unexpected: the drain failed", where=where, error=describe(error))
        if not self.ended.done():
            self.ended.set_result(1)

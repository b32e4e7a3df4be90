"""The workers of a parent: as many as there are to be, each replaced when it dies, not at once where it dies at once."""

from __future__ import annotations

import asyncio
import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final, Protocol

from sidecar.app.workers import sums
from sidecar.app.workers.wire import Ask, WorkerCode, WorkerError
from sidecar.errors import SidecarError
from sidecar.tasks import describe, spawn
from sidecar.telemetry.metrics import Metrics

if TYPE_CHECKING:
    from collections.abc import Sequence

    from sidecar.app.workers.channel import Content
    from sidecar.app.workers.child import Child

#: How often each worker is asked how it does, in seconds: as late as what it says of itself may be.
BEAT_SECONDS: Final = 1.0
#: A worker that has not answered for so long makes us unready, and is killed after the second time; in seconds.
LATE_SECONDS: Final = 2.5
HUNG_SECONDS: Final = 15.0
#: A worker that lived for less was no good: the next one waits, longer each time, up to the most; in seconds.
SHORT_LIFE_SECONDS: Final = 10.0
PAUSE_SECONDS: Final = (0.25, 30.0)


class Owner(Protocol):
    """What a fleet needs of its parent."""

    async def recruit(self, number: int) -> Child:
        """Starts a worker with the configuration in force and returns it when it serves. Raises SidecarError, OSError."""

    def lost(self, child: Child, why: str, code: int | None) -> None:
        """Hears that a worker is gone; ``code`` is its exit code, as far as it has one."""

    def replaced(self, child: Child) -> None:
        """Hears that another one serves in its place."""

    def not_replaced(self, error: BaseException, pause: float) -> None:
        """Hears that none could be started; it is tried again after a pause."""


@dataclass(slots=True)
class Member:
    """One worker, and what is known of it."""

    child: Child
    #: Why it does not serve, as it said last.
    trouble: str | None = None
    metrics: Content = field(default_factory=lambda: sums.dump(Metrics()))
    #: Since when it is asked how it does and has not answered, by `time.monotonic`.
    asked: float | None = None
    #: Its loss was told.
    told: bool = False

    @property
    def reason(self) -> str | None:
        """Why it is not ready."""
        late = self.asked is not None and time.monotonic() - self.asked > LATE_SECONDS
        return WorkerCode.LATE.value if late else self.trouble


class Fleet:
    """``lock`` is held while workers are started or given a new configuration: never both."""

    def __init__(self, count: int, owner: Owner) -> None:
        self.count = count
        self.members: dict[int, Member] = {}
        self.lock = asyncio.Lock()
        #: What workers had counted that have ended.
        self.counted = Metrics()
        self._owner = owner
        self._keepers: list[asyncio.Task[None]] = []

    async def start(self) -> None:
        """Starts all; raises what the first one that cannot be started does, and ends the others."""
        async with self.lock:
            try:
                await self._recruit_all()
            except BaseException:
                await self.end(0.0)
                raise
        self._keepers = [spawn(self._keep(number), name="worker-keep") for number in self.members]

    @property
    def children(self) -> Sequence[Child]:
        """Those that have not ended."""
        return [member.child for member in self.members.values() if not member.child.gone.done()]

    @property
    def reason(self) -> str | None:
        """Why the fleet is not ready: that of the first worker that has one. One that is being replaced has none.

        The sockets are shared: while one is missing, the others take every new connection.
        """
        reasons = [member.reason for member in self.members.values() if not member.child.gone.done()]
        return next((reason for reason in reasons if reason), None) if reasons else WorkerCode.NONE.value

    def stop_replacing(self) -> None:
        """From now on nobody is started, or asked how it does; one that is lost is told of until `end`."""
        self._cancel_keepers()
        untold = [member for member in self.members.values() if not member.told]
        self._keepers = [spawn(self._await_loss(member), name="worker-keep") for member in untold]

    async def end(self, seconds: float) -> None:
        """Ends all of them: after ``seconds`` those are killed that have not ended by themselves."""
        self._cancel_keepers()
        children = [member.child for member in self.members.values()]
        ended = [child.process.ended for child in children]
        if children and seconds > 0:
            await asyncio.wait(ended, timeout=seconds)
        for child in children:
            if not child.process.ended.done():
                child.end("was told to end")
        if children:
            await asyncio.wait(ended)

    def _cancel_keepers(self) -> None:
        for keeper in self._keepers:
            keeper.cancel()

    # -- one of them ----------------------------------------------------------------------------------------------------

    async def _keep(self, number: int) -> None:
        failures = 0
        while True:
            member = self.members[number]
            await self._look_after(member)
            await self._await_loss(member)
            sums.add(self.counted, member.metrics, gauges=False)
            member.metrics = sums.dump(Metrics())
            lived = time.monotonic() - member.child.began
            failures = 1 if lived >= SHORT_LIFE_SECONDS else failures + 1
            while not await self._replace(number, failures):
                failures += 1

    async def _await_loss(self, member: Member) -> None:
        child = member.child
        why = await asyncio.shield(child.gone)
        self._owner.lost(child, why, await child.ended(1.0))
        member.told = True

    async def _recruit_all(self) -> None:
        numbers = range(1, self.count + 1)
        for each in await asyncio.gather(*map(self._recruit, numbers), return_exceptions=True):
            if isinstance(each, BaseException):
                raise each
        self.members = {number: self.members[number] for number in numbers}

    async def _recruit(self, number: int) -> None:
        child = await self._owner.recruit(number)
        # From now on it is one of those that are told things.
        self.members[number] = Member(child)
        child.tell(Ask.REOPEN, {})  # the log may have been moved away since it opened it

    async def _replace(self, number: int, failures: int) -> bool:
        await asyncio.sleep(_pause(failures))
        try:
            async with self.lock:
                await self._recruit(number)
        except Exception as error:  # noqa: BLE001 - whatever it is this time, the place must not stay empty for ever
            self._owner.not_replaced(error, _pause(failures + 1))
            return False
        self._owner.replaced(self.members[number].child)
        return True

    async def _look_after(self, member: Member) -> None:
        """Asks how it does, again and again, until it is gone."""
        gone = member.child.gone
        while not gone.done():
            await asyncio.wait([gone], timeout=BEAT_SECONDS)
            if not gone.done():
                await self.ask(member)

    async def ask(self, member: Member, seconds: float = HUNG_SECONDS, *, patient: bool = False) -> None:
        """Asks one how it does. One that is late is killed, unless ``patient``, and so is one that answers nonsense."""
        if member.asked is None:
            member.asked = time.monotonic()
        try:
            answer = await member.child.ask(Ask.STATUS, seconds=seconds, patient=patient)
            sums.add(Metrics(), answer["metrics"])
            trouble = None if answer["ready"] is None else str(answer["ready"])
        except WorkerError:
            return
        except (SidecarError, KeyError, ValueError) as error:
            member.child.end(f"said of itself what nobody understands ({describe(error)})")
            return
        member.asked, member.trouble, member.metrics = None, trouble, answer["metrics"]


def _pause(failures: int) -> float:
    """How long the next start waits after so many lives, or tries, that were too short: not at all after the first."""
    least, most = PAUSE_SECONDS
    return 0.0 if failures <= 1 else min(least * 2.0 ** min(failures - 2, 20), most)

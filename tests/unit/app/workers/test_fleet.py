from __future__ import annotations

import asyncio
import time
from typing import TYPE_CHECKING, Any

import pytest

from sidecar.app.workers import fleet as module
from sidecar.app.workers import sums
from sidecar.app.workers.fleet import Fleet, _pause
from sidecar.app.workers.wire import Ask, WorkerCode, WorkerError
from sidecar.telemetry.metrics import Metrics
from tests.support.eventually import soon
from tests.support.pair import turns

if TYPE_CHECKING:
    from sidecar.app.workers.child import Child


class FakeProcess:
    def __init__(self) -> None:
        self.ended: asyncio.Future[int] = asyncio.get_running_loop().create_future()


class FakeChild:
    """Says what it is told to of itself."""

    def __init__(self, requests: int = 0) -> None:
        self.process = FakeProcess()
        self.gone: asyncio.Future[str] = asyncio.get_running_loop().create_future()
        self.began = time.monotonic()
        self.patience: list[tuple[float, bool]] = []
        metrics = Metrics()
        metrics.reloads_total.labels("ok").inc(requests)
        self.told: list[Ask] = []
        self.answer: Any = {"ready": None, "metrics": sums.dump(metrics)}

    async def ask(self, kind: object, content: object = None, *, seconds: float, patient: bool = False) -> Any:
        self.patience.append((seconds, patient))
        if self.answer is None:
            raise WorkerError(WorkerCode.LATE, "late")
        return self.answer

    def tell(self, kind: Ask, content: object) -> None:
        self.told.append(kind)

    def end(self, why: str) -> None:
        if not self.gone.done():
            self.gone.set_result(why)
            self.process.ended.set_result(-9)

    async def ended(self, seconds: float) -> int | None:
        return await self.process.ended


class FakeOwner:
    def __init__(self) -> None:
        self.children: list[FakeChild] = []
        self.fails: list[Exception] = []
        self.told: list[object] = []

    async def recruit(self, number: int) -> Child:
        if self.fails:
            raise self.fails.pop(0)
        self.children.append(child := FakeChild(requests=number))
        return child  # type: ignore[return-value]

    def lost(self, child: Child, why: str, code: int | None) -> None:
        self.told.append(("lost", why, code))

    def replaced(self, child: Child) -> None:
        self.told.append("replaced")

    def not_replaced(self, error: BaseException, pause: float) -> None:
        self.told.append(("not replaced", pause))


@pytest.fixture(autouse=True)
def hasty(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "BEAT_SECONDS", 0.005)
    monkeypatch.setattr(module, "PAUSE_SECONDS", (0.02, 0.1))


def failure() -> WorkerError:
    return WorkerError(WorkerCode.INTERNAL, "no")


async def test_one_that_cannot_be_started_ends_the_others() -> None:
    owner = FakeOwner()
    fleet = Fleet(3, owner)
    owner.fails = [failure()]
    with pytest.raises(WorkerError):
        await fleet.start()
    assert len(owner.children) == 2
    assert all(child.gone.done() for child in owner.children)
    assert fleet.reason == "no_worker"


async def test_a_start_that_is_given_up_ends_those_that_serve_already(monkeypatch: pytest.MonkeyPatch) -> None:
    owner = FakeOwner()
    recruit = owner.recruit

    async def second_hangs(number: int) -> Child:
        if number == 2:
            await asyncio.sleep(99)
        return await recruit(number)

    monkeypatch.setattr(owner, "recruit", second_hangs)
    fleet = Fleet(3, owner)
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.05):
            await fleet.start()
    assert len(owner.children) == 2
    assert all(child.gone.done() for child in owner.children)
    assert owner.told == []


async def test_a_dead_one_is_replaced_and_what_it_counted_stays() -> None:
    owner = FakeOwner()
    fleet = Fleet(2, owner)
    await fleet.start()
    await soon(lambda: all(m.metrics["counters"]["sidecar_reloads_total"] for m in fleet.members.values()), "a beat")
    owner.children[1].end("was killed")
    assert fleet.reason is None, "the other one serves"
    await soon(lambda: "replaced" in owner.told, "another one")
    assert owner.told == [("lost", "was killed", -9), "replaced"]
    assert fleet.counted.reloads_total.labels("ok").read() == 2
    assert [child.told for child in owner.children] == [[Ask.REOPEN]] * 3, "the log may be another file by now"
    assert len(fleet.children) == 2
    await fleet.end(0)
    assert fleet.children == []


async def test_the_pause_grows_and_a_start_that_fails_is_tried_again() -> None:
    owner = FakeOwner()
    fleet = Fleet(1, owner)
    await fleet.start()
    owner.fails = [failure(), OSError("no descriptors"), RuntimeError("a defect")]
    owner.children[0].end("died")
    await soon(lambda: "replaced" in owner.told, "another one")
    assert owner.told[1:-1] == [("not replaced", 0.02), ("not replaced", 0.04), ("not replaced", 0.08)]
    await fleet.end(0)
    assert [_pause(n) for n in range(6)] == [0.0, 0.0, 0.02, 0.04, 0.08, 0.1]


@pytest.mark.parametrize("answer", [{}, {"ready": None}, {"ready": None, "metrics": {}}])
async def test_one_that_answers_nonsense_is_replaced(answer: dict[str, Any]) -> None:
    owner = FakeOwner()
    fleet = Fleet(1, owner)
    await fleet.start()
    owner.children[0].answer = answer
    await soon(lambda: "replaced" in owner.told, "another one")
    await fleet.end(0)


async def test_the_first_reason_is_that_of_all(monkeypatch: pytest.MonkeyPatch) -> None:
    owner = FakeOwner()
    fleet = Fleet(2, owner)
    await fleet.start()
    owner.children[1].answer = owner.children[1].answer | {"ready": "identity_expired"}
    await soon(lambda: fleet.reason == "identity_expired", "the reason")
    monkeypatch.setattr(module, "LATE_SECONDS", 0.01)
    owner.children[0].answer = None
    await soon(lambda: fleet.reason == "worker_late", "it to be missed")
    await fleet.end(0)


async def test_one_that_hangs_is_not_waited_for_by_whoever_looks_after_it_but_by_whoever_only_asks() -> None:
    owner = FakeOwner()
    fleet = Fleet(1, owner)
    await fleet.start()
    (child,), (member,) = owner.children, fleet.members.values()
    await soon(lambda: len(child.patience) > 1, "it to be looked after")
    assert set(child.patience) == {(module.HUNG_SECONDS, False)}, "else it would never be killed"
    await fleet.ask(member, 0.5, patient=True)
    assert (0.5, True) in child.patience
    await fleet.end(0)


async def test_one_that_dies_again_at_once_is_not_replaced_before_the_pause_is_over(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(module, "PAUSE_SECONDS", (99.0, 99.0))
    owner = FakeOwner()
    fleet = Fleet(1, owner)
    await fleet.start()
    owner.children[0].end("died")
    await soon(lambda: "replaced" in owner.told, "another one")
    owner.children[1].end("died")
    await soon(lambda: len(owner.told) == 3, "the loss to be told")
    await turns(20)
    assert len(owner.children) == 2
    await fleet.end(0)


async def test_one_that_dies_as_a_drain_begins_is_told_of_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "PAUSE_SECONDS", (99.0, 99.0))
    owner = FakeOwner()
    fleet = Fleet(3, owner)
    await fleet.start()
    owner.children[0].end("died")
    await soon(lambda: "replaced" in owner.told, "another one")
    owner.children[3].end("died again")  # and waits for the pause to be over
    await soon(lambda: ("lost", "died again", -9) in owner.told, "the loss to be told")
    owner.children[1].end("died as the drain began")
    fleet.stop_replacing()
    await soon(lambda: ("lost", "died as the drain began", -9) in owner.told, "the loss to be told")
    await turns(20)
    assert [each for each in owner.told if each != "replaced"] == [
        ("lost", why, -9) for why in ("died", "died again", "died as the drain began")
    ]
    await fleet.end(0)


async def test_nobody_is_replaced_at_the_end() -> None:
    owner = FakeOwner()
    fleet = Fleet(2, owner)
    await fleet.start()
    fleet.stop_replacing()
    owner.children[0].end("was killed")
    await soon(lambda: owner.told == [("lost", "was killed", -9)], "the loss to be told")
    await fleet.end(0)
    await turns(20)
    assert owner.told == [("lost", "was killed", -9)], "and not of those that were told to end"
    assert len(owner.children) == 2

from __future__ import annotations

import asyncio
from types import SimpleNamespace
from typing import Any, Self

import pytest

from sidecar.admin.answers import GivenToken, NoToken
from sidecar.app.workers import console as module
from sidecar.app.workers.console import Console
from sidecar.app.workers.wire import WorkerCode, WorkerError
from tests.support.eventually import soon

TOKEN = {"audience": "https://tools.internal", "expires": 5}
SOURCE = {"name": "mesh", "kind": "self-signed", "tokens": [TOKEN]}
WELL = {"connections": [{"worker": 1, "direction": "outbound"}], "tokens": [SOURCE], "issuers": [{"name": "corp"}]}


class FakeChild:
    def __init__(self, pid: int, answer: Any) -> None:
        self.pid = pid
        self.answer = answer
        self.ended: list[str] = []

    async def ask(self, kind: object, content: object = None, *, seconds: float, patient: bool = False) -> Any:
        if self.answer is None:
            raise WorkerError(WorkerCode.LATE, "late")
        return self.answer

    def end(self, why: str) -> None:
        self.ended.append(why)


def console(*children: FakeChild | FakeWorker) -> Console:
    return Console(SimpleNamespace(fleet=SimpleNamespace(children=children)))  # type: ignore[arg-type] - as much of one


async def test_what_each_has_is_listed_and_who_is_silent_is_named() -> None:
    made = console(FakeChild(1, WELL), FakeChild(2, WELL), FakeChild(3, None))
    assert await made.tokens() == {
        "tokens": [SOURCE | {"tokens": [{"worker": 1, **TOKEN}, {"worker": 2, **TOKEN}]}],
        "issuers": [{"worker": 1, "name": "corp"}, {"worker": 2, "name": "corp"}],
        "silent_workers": [3],
    }


@pytest.mark.parametrize(
    "change",
    [
        {"connections": 5, "tokens": 5},
        {"connections": [5], "tokens": [5]},
        {"connections": None, "tokens": [{"name": "mesh"}]},
        {"connections": {}, "tokens": [{"name": [], "tokens": []}]},
        {"connections": "x", "tokens": [SOURCE | {"tokens": [None]}]},
    ],
)
async def test_one_that_answers_nonsense_is_killed_and_the_others_are_heard(change: dict[str, Any]) -> None:
    well, odd = FakeChild(1, WELL), FakeChild(2, WELL | change)
    listing = await console(well, odd).connections()
    assert (list(listing.connections), listing.more) == (WELL["connections"], {"silent_workers": [2]})
    shown = await console(well, odd).tokens()
    assert [source["name"] for source in shown["tokens"]] == ["mesh"]
    assert shown["silent_workers"] == [2]
    assert len(odd.ended) == 2
    assert well.ended == []


class FakeWorker:
    """A worker that gives ``answer`` when it is told to, or an error in its place."""

    def __init__(self, answer: dict[str, Any] | Exception) -> None:
        self.answer = answer
        self.may = asyncio.Event()
        self.asked = 0
        self.let_off = False

    def at_once(self) -> Self:
        self.may.set()
        return self

    async def ask(self, kind: object, content: object = None, *, seconds: float, patient: bool = False) -> Any:
        assert (content, patient) == ({"name": "mesh"}, True)
        self.asked += 1
        try:
            await self.may.wait()
        except asyncio.CancelledError:
            self.let_off = True
            raise
        if isinstance(self.answer, Exception):
            raise self.answer
        return self.answer


LATE = WorkerError(WorkerCode.LATE, "late")


@pytest.fixture
def hasty(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_TOKEN_PATIENCE", 0.01)


async def test_one_worker_makes_the_token_where_it_answers() -> None:
    first, second = FakeWorker({"token": "t1"}).at_once(), FakeWorker({"token": "t2"})
    assert await console(first, second).token("mesh") == GivenToken("t1")
    assert second.asked == 0


@pytest.mark.usefixtures("hasty")
async def test_where_one_takes_long_the_next_one_is_asked_too() -> None:
    hung, second = FakeWorker({"token": "t1"}), FakeWorker({"token": "t2"}).at_once()
    assert await console(hung, second).token("mesh") == GivenToken("t2")
    await soon(lambda: hung.let_off, "the first one to be let off")


@pytest.mark.usefixtures("hasty")
async def test_the_one_that_was_asked_first_may_still_be_the_first_to_answer() -> None:
    slow, hung = FakeWorker({"error": "issuer_unavailable"}), FakeWorker({"token": "t2"})
    asking = asyncio.gather(console(slow, hung).token("mesh"))
    await soon(lambda: hung.asked == 1, "both to be asked")
    slow.at_once()
    assert await asking == [NoToken("issuer_unavailable")]
    await soon(lambda: hung.let_off, "the other one to be let off")


async def test_one_that_does_not_answer_is_passed_over() -> None:
    gone, well = FakeWorker(LATE).at_once(), FakeWorker({}).at_once()
    assert await console(gone, well).token("mesh") is None
    none = NoToken("no_worker")
    assert await console(FakeWorker(LATE).at_once()).token("mesh") == none
    assert await console().token("mesh") == none


async def test_whoever_asked_and_has_left_lets_all_of_them_off() -> None:
    hung = FakeWorker({"token": "t1"})
    asking = asyncio.gather(console(hung).token("mesh"))
    await soon(lambda: hung.asked == 1, "it to be asked")
    asking.cancel()
    await soon(lambda: hung.let_off, "it to be let off")

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from sidecar.app.workers.console import Console
from sidecar.app.workers.wire import WorkerCode, WorkerError

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


def console(*children: FakeChild) -> Console:
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

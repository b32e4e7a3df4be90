from __future__ import annotations

import asyncio
import os
import socket
from typing import TYPE_CHECKING, Any

import pytest

from sidecar.app.workers.channel import Channel
from sidecar.app.workers.child import Child
from sidecar.app.workers.wire import Ask, WorkerCode, WorkerError
from sidecar.errors import SidecarError
from tests.support.eventually import soon

if TYPE_CHECKING:
    from collections.abc import AsyncIterator


class FakeProcess:
    pid = 4711

    def __init__(self, sock: socket.socket) -> None:
        self.sock = sock
        self.killed = 0
        self.ended: asyncio.Future[int] = asyncio.get_running_loop().create_future()

    def kill(self) -> None:
        self.killed += 1


class World:
    """A child and the other end of its channel, which answers with ``answer`` and the number that was asked with."""

    def __init__(self) -> None:
        ours, its = socket.socketpair()
        self.process = FakeProcess(ours)
        self.child = Child("worker 1", self.process)  # type: ignore[arg-type]
        self.answer: dict[str, Any] | None = {"done": {"fine": True}}
        self.asked: list[dict[str, Any]] = []
        self.descriptors: list[int] = []
        self.channel = Channel(its, self.take, lambda _: None)

    def take(self, content: dict[str, Any], descriptors: list[int]) -> None:
        self.asked.append(content)
        self.descriptors += descriptors
        if self.answer is not None:
            self.channel.send({"number": content["number"]} | self.answer)


@pytest.fixture
async def world() -> AsyncIterator[World]:
    made = World()
    yield made
    made.channel.close()
    made.child.end("the test is over")
    for descriptor in made.descriptors:
        os.close(descriptor)


async def test_questions_and_answers(world: World) -> None:
    assert await world.child.ask(Ask.STATUS, {"a": 1}, seconds=5) == {"fine": True}
    assert world.asked == [{"a": 1, "ask": "status", "number": 1}]


async def test_a_refusal_is_raised(world: World) -> None:
    world.answer = {"refused": {"code": "x_y", "message": "no", "hint": "", "configuration": False}}
    with pytest.raises(SidecarError, match="no") as caught:
        await world.child.ask(Ask.PREPARE, seconds=5)
    assert str(caught.value.code) == "x_y"
    assert not world.process.killed


@pytest.mark.parametrize("answer", [{}, {"done": 1}, {"refused": {"code": 1}}])
async def test_nonsense_is_the_end(world: World, answer: dict[str, Any]) -> None:
    world.answer = answer
    with pytest.raises(WorkerError, match="sent what is no answer"):
        await world.child.ask(Ask.STATUS, seconds=5)
    assert world.process.killed
    assert world.child.gone.result() == "sent what is no answer"


async def test_one_that_is_late_is_killed_but_where_it_may_be(world: World) -> None:
    world.answer = None
    with pytest.raises(WorkerError, match="did not answer within"):
        await world.child.ask(Ask.STATUS, seconds=0.01, patient=True)
    assert not world.process.killed
    with pytest.raises(WorkerError) as caught:
        await world.child.ask(Ask.STATUS, seconds=0.01)
    assert caught.value.code is WorkerCode.LATE
    assert world.process.killed
    with pytest.raises(WorkerError) as caught:
        await world.child.ask(Ask.STATUS, seconds=5)
    assert caught.value.code is WorkerCode.GONE


async def test_one_that_is_gone(world: World) -> None:
    world.answer = None
    asking = asyncio.ensure_future(world.child.ask(Ask.STATUS, seconds=5))  # noqa: TID251 - awaited below
    await soon(lambda: world.asked, "the question")
    world.channel.close()
    with pytest.raises(WorkerError, match="is gone"):
        await asking
    assert world.process.killed, "it may live on"


async def test_descriptors_are_handed_with_their_names(world: World) -> None:
    world.answer = None
    reading, writing = os.pipe()
    names = {f"place {n}": writing for n in range(450)}
    world.child.hand(names)
    await soon(lambda: len(world.descriptors) == 450, "all of them")
    os.close(reading)
    os.close(writing)
    assert [name for content in world.asked for name in content["places"]] == list(names)
    assert {content["ask"] for content in world.asked} == {"hand"}

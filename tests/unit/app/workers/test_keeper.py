"""The signer process is started again, whatever keeps it from being started."""

from __future__ import annotations

import asyncio
import errno
import os
import socket
from typing import TYPE_CHECKING, Any

import pytest
import yaml

from sidecar.app.workers import keeper as module
from sidecar.app.workers.channel import Channel
from sidecar.app.workers.keeper import Keeper
from sidecar.clock import Clock
from sidecar.config.load import load
from sidecar.keys.errors import SignCode
from tests.support.eventually import soon
from tests.support.log import KeptMessages
from tests.support.server import configuration

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Sequence
    from pathlib import Path

    from sidecar.config.load import Loaded


class FakeProcess:
    """A process at the other end of a channel that answers every question as a signer process does, or refuses it."""

    def __init__(self, pid: int, refused: dict[str, Any] | None = None) -> None:
        self.pid = pid
        self.refused = refused
        self.hangs = False
        self.asked: list[str] = []
        self.sock, its = socket.socketpair()
        self.ended: asyncio.Future[int] = asyncio.get_running_loop().create_future()
        self.channel = Channel(its, self.take, lambda _: None)

    def take(self, content: dict[str, Any], descriptors: list[int]) -> None:
        for each in descriptors:
            os.close(each)
        if content["ask"] == "end":
            self.kill()
        self.asked.append(content["ask"])
        if not content["number"] or self.hangs:
            return
        answer = {"refused": self.refused} if self.refused else {"done": {"protection": "software"}}
        self.channel.send({"number": content["number"]} | answer)

    def kill(self) -> None:
        self.channel.close()
        if not self.ended.done():
            self.ended.set_result(-9)


class Stage:
    """Starts such processes; ``lacks`` are errors that come in the place of the next ones."""

    def __init__(self, loaded: Loaded) -> None:
        self.loaded = loaded
        self.messages = KeptMessages()
        self.lacks: list[Exception] = []
        self.refused: dict[str, Any] | None = None
        self.started: list[FakeProcess] = []

    def start(self, arguments: Sequence[str]) -> FakeProcess:
        if self.lacks:
            raise self.lacks.pop(0)
        self.started.append(FakeProcess(4711 + len(self.started), self.refused))
        return self.started[-1]

    def told(self, text: str) -> int:
        return sum(text in line for line in self.messages.lines)


@pytest.fixture
async def stage(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Stage]:
    (tmp_path / "sidecar.yaml").write_text(yaml.safe_dump(configuration(tmp_path, 8080) | {"workers": 2}))
    made = Stage(load(tmp_path / "sidecar.yaml", now=Clock().wall()))
    monkeypatch.setattr(module.Process, "start", made.start)
    monkeypatch.setattr(module, "PAUSES", (0.001, 0.004))
    yield made
    for process in made.started:
        process.kill()


@pytest.mark.parametrize(
    ("lack", "told"),
    [
        (OSError(errno.EMFILE, os.strerror(errno.EMFILE)), "Too many open files"),
        (OSError(errno.ENOMEM, os.strerror(errno.ENOMEM)), "Cannot allocate memory"),
        (MemoryError(), "MemoryError at"),
        (RuntimeError("can't start new thread"), "RuntimeError at"),
    ],
)
async def test_whatever_is_lacking_it_is_told_and_tried_again(stage: Stage, lack: Exception, told: str) -> None:
    keeper = await Keeper.open(stage.loaded, stage.messages)
    stage.lacks = [lack] * 5
    stage.started[0].kill()
    await soon(lambda: len(stage.started) == 2 and keeper.trouble is None, "another one")
    assert stage.told("no signer process could be started") == stage.told(told) == 5
    assert stage.told("a signer process serves in its place pid=4712") == 1
    keeper.close()
    await keeper.ended()


async def test_it_serves_a_configuration_with_the_same_key_and_tokens_as_long_as_it_signs(
    stage: Stage, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "PAUSES", (60.0, 60.0))
    keeper = await Keeper.open(stage.loaded, stage.messages)
    parts = yaml.safe_load((tmp_path / "sidecar.yaml").read_text())
    path = tmp_path / "sidecar.yaml"

    def changed(**parts_of_it: Any) -> Loaded:
        path.write_text(yaml.safe_dump(parts | parts_of_it))
        return load(path, now=Clock().wall())

    assert keeper.serves(changed(drain_timeout="1s"))
    token = {"name": "mesh", "kind": "self-signed", "audience": "https://tools.internal"}
    assert not keeper.serves(changed(tokens=[token])), "it would not sign these"
    assert not keeper.serves(changed(limits={"sign_timeout": "1s"}))
    stage.started[0].kill()
    await soon(lambda: keeper.trouble, "it to be missed")
    assert not keeper.serves(changed())
    keeper.close()
    await keeper.ended()


async def test_one_that_hangs_is_killed_and_replaced(stage: Stage, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "BEAT_SECONDS", 0.005)
    keeper = await Keeper.open(stage.loaded, stage.messages)
    first = stage.started[0]
    await soon(lambda: first.asked.count("status") > 1, "it to be asked")
    assert len(stage.started) == 1
    monkeypatch.setattr(module, "HUNG_SECONDS", 0.05)
    first.hangs = True
    await soon(lambda: len(stage.started) == 2 and keeper.trouble is None, "another one")
    assert first.ended.done()
    assert stage.told('why="did not answer within 0.05 s"') == 1
    keeper.close()
    await keeper.ended()


async def test_meanwhile_it_says_that_it_does_not_sign(stage: Stage, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "PAUSES", (60.0, 60.0))
    keeper = await Keeper.open(stage.loaded, stage.messages)
    assert keeper.trouble is None
    stage.started[0].kill()
    await soon(lambda: keeper.trouble == SignCode.UNAVAILABLE, "it to be missed")
    keeper.close()
    await keeper.ended()


async def test_a_device_that_refused_our_pin_is_not_asked_again(stage: Stage) -> None:
    keeper = await Keeper.open(stage.loaded, stage.messages)
    stage.refused = {"code": SignCode.AUTH.value, "message": "the PIN is wrong", "hint": "", "configuration": False}
    stage.started[0].kill()
    await soon(lambda: keeper.trouble == SignCode.AUTH, "it to be refused")
    await asyncio.sleep(0.02)
    assert len(stage.started) == 2
    keeper.close()

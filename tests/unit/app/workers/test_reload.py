from __future__ import annotations

import asyncio
import errno
from copy import deepcopy
from typing import TYPE_CHECKING, Any

import pytest
import yaml

from sidecar.app.workers import reload as module
from sidecar.app.workers.reload import FleetReloader
from sidecar.app.workers.wire import Ask, Refusal, WorkerCode, WorkerError
from sidecar.clock import Clock
from sidecar.config.load import load
from sidecar.telemetry.metrics import Metrics
from tests.support.eventually import soon
from tests.support.log import KeptMessages
from tests.support.processes import LOOPBACK, free_port, listens
from tests.support.server import configuration

if TYPE_CHECKING:
    from pathlib import Path

    from sidecar.errors import SidecarError


class FakeChild:
    def __init__(self, parent: FakeParent) -> None:
        self._parent = parent
        self.fails: dict[Ask, SidecarError] = {}
        self.hangs: set[Ask] = set()
        self.handed: list[str] = []
        self.ended: list[str] = []

    def hand(self, descriptors: dict[str, int]) -> None:
        self.handed += descriptors

    async def ask(self, kind: Ask, content: object = None, *, seconds: float) -> dict[str, Any]:
        self._parent.happened.append(kind.value)
        await asyncio.sleep(0)
        if kind in self.hangs:
            await asyncio.sleep(seconds)
        if kind in self.fails:
            raise self.fails[kind]
        return {}

    def end(self, why: str) -> None:
        self.ended.append(why)


class FakeFleet:
    def __init__(self) -> None:
        self.lock = asyncio.Lock()
        self.children: list[FakeChild] = []


class FakeLog:
    """The same log whatever is asked for."""

    def __init__(self) -> None:
        self.now = self

    def another(self, old: object, new: object) -> None:
        return None


class FakeParent:
    """As much of a parent as a reload asks for, and what happened, in its order."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.config = configuration(folder, 8080) | {"workers": 2}
        self.write_file()
        self.clock = Clock()
        self.loaded = load(folder / "sidecar.yaml", now=self.clock.wall())
        self.fleet = FakeFleet()
        self.fleet.children = [FakeChild(self), FakeChild(self)]
        self.messages = KeptMessages()
        self.metrics = Metrics()
        self.log = FakeLog()
        self.policy_version = "v1"
        self.sockets: dict[Any, Any] = {("inbound", each.listen): None for each in self.loaded.config.inbound}
        self.sockets |= {("outbound", each.listen): None for each in self.loaded.config.outbound}
        self.keeper = None
        self.draining = False
        self.reopened = 0
        self.happened: list[str] = []
        self.bound: dict[Any, Any] = {}

    def write_file(self) -> None:
        (self.folder / "sidecar.yaml").write_text(yaml.safe_dump(self.config))

    def write(self, event: str, error: str | None = None) -> None:
        self.happened.append(f"{event} {error}")

    def reopen_log(self) -> None:
        self.reopened += 1

    def put_into_force(self, loaded: object, packed: object, bound: dict[Any, Any], keeper: object) -> None:
        self.bound = bound
        self.happened.append("in force")

    async def reload(self) -> bool:
        """With one more listener, so that there is something to bind."""
        self.port = free_port()
        more = {"name": "more", "listen": f"{LOOPBACK}:{self.port}"}
        first = self.config["inbound"][0]
        self.config["inbound"] = [first, deepcopy(first) | more]
        self.write_file()
        return await FleetReloader(self).reload("a test")  # type: ignore[arg-type] - as much of one as is needed


@pytest.fixture
async def parent(tmp_path: Path) -> FakeParent:
    return FakeParent(tmp_path)


def refused() -> SidecarError:
    return Refusal("x", "no").error()


def gone() -> WorkerError:
    return WorkerError(WorkerCode.GONE, "is gone")


async def test_all_make_it_ready_before_it_is_in_force_and_any_takes_it(parent: FakeParent) -> None:
    assert await parent.reload()
    assert parent.happened == ["prepare", "prepare", "in force", "commit", "commit", "reload None"]
    assert [len(child.handed) for child in parent.fleet.children] == [1, 1]
    assert listens(parent.port)
    for binding in parent.bound.values():
        binding.close()


@pytest.mark.parametrize("error", [refused(), gone()])
async def test_what_one_cannot_make_ready_nobody_takes(parent: FakeParent, error: SidecarError) -> None:
    parent.fleet.children[1].fails = {Ask.PREPARE: error}
    assert not await parent.reload()
    assert parent.happened == ["prepare", "prepare", "abandon", "abandon", f"reload {error.code}"]
    assert not listens(parent.port)
    assert parent.metrics.reloads_total.labels("failed").read() == 1


async def test_one_that_dies_before_it_takes_it_holds_up_nobody(parent: FakeParent) -> None:
    """It is replaced by one that begins with the new configuration, since that is in force by then."""
    parent.fleet.children[0].fails = {Ask.COMMIT: gone()}
    assert await parent.reload()
    assert parent.happened[-2:] == ["commit", "reload None"]
    assert [child.ended for child in parent.fleet.children] == [[], []]
    for binding in parent.bound.values():
        binding.close()


async def test_one_that_will_not_take_it_after_all_is_replaced(parent: FakeParent) -> None:
    parent.fleet.children[0].fails = {Ask.COMMIT: refused()}
    assert await parent.reload()
    assert [len(child.ended) for child in parent.fleet.children] == [1, 0]
    for binding in parent.bound.values():
        binding.close()


async def test_what_the_system_does_not_give_refuses_it_and_is_told(
    parent: FakeParent, monkeypatch: pytest.MonkeyPatch
) -> None:
    def no_descriptors(_: object) -> object:
        raise OSError(errno.EMFILE, "Too many open files")

    monkeypatch.setattr(module, "bind_at", no_descriptors)
    assert not await parent.reload()
    assert parent.happened == ["abandon", "abandon", "reload reload_system"]
    assert parent.metrics.reloads_total.labels("failed").read() == 1


@pytest.mark.threat(54)
async def test_threat_54_a_drain_does_not_wait_for_what_is_only_being_made_ready(parent: FakeParent) -> None:
    parent.fleet.children[1].hangs.add(Ask.PREPARE)
    reloader = FleetReloader(parent)  # type: ignore[arg-type] - as much of one as is needed
    reloading = asyncio.ensure_future(reloader.reload("a test"))  # noqa: TID251 - a test's own task, awaited below
    await soon(lambda: parent.happened == ["prepare", "prepare"], "the workers to be asked")
    parent.draining = True
    reloader.give_up()
    assert await asyncio.wait_for(reloading, 5) is False
    assert parent.happened == ["prepare", "prepare"]
    assert not parent.fleet.lock.locked()
    assert parent.messages.lines == ['info a reload is given up for a drain cause="a test"']


async def test_one_that_waits_for_a_worker_to_be_started_is_given_up_for_a_drain(parent: FakeParent) -> None:
    async with parent.fleet.lock:
        reloading = asyncio.ensure_future(parent.reload())  # noqa: TID251 - a test's own task, awaited below
        await soon(lambda: parent.fleet.lock._waiters, "it to wait")  # type: ignore[attr-defined] - who waits is not shown
        parent.draining = True
    assert await reloading is False
    assert parent.happened == []


async def test_not_during_a_drain_nor_with_another_number_of_workers(parent: FakeParent) -> None:
    parent.config["workers"] = 3
    assert not await parent.reload()
    parent.config["workers"] = 2
    parent.draining = True
    assert not await parent.reload()
    assert parent.happened == ["reload reload_needs_restart"]
    assert parent.reopened == 2, "whatever becomes of the reload"

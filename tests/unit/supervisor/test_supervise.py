"""The ends of the two: of a proxy that does not end by itself, and of an agent that goes on without one."""

from __future__ import annotations

import os
import signal
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import pytest

from sidecar.admin.client import Reply
from sidecar.errors import LocalError
from sidecar.supervisor import supervise as module
from sidecar.supervisor.signals import Received
from sidecar.supervisor.supervise import AGENT_SECONDS, SPARE_SECONDS, Order, _Supervisor

if TYPE_CHECKING:
    from collections.abc import Callable

PROXY, AGENT = 1, 2
DRAIN = 30.0


@dataclass
class World:
    """Stands in for the children, the signals and the clock. What happens while the supervisor waits is a list."""

    #: While it waits: a signal that comes, or what becomes of children; at its end nothing comes in time.
    happens: list[Received | Callable[[World], None]] = field(default_factory=list)
    #: What ends by which signal, at once.
    obeys: set[tuple[int, int]] = field(default_factory=set)
    exits: dict[int, int] = field(default_factory=dict)
    sent: list[tuple[int, int]] = field(default_factory=list)
    now: float = 100.0
    started: int = 0

    def start(self, *_: object, **__: object) -> int:
        self.started += 1
        return self.started

    def reap(self) -> None:
        pass

    def ended(self, child: int) -> int | None:
        return self.exits.get(child)

    def send(self, child: int, number: int) -> None:
        if child not in self.exits:
            self.sent.append((child, number))
            if (child, number) in self.obeys:
                self.exits[child] = -number

    def wait(self, seconds: float | None = None) -> Received | None:
        if not self.happens:
            assert seconds is not None, "it would wait for ever"
            self.now += seconds
            return None
        each = self.happens.pop(0)
        if isinstance(each, Received):
            return each
        each(self)
        return Received(signal.SIGCHLD)

    def monotonic(self) -> float:
        return self.now


def ends(child: int, code: int) -> Callable[[World], None]:
    return lambda world: world.exits.update({child: code})


@pytest.fixture
def supervise(monkeypatch: pytest.MonkeyPatch) -> Callable[[World], int]:
    def run(world: World) -> int:
        monkeypatch.setattr(module, "Children", lambda: world)
        monkeypatch.setattr(module, "time", SimpleNamespace(monotonic=world.monotonic))
        monkeypatch.setattr(module, "ask", lambda *_, **__: Reply(200, {}))
        order: Any = Order(
            program="python",
            proxy=["python"],
            lent=[os.open(os.devnull, os.O_RDONLY)],
            agent=["agent"],
            environ={},
            admin=Path("admin"),
            ready_seconds=1.0,
            drain_seconds=DRAIN,
        )
        return _Supervisor(order, world).run()  # type: ignore[arg-type] - as much of them as is asked

    return run


def test_a_proxy_that_does_not_end_is_killed_when_its_drain_is_long_over(supervise: Callable[[World], int]) -> None:
    world = World(happens=[ends(AGENT, 7)], obeys={(PROXY, signal.SIGKILL)})
    assert supervise(world) == 7
    assert world.sent == [(PROXY, signal.SIGTERM), (PROXY, signal.SIGKILL)]
    assert world.now == pytest.approx(100.0 + DRAIN + SPARE_SECONDS)


def test_a_signal_while_the_proxy_drains_ends_the_drain(supervise: Callable[[World], int]) -> None:
    world = World(
        happens=[ends(AGENT, 7), Received(signal.SIGWINCH), Received(signal.SIGTERM), ends(PROXY, 1)],
    )
    assert supervise(world) == 7
    assert world.sent == [(PROXY, signal.SIGTERM), (PROXY, signal.SIGTERM)]


def test_an_agent_that_goes_on_without_its_proxy_is_killed(supervise: Callable[[World], int]) -> None:
    world = World(happens=[ends(PROXY, -9)], obeys={(AGENT, signal.SIGKILL)})
    with pytest.raises(LocalError, match="the proxy ended by signal 9"):
        supervise(world)
    assert world.sent == [(AGENT, signal.SIGTERM), (AGENT, signal.SIGKILL)]
    assert world.now >= 100.0 + AGENT_SECONDS


def test_what_everybody_has_got_is_not_passed_on(supervise: Callable[[World], int]) -> None:
    world = World(
        happens=[Received(signal.SIGINT, everybody=True), Received(signal.SIGTERM), ends(AGENT, -15)],
        obeys={(PROXY, signal.SIGTERM)},
    )
    assert supervise(world) == 128 + 15
    assert world.sent == [(AGENT, signal.SIGTERM), (PROXY, signal.SIGTERM)]

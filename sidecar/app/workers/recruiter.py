"""Starts the workers of a parent with what is in force, and tells what becomes of them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from sidecar.app.workers.child import Child
from sidecar.app.workers.keeper import door_of
from sidecar.app.workers.process import Process
from sidecar.app.workers.serving import place_name
from sidecar.app.workers.wire import Ask, WorkerCode
from sidecar.errors import SidecarError
from sidecar.tasks import describe
from sidecar.telemetry.record import Event

if TYPE_CHECKING:
    from sidecar.app.workers.parent import Parent

#: From a worker's start to its serving, in seconds: on a busy machine, with 10,000 rules to check and a key to open.
START_SECONDS: Final = 60.0


class Recruiter:
    """A `sidecar.app.workers.fleet.Owner`. ``loop_choice`` is that of the command line."""

    def __init__(self, parent: Parent, loop_choice: str) -> None:
        self._parent = parent
        self._loop_choice = loop_choice

    async def recruit(self, number: int) -> Child:
        """Starts a worker with the configuration in force and returns it when it serves. Raises SidecarError, OSError."""
        parent = self._parent
        file = parent.loaded.config.source.name
        process = Process.start(["worker", "--of", file, "--number", str(number), "--loop", self._loop_choice])
        child = Child(f"worker {number}", process)
        try:
            child.hand_turns(parent.turns)
            sockets = {place_name(place): bound.sock.fileno() for place, bound in parent.sockets.items()}
            child.hand(sockets | door_of(parent.keeper))
            content = parent.packed | {"protection": parent.keeper and parent.keeper.protection}
            await child.ask(Ask.START, content, seconds=START_SECONDS)
        except BaseException:
            child.end("could not be started")
            raise
        return child

    def lost(self, child: Child, why: str, code: int | None) -> None:
        """A worker is gone."""
        parent = self._parent
        parent.metrics.worker_restarts_total.labels().inc()
        parent.messages.error("a worker is gone", worker=child.name, pid=child.pid, why=why, exit=code)
        parent.write(Event.WORKER, WorkerCode.GONE.value)

    def replaced(self, child: Child) -> None:
        """Another worker serves in its place."""
        self._parent.messages.info("a worker serves in its place", worker=child.name, pid=child.pid)
        self._parent.write(Event.WORKER)

    def not_replaced(self, error: BaseException, pause: float) -> None:
        """No worker could be started in the place of one that is gone."""
        why = str(error) if isinstance(error, SidecarError) else describe(error)
        self._parent.messages.error("no worker could be started", why=why, again_in_seconds=pause)
        self._parent.write(Event.WORKER, str(error.code) if isinstance(error, SidecarError) else WorkerCode.GONE.value)

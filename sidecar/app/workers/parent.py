"""The parent of several workers: reads, binds, asks and sums; takes no connection of a caller or of the agent itself.

It has the face of `sidecar.app.server.Server` for whoever runs it: start, reload, stop, ended, close.
"""

from __future__ import annotations

import ssl
from typing import TYPE_CHECKING, Final

from sidecar.admin.server import Surroundings
from sidecar.app.listening import allow, bind_at, consoles, places
from sidecar.app.watch import watch
from sidecar.app.workers.child import Child
from sidecar.app.workers.console import Console
from sidecar.app.workers.ending import drain
from sidecar.app.workers.fleet import Fleet
from sidecar.app.workers.handed import pack
from sidecar.app.workers.keeper import Keeper, door_of, needed
from sidecar.app.workers.process import Process
from sidecar.app.workers.reload import FleetReloader
from sidecar.app.workers.serving import place_name
from sidecar.app.workers.wire import Ask, WorkerCode
from sidecar.config.effective import policy_version
from sidecar.config.values import LogFull
from sidecar.errors import SidecarError
from sidecar.tasks import describe, exception_handler, spawn
from sidecar.telemetry.access_log import AccessLog
from sidecar.telemetry.messages import Messages
from sidecar.telemetry.metrics import Metrics
from sidecar.telemetry.record import Event, Record
from sidecar.telemetry.sink import Sink
from sidecar.telemetry.turns import Turns

if TYPE_CHECKING:
    import asyncio

    from sidecar.app.listening import Place
    from sidecar.app.workers.channel import Content
    from sidecar.clock import Clock
    from sidecar.config.load import Loaded
    from sidecar.config.values import Config
    from sidecar.proxy.binding import Binding

#: From a worker's start to its serving, in seconds: on a busy machine, with 10,000 rules to check and a key to open.
START_SECONDS: Final = 60.0


class Parent:
    """One process with its workers: started, reloaded any number of times, and drained as one."""

    def __init__(self, loaded: Loaded, clock: Clock, loop: asyncio.AbstractEventLoop, loop_choice: str) -> None:
        self.clock = clock
        self.loop = loop
        self.loaded = loaded
        self.metrics = Metrics()
        self.messages = Messages(clock.wall)
        loop.set_exception_handler(exception_handler(self.messages, self.metrics))
        #: Every bound listener; each worker has them too.
        self.sockets: dict[Place, Binding] = {}
        #: Sockets that whoever started us has bound, until they are taken.
        self.inherited: dict[Place, Binding] = {}
        self.fleet = Fleet(loaded.config.workers, self)
        self.reloader = FleetReloader(self)
        self.turns = Turns.make()
        self.access_log = self.open_log(loaded.config)
        #: Lines dropped by access logs of ours that a reload has replaced.
        self.log_dropped = 0
        self.draining = False
        #: Resolves to the exit code when the process should end.
        self.ended: asyncio.Future[int] = loop.create_future()
        self._packed: Content = pack(loaded)
        #: The signer process, where our key needs one.
        self.keeper: Keeper | None = None
        self._loop_choice = loop_choice
        self._started = False
        around = Surroundings(self.messages, clock, self.metrics.accept_failed)
        self._consoles = consoles(loaded.config, Console(self), around)
        self._watching: asyncio.Task[None] | None = None

    def open_log(self, config: Config) -> AccessLog:
        """Opens the access log that a configuration asks for: for the few lines of ours."""
        sink = Sink.stdout() if config.access_log is None else Sink.file(config.access_log)
        deny = config.log_full is LogFull.DENY
        later, messages = self.loop.call_later, self.messages
        return AccessLog(sink, later=later, messages=messages, deny_when_full=deny, turns=self.turns)

    # -- start ----------------------------------------------------------------------------------------------------------

    async def start(self) -> None:
        """Binds everything, then starts the workers. Raises SidecarError; nothing is open then, and no worker runs."""
        try:
            for place in places(self.loaded.config):
                taken = self.inherited.pop(place, None)
                self.sockets[place] = taken or bind_at(place)
            allow(self.sockets, self.loaded.config, self.messages)
            for console in self._consoles:
                await console.start()
            if needed(self.loaded):
                self.keeper = await Keeper.open(self.loaded, self.messages)
            await self.fleet.start()
        except BaseException:
            await self._let_go()
            raise
        self._started = True
        self.show()
        self._watching = spawn(watch(self.reloader.settled, self.reloader.look, self._files_changed), name="watch")
        self.write(Event.START)
        svid = self.loaded.material.svid
        self.messages.info("ready", identity=svid.id, pin=svid.pin, protection=self.protection)
        config = self.loaded.config
        for direction, entries in (("inbound", config.inbound), ("outbound", config.outbound)):
            for entry in entries:
                self.messages.info("listening", direction=direction, entry=entry.name, address=entry.listen)
        for child in self.fleet.children:
            self.messages.info("a worker serves", worker=child.name, pid=child.pid)

    @property
    def protection(self) -> str:
        """What keeps our key from being copied."""
        return self.keeper.protection if self.keeper else str(self.loaded.material.protection)

    @property
    def reason(self) -> str | None:
        """Why we are not ready; None when we are."""
        if self.draining:
            return "draining"
        if not self._started:
            return "starting"
        return (self.keeper and self.keeper.trouble) or self.fleet.reason

    def show(self) -> None:
        """Tells the metrics what is in force, as far as no worker does."""
        self.metrics.set_policy(policy_version(self.loaded.config))
        self.metrics.log_dropped_total.source = lambda: self.log_dropped + self.access_log.dropped
        self.metrics.workers.labels().source = lambda: len(self.fleet.children)
        self.metrics.worker_restarts_total.labels().inc(0)
        self.metrics.set_build(ssl.OPENSSL_VERSION)

    def write(self, event: Event, error: str | None = None) -> None:
        """Writes the log line of a change of the process."""
        version = policy_version(self.loaded.config)
        record = Record(self.clock.wall(), event, policy_version=version, error=error)
        self.access_log.write(record, urgent=True)

    # -- reload ---------------------------------------------------------------------------------------------------------

    async def reload(self, cause: str) -> bool:
        """Takes the configuration as its files are now, in all workers or in none; returns whether it is in force."""
        return await self.reloader.reload(cause)

    async def _files_changed(self) -> None:
        await self.reload("a changed file")

    def put_into_force(
        self, loaded: Loaded, packed: Content, bound: dict[Place, Binding], keeper: Keeper | None
    ) -> None:
        """From now on this is what a worker is started with."""
        old, self.keeper = self.keeper, keeper
        if old is not None and old is not keeper:
            # Handshakes that were begun with the old key are finished with it.
            limits = self.loaded.config.limits
            self.loop.call_later(max(limits.handshake_timeout, limits.connect_timeout), old.close)
        self.loaded, self._packed = loaded, packed
        kept = places(loaded.config)
        for place in self.sockets.keys() - kept:
            self.sockets.pop(place).close()
        self.sockets |= bound
        allow(self.sockets, loaded.config, self.messages)
        self.show()

    # -- what the fleet asks and tells ----------------------------------------------------------------------------------

    async def recruit(self, number: int) -> Child:
        """Starts a worker with the configuration in force and returns it when it serves. Raises SidecarError, OSError."""
        file = self.loaded.config.source.name
        process = Process.start(["worker", "--of", file, "--number", str(number), "--loop", self._loop_choice])
        child = Child(f"worker {number}", process)
        try:
            child.hand_turns(self.turns)
            sockets = {place_name(place): bound.sock.fileno() for place, bound in self.sockets.items()}
            child.hand(sockets | door_of(self.keeper))
            content = self._packed | {"protection": self.keeper and self.keeper.protection}
            await child.ask(Ask.START, content, seconds=START_SECONDS)
        except BaseException:
            child.end("could not be started")
            raise
        return child

    def lost(self, child: Child, why: str, code: int | None) -> None:
        """A worker is gone."""
        self.metrics.worker_restarts_total.labels().inc()
        self.messages.error("a worker is gone", worker=child.name, pid=child.pid, why=why, exit=code)
        self.write(Event.WORKER, WorkerCode.GONE.value)

    def replaced(self, child: Child) -> None:
        """Another worker serves in its place."""
        self.messages.info("a worker serves in its place", worker=child.name, pid=child.pid)
        self.write(Event.WORKER)

    def not_replaced(self, error: BaseException, pause: float) -> None:
        """No worker could be started in the place of one that is gone."""
        why = str(error) if isinstance(error, SidecarError) else describe(error)
        self.messages.error("no worker could be started", why=why, again_in_seconds=pause)
        self.write(Event.WORKER, str(error.code) if isinstance(error, SidecarError) else WorkerCode.GONE.value)

    # -- the end --------------------------------------------------------------------------------------------------------

    def begin_drain(self) -> None:
        """Begins the drain, once; ``ended`` gets the exit code 0 when it is over."""
        if not self.draining:
            self.draining = True
            spawn(self._drain(), name="drain", on_error=self._drain_broke)

    def stop(self) -> None:
        """Obeys a signal: begins the drain; called again, ends at once with exit code 1."""
        if not self.draining:
            self.begin_drain()
        elif not self.ended.done():
            self.messages.warning("asked again: ending at once")
            self.ended.set_result(1)

    async def _drain(self) -> None:
        timeout = self.loaded.config.drain_timeout
        self.messages.info("draining", timeout_seconds=timeout)
        self.write(Event.DRAIN)
        if not await drain(self, timeout):
            self.messages.warning("drain_timeout is over: what was still in flight is cut")
        if not self.ended.done():
            self.ended.set_result(0)

    def _drain_broke(self, where: str, error: BaseException) -> None:
        self.messages.error("unexpected: the drain failed", where=where, error=describe(error))
        if not self.ended.done():
            self.ended.set_result(1)

    async def close(self) -> None:
        """Ends the workers and lets go of everything; the log is written out."""
        if self._watching is not None:
            self._watching.cancel()
        code = self.ended.result() if self.ended.done() and not self.ended.cancelled() else 1
        for child in self.fleet.children:
            child.tell(Ask.END, {"code": code})
        await self._let_go(END_SECONDS if code == 0 else STOP_SECONDS)
        self.write(Event.STOP)
        self.access_log.close()
        self.turns.close()

    async def _let_go(self, seconds: float = 0.0) -> None:
        await self.fleet.end(seconds)
        if self.keeper is not None:
            self.keeper.close()
            await self.keeper.ended()
        for bound in self.sockets.values():
            bound.close()
        for console in self._consoles:
            await console.close()


#: How long workers have for their logs and for tokens to be revoked, at an end in order and at one at once; in seconds.
END_SECONDS: Final = 8.0
STOP_SECONDS: Final = 3.0

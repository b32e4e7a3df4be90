"""The parent of several workers: reads, binds, asks and sums; takes no connection of a caller or of the agent itself.

It has the face of `sidecar.app.server.Server` for whoever runs it: start, reload, stop, ended, close.
"""

from __future__ import annotations

import ssl
from typing import TYPE_CHECKING, Final

from sidecar.admin.server import Surroundings
from sidecar.app.listening import Consoles, allow, bind_at, places
from sidecar.app.own_log import OwnLog
from sidecar.app.stopping import Stopping
from sidecar.app.workers.console import Console
from sidecar.app.workers.ending import drain
from sidecar.app.workers.fleet import Fleet
from sidecar.app.workers.handed import pack
from sidecar.app.workers.keeper import Keeper, needed
from sidecar.app.workers.recruiter import Recruiter
from sidecar.app.workers.reload import FleetReloader
from sidecar.app.workers.wire import Ask
from sidecar.config.effective import policy_version
from sidecar.tasks import exception_handler
from sidecar.telemetry.messages import Messages
from sidecar.telemetry.metrics import Metrics
from sidecar.telemetry.record import Event, Record
from sidecar.telemetry.turns import Turns

if TYPE_CHECKING:
    import asyncio

    from sidecar.app.listening import Place
    from sidecar.app.workers.channel import Content
    from sidecar.clock import Clock
    from sidecar.config.load import Loaded
    from sidecar.proxy.binding import Binding


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
        #: What a worker is started with.
        self.packed: Content = pack(loaded)
        #: The signer process, where our key needs one.
        self.keeper: Keeper | None = None
        self.fleet = Fleet(loaded.config.workers, Recruiter(self, loop_choice))
        self.reloader = FleetReloader(self)
        self.turns = Turns.make()
        #: For the few lines of ours.
        self.log = OwnLog(loaded.config, loop=loop, messages=self.messages, turns=self.turns)
        self._started = False
        self._consoles = Consoles.of(
            loaded.config, Console(self), Surroundings(self.messages, clock, self.metrics.accept_failed)
        )
        self._watching: asyncio.Task[None] | None = None
        self._stopping = Stopping(self)
        #: Resolves to the exit code when the process should end.
        self.ended = self._stopping.ended

    # -- start ----------------------------------------------------------------------------------------------------------

    async def start(self) -> None:
        """Binds everything, then starts the workers. Raises SidecarError; nothing is open then, and no worker runs."""
        try:
            for place in places(self.loaded.config):
                taken = self.inherited.pop(place, None)
                self.sockets[place] = taken or bind_at(place)
            allow(self.sockets, self.loaded.config, self.messages)
            await self._consoles.start()
            if needed(self.loaded):
                self.keeper = await Keeper.open(self.loaded, self.messages)
            await self.fleet.start()
        except BaseException:
            await self._let_go()
            raise
        self._started = True
        self.show()
        self._watching = self.reloader.watch()
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
    def draining(self) -> bool:
        """Whether all of it ends: no worker is started, and nothing reloaded, any more."""
        return self._stopping.begun

    @property
    def policy_version(self) -> str:
        """The policy in force."""
        return policy_version(self.loaded.config)

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
        self.metrics.set_policy(self.policy_version)
        self.metrics.log_dropped_total.source = lambda: self.log.dropped
        self.metrics.workers.labels().source = lambda: len(self.fleet.children)
        self.metrics.worker_restarts_total.labels().inc(0)
        self.metrics.set_build(ssl.OPENSSL_VERSION)

    def write(self, event: Event, error: str | None = None) -> None:
        """Writes the log line of a change of the process."""
        record = Record(self.clock.wall(), event, policy_version=self.policy_version, error=error)
        self.log.now.write(record, urgent=True)

    def reopen_log(self) -> None:
        """Opens the file of the access log again under its name, in the workers too."""
        self.log.now.reopen()
        for child in self.fleet.children:
            child.tell(Ask.REOPEN, {})

    # -- reload ---------------------------------------------------------------------------------------------------------

    async def reload(self, cause: str) -> bool:
        """Takes the configuration as its files are now, in all workers or in none; returns whether it is in force."""
        return await self.reloader.reload(cause)

    def put_into_force(
        self, loaded: Loaded, packed: Content, bound: dict[Place, Binding], keeper: Keeper | None
    ) -> None:
        """From now on this is what a worker is started with."""
        old, self.keeper = self.keeper, keeper
        if old is not None and old is not keeper:
            # Handshakes that were begun with the old key are finished with it.
            limits = self.loaded.config.limits
            self.loop.call_later(max(limits.handshake_timeout, limits.connect_timeout), old.close)
        self.loaded, self.packed = loaded, packed
        kept = places(loaded.config)
        for place in self.sockets.keys() - kept:
            self.sockets.pop(place).close()
        self.sockets |= bound
        allow(self.sockets, loaded.config, self.messages)
        self.show()

    # -- the end --------------------------------------------------------------------------------------------------------

    def begin_drain(self) -> None:
        """Begins the drain, once; ``ended`` gets the exit code 0 when it is over."""
        self._stopping.begin()

    def stop(self) -> None:
        """Obeys a signal: begins the drain; called again, ends at once with exit code 1."""
        self._stopping.ask()

    async def drain(self, seconds: float) -> bool:
        """Ends inbound in all workers, then outbound; says whether everything ended within ``seconds``."""
        return await drain(self, seconds)

    async def drained(self) -> None:
        """Leaves the rest to the workers, which are told to end by `close`."""

    async def close(self) -> None:
        """Ends the workers and lets go of everything; the log is written out."""
        if self._watching is not None:
            self._watching.cancel()
        code = self.ended.result() if self.ended.done() and not self.ended.cancelled() else 1
        for child in self.fleet.children:
            child.tell(Ask.END, {"code": code})
        await self._let_go(END_SECONDS if code == 0 else STOP_SECONDS)
        self.write(Event.STOP)
        self.log.now.close()
        self.turns.close()

    async def _let_go(self, seconds: float = 0.0) -> None:
        await self.fleet.end(seconds)
        if self.keeper is not None:
            self.keeper.close()
            await self.keeper.ended()
        for bound in self.sockets.values():
            bound.close()
        await self._consoles.close()


#: How long workers have for their logs and for tokens to be revoked, at an end in order and at one at once; in seconds.
END_SECONDS: Final = 8.0
STOP_SECONDS: Final = 3.0

"""The running proxy: starts, reloads all or nothing, drains."""

from __future__ import annotations

from typing import TYPE_CHECKING

from sidecar.admin.server import Surroundings
from sidecar.app import tokens
from sidecar.app.build import Generation, build, http_limits
from sidecar.app.drain import drain
from sidecar.app.listening import Consoles, bind_at, open_listeners
from sidecar.app.own_key import KeyWatch, OwnKey, close_retired
from sidecar.app.own_log import OwnLog
from sidecar.app.reload import Reloader
from sidecar.app.status import Status, show
from sidecar.app.stopping import Stopping
from sidecar.proxy.hub import Hub
from sidecar.tasks import exception_handler
from sidecar.telemetry.messages import Messages
from sidecar.telemetry.metrics import Metrics
from sidecar.telemetry.record import Event, Record

if TYPE_CHECKING:
    import asyncio

    from sidecar.app.listening import Place
    from sidecar.clock import Clock
    from sidecar.config.load import Loaded
    from sidecar.proxy.binding import Binding
    from sidecar.proxy.listener import AnyListener
    from sidecar.telemetry.turns import Turns


class Server:
    """One process: built from a checked configuration, then started, reloaded any number of times, and drained."""

    #: Those of the processes that write to the same access log, where there are several.
    turns: Turns | None = None

    def __init__(
        self, loaded: Loaded, clock: Clock, loop: asyncio.AbstractEventLoop, key: OwnKey | None = None
    ) -> None:
        """``key`` is the opened key of the configuration; not needed for one in a PEM file."""
        self.clock = clock
        self.loop = loop
        self.metrics = Metrics()
        self.messages = Messages(clock.wall)
        loop.set_exception_handler(exception_handler(self.messages, self.metrics))
        self.listeners: dict[Place, AnyListener] = {}
        #: Sockets that whoever started us has bound, until they are taken.
        self.inherited: dict[Place, Binding] = {}
        self.log = OwnLog(loaded.config, loop=loop, messages=self.messages, turns=self.turns)
        self.hub = self._hub(loaded)
        self.generation = build(self.hub, loaded, key or OwnKey.of_file(loaded.material.key), None)
        tokens.took_over(self.generation.tokens, None)
        self.reloader = Reloader(self)
        self._consoles = self._make_consoles(loaded)
        self._watching: asyncio.Task[None] | None = None
        self._key_watch = KeyWatch(self.messages, self.metrics)
        self._stopping = Stopping(self)
        #: Resolves to the exit code when the process should end.
        self.ended = self._stopping.ended

    def _hub(self, loaded: Loaded) -> Hub:
        limits = loaded.config.limits
        self.metrics.log_dropped_total.source = lambda: self.log.dropped
        return Hub(self.loop, self.clock, limits, http_limits(limits), self.log.now, self.metrics, self.messages)

    def _make_consoles(self, loaded: Loaded) -> Consoles:
        around = Surroundings(self.messages, self.clock, self.metrics.accept_failed)
        return Consoles.of(loaded.config, Status(self), around)

    @property
    def loaded(self) -> Loaded:
        """The configuration in force."""
        return self.generation.loaded

    @property
    def policy_version(self) -> str:
        """The policy in force."""
        return self.generation.policy_version

    @property
    def draining(self) -> bool:
        """Whether no more work is taken."""
        return self.hub.draining

    # -- start ----------------------------------------------------------------------------------------------------------

    async def start(self) -> None:
        """Binds everything, then opens everything.

        Raises:
            BindError: an address is taken; nothing has been opened then.

        """
        bound: dict[Place, Binding] = {}
        try:
            for place in self.generation.services:
                bound[place] = self.bind(place)
            await self._consoles.start()
            self.listeners = await open_listeners(self.hub, self.generation.services, bound)
        except BaseException:
            for binding in bound.values():
                binding.close()
            await self._consoles.close()
            raise
        self.hub.start()
        show(self.hub, self.generation)
        self._key_watch.follow(self.generation.key)
        self._announce()

    def _announce(self) -> None:
        """Says that it serves, and begins to look for changed files."""
        self._watching = self.reloader.watch()
        self.write(Event.START)
        own = self.generation.own
        self.messages.info("ready", identity=own.name, pin=own.pin, protection=own.protection)
        for listener in self.listeners.values():
            service = listener.service
            self.messages.info("listening", direction=service.direction, entry=service.name, address=listener.address)

    def bind(self, place: Place) -> Binding:
        """Returns a bound socket for a listener. Raises BindError."""
        return self.inherited.pop(place, None) or bind_at(place)

    async def open_key(self, loaded: Loaded, previous: OwnKey) -> OwnKey:
        """Opens the key of a new configuration, or gives ``previous`` back; as `OwnKey.open`."""
        return await OwnKey.open(loaded, previous)

    def took_key(self, old: Generation) -> None:
        """A reload may have replaced the key: the old one is let go of once no handshake can be under way with it."""
        new = self.generation.key
        if new is old.key:
            return
        self._key_watch.follow(new)
        began = old.loaded.config.limits  # those of the handshakes that were begun with it
        old.key.retire(max(began.handshake_timeout, began.connect_timeout))

    def write(self, event: Event, error: str | None = None) -> None:
        """Writes the log line of a change of the process."""
        record = Record(self.clock.wall(), event, policy_version=self.policy_version, error=error)
        self.log.now.write(record, urgent=True)

    def reopen_log(self) -> None:
        """Opens the file of the access log again under its name: it may have been moved away."""
        self.log.now.reopen()

    async def reload(self, cause: str) -> bool:
        """Takes the configuration as its files are now, all or nothing; returns whether it is in force."""
        return await self.reloader.reload(cause)

    # -- the end --------------------------------------------------------------------------------------------------------

    def begin_drain(self) -> None:
        """Begins the drain, once; ``ended`` gets the exit code 0 when it is over."""
        self._stopping.begin()

    def stop(self) -> None:
        """Obeys a signal: begins the drain; called again, ends at once with exit code 1."""
        self._stopping.ask()

    async def drain(self, seconds: float) -> bool:
        """Ends inbound, then outbound, and cuts what is left after ``seconds``; says whether nothing was."""
        return await drain(self.hub, self.listeners.values(), seconds)

    async def drained(self) -> None:
        """Gives back the tokens that can be."""
        await tokens.revoke_all(self.generation.tokens)

    async def close(self) -> None:
        """Lets go of everything; the log is written out."""
        self.hub.stop()
        self._key_watch.stop()
        if self._watching is not None:
            self._watching.cancel()
        for listener in self.listeners.values():
            listener.stop()
        await self._consoles.close()
        await self.generation.key.close()
        await close_retired()
        self._say_farewell()
        self.log.now.close()

    def _say_farewell(self) -> None:
        self.write(Event.STOP)

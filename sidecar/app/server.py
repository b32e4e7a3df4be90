"""The running proxy: starts, reloads all or nothing, drains."""

from __future__ import annotations

import ssl
from typing import TYPE_CHECKING

from sidecar.admin.server import Surroundings
from sidecar.app import token_status, tokens
from sidecar.app.build import Generation, build, http_limits
from sidecar.app.drain import drain
from sidecar.app.listening import bind_at, consoles
from sidecar.app.own_key import OwnKey, close_retired
from sidecar.app.reload import Reloader
from sidecar.app.status import Status
from sidecar.app.watch import watch
from sidecar.config.values import LogFull
from sidecar.proxy.failure import ProxyCode
from sidecar.proxy.hub import Hub
from sidecar.proxy.listener import Listener
from sidecar.tasks import describe, exception_handler, spawn
from sidecar.telemetry.access_log import AccessLog
from sidecar.telemetry.messages import Messages
from sidecar.telemetry.metrics import Metrics
from sidecar.telemetry.record import Event, Record
from sidecar.telemetry.sink import Sink

if TYPE_CHECKING:
    import asyncio

    from sidecar.app.listening import Console, Place
    from sidecar.clock import Clock
    from sidecar.config.load import Loaded
    from sidecar.config.values import Config
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
        #: Lines dropped by access logs that a reload has replaced.
        self.log_dropped = 0
        self.hub = self._hub(loaded)
        self.generation = build(self.hub, loaded, key or OwnKey.of_file(loaded.material.key), None)
        tokens.took_over(self.generation.tokens, None)
        self.reloader = Reloader(self)
        self._consoles = self._make_consoles(loaded)
        self._watching: asyncio.Task[None] | None = None
        self._key_watch: asyncio.Task[None] | None = None
        self._stopping = False
        #: Resolves to the exit code when the process should end.
        self.ended: asyncio.Future[int] = loop.create_future()

    def _hub(self, loaded: Loaded) -> Hub:
        config = loaded.config
        log = self.open_log(config)
        self.metrics.log_dropped_total.source = lambda: self.log_dropped + self.hub.access_log.dropped
        return Hub(self.loop, self.clock, config.limits, http_limits(config.limits), log, self.metrics, self.messages)

    def open_log(self, config: Config) -> AccessLog:
        """Opens the access log that a configuration asks for."""
        sink = Sink.stdout() if config.access_log is None else Sink.file(config.access_log)
        deny = config.log_full is LogFull.DENY
        later, messages = self.loop.call_later, self.messages
        return AccessLog(sink, later=later, messages=messages, deny_when_full=deny, turns=self.turns)

    def _make_consoles(self, loaded: Loaded) -> list[Console]:
        """The admin socket, and the health listener where there is one: a port opens only after all have been bound."""
        around = Surroundings(self.messages, self.clock, self.metrics.accept_failed)
        return consoles(loaded.config, Status(self), around)

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
            await self._open_consoles()
            self.listeners = await self.open(self.generation, bound)
        except BaseException:
            for binding in bound.values():
                binding.close()
            await self._close_consoles()
            raise
        self.hub.start()
        self.show(self.generation)
        self._watch_key(self.generation.key)
        self._announce()

    def _announce(self) -> None:
        """Says that it serves, and begins to look for changed files."""
        self._watching = spawn(watch(self.reloader.settled, self.reloader.look, self._files_changed), name="watch")
        self.hub.access_log.write(self.event(Event.START), urgent=True)
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

    async def _open_consoles(self) -> None:
        for console in self._consoles:
            await console.start()

    async def _close_consoles(self) -> None:
        for console in self._consoles:
            await console.close()

    def _watch_key(self, key: OwnKey) -> None:
        if self._key_watch is not None:
            self._key_watch.cancel()
        self._key_watch = spawn(key.watch(self.messages, self.metrics), name="key-watch")

    def took_key(self, old: Generation) -> None:
        """A reload may have replaced the key: the old one is let go of once no handshake can be under way with it."""
        new = self.generation.key
        if new is old.key:
            return
        self._watch_key(new)
        began = old.loaded.config.limits  # those of the handshakes that were begun with it
        old.key.retire(max(began.handshake_timeout, began.connect_timeout))

    async def _files_changed(self) -> None:
        await self.reload("a changed file")

    async def open(self, generation: Generation, bound: dict[Place, Binding]) -> dict[Place, AnyListener]:
        """Opens bound addresses for their services; all of them, or none."""
        opened: dict[Place, AnyListener] = {}
        try:
            for place, binding in bound.items():
                listener = Listener(self.hub, generation.services[place], binding)
                opened[place] = listener
                await listener.start()
        except BaseException:
            for listener in opened.values():
                listener.stop()
            for connection in list(self.hub.connections):
                if connection.listener in opened.values():
                    # It came while the others were opened, by rules that will never be in force.
                    connection.give_up(ProxyCode.ENTRY_REMOVED)
            raise
        return opened

    def show(self, generation: Generation) -> None:
        """Tells the metrics what is in force."""
        svid = generation.own.svid
        self.metrics.certificate_expiry_timestamp_seconds.set(svid.not_after)
        self.metrics.set_policy(generation.policy_version)
        for role, workers in self.hub.steps.items():
            self.metrics.handshake_queue.labels(str(role)).source = lambda workers=workers: workers.waiting
        self.metrics.key_info.clear()
        self.metrics.key_info.labels(generation.own.protection).set(1)
        token_status.show(self.hub, generation.tokens)
        self.metrics.set_build(ssl.OPENSSL_VERSION)

    def event(self, event: Event, error: str | None = None) -> Record:
        """Makes the log line of a change of the process."""
        version = self.generation.policy_version
        return Record(self.clock.wall(), event, policy_version=version, error=error)

    async def reload(self, cause: str) -> bool:
        """Takes the configuration as its files are now, all or nothing; returns whether it is in force."""
        return await self.reloader.reload(cause)

    # -- the end --------------------------------------------------------------------------------------------------------

    def begin_drain(self) -> None:
        """Begins the drain, once; ``ended`` gets the exit code 0 when it is over."""
        if not self._stopping:
            self._stopping = True
            spawn(self._drain(), name="drain", on_error=self._drain_broke)

    def stop(self) -> None:
        """Obeys a signal: begins the drain; called again, ends at once with exit code 1."""
        if not self._stopping:
            self.begin_drain()
        elif not self.ended.done():
            self.messages.warning("asked again: ending at once")
            self.ended.set_result(1)

    async def _drain(self) -> None:
        timeout = self.generation.loaded.config.drain_timeout
        self.messages.info("draining", timeout_seconds=timeout)
        self.hub.access_log.write(self.event(Event.DRAIN), urgent=True)
        if not await drain(self.hub, self.listeners.values(), timeout):
            self.messages.warning("drain_timeout is over: what was still in flight is cut")
        await tokens.revoke_all(self.generation.tokens)
        if not self.ended.done():
            self.ended.set_result(0)

    def _drain_broke(self, where: str, error: BaseException) -> None:
        self.messages.error("unexpected: the drain failed", where=where, error=describe(error))
        if not self.ended.done():
            self.ended.set_result(1)

    async def close(self) -> None:
        """Lets go of everything; the log is written out."""
        self.hub.stop()
        for task in (self._watching, self._key_watch):
            if task is not None:
                task.cancel()
        for listener in self.listeners.values():
            listener.stop()
        await self._close_consoles()
        await self.generation.key.close()
        await close_retired()
        self._say_farewell()
        self.hub.access_log.close()

    def _say_farewell(self) -> None:
        self.hub.access_log.write(self.event(Event.STOP), urgent=True)

"""The running proxy: starts, reloads all or nothing, drains."""

from __future__ import annotations

import asyncio
import platform
import ssl
from typing import TYPE_CHECKING, Any

from sidecar import __version__
from sidecar.admin.server import AdminServer, HealthServer
from sidecar.app.build import Generation, Place, build, http_limits
from sidecar.app.drain import drain
from sidecar.app.status import Status
from sidecar.app.watch import Settled, watch
from sidecar.config.faults import InvalidConfiguration
from sidecar.config.load import Loaded, load
from sidecar.config.values import LogFull
from sidecar.errors import ConfigurationError, SidecarError
from sidecar.identity import bundle
from sidecar.proxy.failure import ReloadCode
from sidecar.proxy.hub import Hub
from sidecar.proxy.listener import Listener, bind
from sidecar.tasks import describe, exception_handler, spawn
from sidecar.telemetry.access_log import AccessLog
from sidecar.telemetry.messages import Messages
from sidecar.telemetry.metrics import Metrics
from sidecar.telemetry.record import Event, Record
from sidecar.telemetry.sink import Sink

if TYPE_CHECKING:
    import socket
    from pathlib import Path

    from sidecar.clock import Clock
    from sidecar.config.files import Snapshot
    from sidecar.config.values import Config

    AnyListener = Listener[Any]


class Server:
    """One process: built from a checked configuration, then started, reloaded any number of times, and drained."""

    def __init__(self, loaded: Loaded, clock: Clock, loop: asyncio.AbstractEventLoop) -> None:
        self.clock = clock
        self.loop = loop
        self.metrics = Metrics()
        self.messages = Messages(clock.wall)
        loop.set_exception_handler(exception_handler(self.messages, self.metrics))
        self.listeners: dict[Place, AnyListener] = {}
        self._path: Path = loaded.config.source
        #: Lines dropped by access logs that a reload has replaced.
        self._dropped = 0
        self.hub = self._hub(loaded)
        self.generation = build(self.hub, loaded, None)
        self._tried = loaded.snapshot
        self._settled = Settled(loaded.snapshot)
        self._consoles = self._make_consoles(loaded)
        self._watching: asyncio.Task[None] | None = None
        self._reloading = asyncio.Lock()
        self._stopping = False
        #: Resolves to the exit code when the process should end.
        self.ended: asyncio.Future[int] = loop.create_future()

    def _hub(self, loaded: Loaded) -> Hub:
        config = loaded.config
        log = self._open_log(config)
        self.metrics.log_dropped_total.source = lambda: self._dropped + self.hub.access_log.dropped
        return Hub(self.loop, self.clock, config.limits, http_limits(config.limits), log, self.metrics, self.messages)

    def _open_log(self, config: Config) -> AccessLog:
        sink = Sink.stdout() if config.access_log is None else Sink.file(config.access_log)
        deny = config.log_full is LogFull.DENY
        return AccessLog(sink, later=self.loop.call_later, messages=self.messages, deny_when_full=deny)

    def _make_consoles(self, loaded: Loaded) -> list[AdminServer | HealthServer]:
        """The admin socket, and the health listener where there is one: a port opens only after all have been bound."""
        config, status = loaded.config, Status(self)
        consoles: list[AdminServer | HealthServer] = [
            AdminServer(config.admin.listen.path, config.admin.uids, status, messages=self.messages, clock=self.clock)
        ]
        if config.health is not None:
            where = config.health.listen
            consoles.append(HealthServer(where.host, where.port, status, messages=self.messages, clock=self.clock))
        return consoles

    # -- start ----------------------------------------------------------------------------------------------------------

    async def start(self) -> None:
        """Binds everything, then opens everything.

        Raises:
            BindError: an address is taken; nothing has been opened then.

        """
        bound: dict[Place, socket.socket] = {}
        try:
            for place in self.generation.services:
                bound[place] = bind(place[1], place[2])
            await self._open_consoles()
            self.listeners = await self._open(self.generation, bound)
        except BaseException:
            for sock in bound.values():
                sock.close()
            await self._close_consoles()
            raise
        self.hub.start()
        self._show(self.generation)
        self._watching = spawn(watch(self._settled, self._look, self._files_changed), name="watch")
        self.hub.access_log.write(self._event(Event.START), urgent=True)
        own = self.generation.own
        self.messages.info("ready", identity=own.name, pin=own.pin, protection=own.protection)
        for listener in self.listeners.values():
            service = listener.service
            self.messages.info("listening", direction=service.direction, entry=service.name, address=listener.address)

    async def _open_consoles(self) -> None:
        for console in self._consoles:
            await console.start()

    async def _close_consoles(self) -> None:
        for console in self._consoles:
            await console.close()

    def _look(self) -> Snapshot:
        return self._tried.again()

    async def _files_changed(self) -> None:
        await self.reload("a changed file")

    async def _open(self, generation: Generation, bound: dict[Place, socket.socket]) -> dict[Place, AnyListener]:
        """Opens bound addresses for their services; all of them, or none."""
        opened: dict[Place, AnyListener] = {}
        try:
            for place, sock in bound.items():
                listener = Listener(self.hub, generation.services[place], sock)
                opened[place] = listener
                await listener.start()
        except BaseException:
            for listener in opened.values():
                listener.stop()
            raise
        return opened

    def _show(self, generation: Generation) -> None:
        svid = generation.own.svid
        self.metrics.certificate_expiry_timestamp_seconds.set(svid.not_after)
        self.metrics.set_policy(generation.policy_version)
        self.metrics.build_info.clear()
        self.metrics.build_info.labels(__version__, platform.python_version(), ssl.OPENSSL_VERSION).set(1)

    def _event(self, event: Event, error: str | None = None) -> Record:
        version = self.generation.policy_version
        return Record(self.clock.wall(), event, policy_version=version, error=error)

    # -- reload ---------------------------------------------------------------------------------------------------------

    async def reload(self, cause: str) -> bool:
        """Reads everything once, checks it, and swaps it in; on any failure the old state serves on.

        Returns whether the new configuration is in force.
        """
        async with self._reloading:
            if self.hub.draining:
                self.messages.info("a reload during a drain is ignored", cause=cause)
                return False
            try:
                loaded = await self._read()
                self._refuse_fixed(loaded)
                generation = build(self.hub, loaded, self.generation)
                log, opened = await self._acquire(generation)
            except SidecarError as error:
                self._reload_failed(error, cause)
                return False
            if self.hub.draining:  # it began while the new listeners were opened
                for listener in opened.values():
                    listener.stop()
                if log is not None:
                    log.close()
                return False
            self._swap(generation, opened)
            await self._reopen_log(log)
        self.metrics.reloads_total.labels("ok").inc()
        self.messages.info("reloaded", cause=cause, policy=generation.policy_version)
        self.hub.access_log.write(self._event(Event.RELOAD), urgent=True)
        return True

    async def _acquire(self, generation: Generation) -> tuple[AccessLog | None, dict[Place, AnyListener]]:
        """Opens what is new: another access log, listeners on other addresses. All of it, or nothing."""
        log = self._new_log(generation.loaded.config)
        try:
            return log, await self._open(generation, self._bind_new(generation))
        except BaseException:
            if log is not None:
                log.close()
            raise

    async def _read(self) -> Loaded:
        try:
            # In a thread: a large policy takes a second to read, and traffic goes on meanwhile.
            loaded = await asyncio.to_thread(load, self._path, now=self.clock.wall())
        except InvalidConfiguration as error:
            self._took(error.snapshot)
            raise
        self._took(loaded.snapshot)
        return loaded

    def _took(self, snapshot: Snapshot) -> None:
        """These files were tried: they are tried again only when they change again."""
        self._tried = snapshot
        self._settled.took(snapshot)

    def _refuse_fixed(self, loaded: Loaded) -> None:
        """What cannot be changed while running refuses the reload as a whole, so that nobody believes it was taken."""
        old, new = self.generation.loaded.config, loaded.config
        for key in ("admin", "health"):
            if getattr(old, key) != getattr(new, key):
                raise ConfigurationError(
                    ReloadCode.NEEDS_RESTART, f"{key} cannot change while running", hint=f"restart, or restore {key}"
                )

    def _new_log(self, config: Config) -> AccessLog | None:
        """Opens another access log where the configuration asks for one."""
        old = self.generation.loaded.config
        same = (old.access_log, old.log_full) == (config.access_log, config.log_full)
        return None if same else self._open_log(config)

    async def _reopen_log(self, log: AccessLog | None) -> None:
        """Puts another log in place and writes the old one out; the same log's file is opened again, for logrotate."""
        if log is None:
            self.hub.access_log.reopen()
            return
        old, self.hub.access_log = self.hub.access_log, log
        dropped = old.dropped
        self._dropped += dropped  # at once, and the rest when it is known: a counter never goes back
        await asyncio.to_thread(old.close)
        self._dropped += old.dropped - dropped

    def _bind_new(self, generation: Generation) -> dict[Place, socket.socket]:
        bound: dict[Place, socket.socket] = {}
        try:
            for place in generation.services.keys() - self.listeners.keys():
                bound[place] = bind(place[1], place[2])
        except SidecarError:
            for sock in bound.values():
                sock.close()
            raise
        return bound

    def _swap(self, generation: Generation, opened: dict[Place, AnyListener]) -> None:
        """Puts everything new in place at once: nothing is awaited here, so nobody sees a half of it."""
        old, self.generation = self.generation, generation
        config = generation.loaded.config
        self.hub.limits, self.hub.http_limits = config.limits, http_limits(config.limits)
        for place, listener in list(self.listeners.items()):
            service = generation.services.get(place)
            if service is None:
                del self.listeners[place]
                listener.stop()
            else:
                listener.service = service
        self.listeners |= opened
        for key, pool in old.pools.items():
            if generation.pools.get(key) is not pool:
                pool.retire()
        distrusted = bundle.changed(old.loaded.material.bundles, generation.loaded.material.bundles)
        for connection in list(self.hub.connections):
            connection.review(distrusted)
        self._show(generation)

    def _reload_failed(self, error: SidecarError, cause: str) -> None:
        self.metrics.reloads_total.labels("failed").inc()
        faults = error.faults if isinstance(error, InvalidConfiguration) else [error]
        self.messages.error("reload refused, the old configuration serves on", cause=cause, faults=len(faults))
        for fault in faults:
            self.messages.error(str(fault))
        self.hub.access_log.write(self._event(Event.RELOAD, error=str(error.code)), urgent=True)

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
        self.hub.access_log.write(self._event(Event.DRAIN), urgent=True)
        if not await drain(self.hub, self.listeners.values(), timeout):
            self.messages.warning("drain_timeout is over: what was still in flight is cut")
        if not self.ended.done():
            self.ended.set_result(0)

    def _drain_broke(self, where: str, error: BaseException) -> None:
        self.messages.error("unexpected: the drain failed", where=where, error=describe(error))
        if not self.ended.done():
            self.ended.set_result(1)

    async def close(self) -> None:
        """Lets go of everything; the log is written out."""
        self.hub.stop()
        if self._watching is not None:
            self._watching.cancel()
        await self._close_consoles()
        self.hub.access_log.write(self._event(Event.STOP), urgent=True)
        self.hub.access_log.close()

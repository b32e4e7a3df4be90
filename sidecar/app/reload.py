"""Taking a new configuration while the old one serves: read once, checked, opened, swapped; all of it or nothing."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from sidecar.app import tokens
from sidecar.app.build import Generation, Place, build, http_limits
from sidecar.app.own_key import OwnKey
from sidecar.app.watch import Settled
from sidecar.config.faults import InvalidConfiguration
from sidecar.config.load import Loaded, load
from sidecar.errors import ConfigurationError, SidecarError
from sidecar.identity import bundle
from sidecar.proxy.failure import ProxyCode, ReloadCode
from sidecar.proxy.listener import bind
from sidecar.telemetry.record import Event

if TYPE_CHECKING:
    import socket

    from sidecar.app.server import Server
    from sidecar.config.files import Snapshot
    from sidecar.config.values import Config
    from sidecar.identity.spiffe import TrustDomain
    from sidecar.proxy.connection import Connection
    from sidecar.proxy.listener import AnyListener
    from sidecar.telemetry.access_log import AccessLog


class Reloader:
    """Reloads one server, one reload at a time. ``settled`` compares looks at the files with what was tried last."""

    def __init__(self, server: Server) -> None:
        loaded = server.generation.loaded
        self.settled = Settled(loaded.snapshot)
        self._server = server
        self._path = loaded.config.source
        self._tried = loaded.snapshot
        self._lock = asyncio.Lock()

    def look(self) -> Snapshot:
        """Looks at the files that were tried last, as they are now."""
        return self._tried.again()

    async def reload(self, cause: str) -> bool:
        """Reads everything once, checks it, and swaps it in; on any failure the old state serves on.

        Returns whether the new configuration is in force.
        """
        server = self._server
        async with self._lock:
            if server.hub.draining:
                server.messages.info("a reload during a drain is ignored", cause=cause)
                return False
            key: OwnKey | None = None
            try:
                loaded = await self._read()
                self._refuse_fixed(loaded)
                key = await OwnKey.open(loaded, server.generation.key)
                generation = build(server.hub, loaded, key, server.generation)
                log, opened = await self._acquire(generation)
            except SidecarError as error:
                self._let_go(key)
                self._reload_failed(error, cause)
                return False
            except BaseException:
                self._let_go(key)
                raise
            if server.hub.draining:  # it began while the new listeners were opened
                for listener in opened.values():
                    listener.stop()
                if log is not None:
                    log.close()
                self._let_go(key)
                return False
            self._swap(generation, opened)
            await self._reopen_log(log)
        server.metrics.reloads_total.labels("ok").inc()
        server.messages.info("reloaded", cause=cause, policy=generation.policy_version)
        server.hub.access_log.write(server.event(Event.RELOAD), urgent=True)
        return True

    def _let_go(self, key: OwnKey | None) -> None:
        """Closes a key that was opened for what will never be in force."""
        if key is not None and key is not self._server.generation.key:
            key.retire(0)

    async def _acquire(self, generation: Generation) -> tuple[AccessLog | None, dict[Place, AnyListener]]:
        """Opens what is new: another access log, listeners on other addresses. All of it, or nothing."""
        log = self._new_log(generation.loaded.config)
        try:
            return log, await self._server.open(generation, self._bind_new(generation))
        except BaseException:
            if log is not None:
                log.close()
            raise

    async def _read(self) -> Loaded:
        try:
            # In a thread: a large policy takes a second to read, and traffic goes on meanwhile.
            loaded = await asyncio.to_thread(load, self._path, now=self._server.clock.wall())
        except InvalidConfiguration as error:
            self._took(error.snapshot)
            raise
        self._took(loaded.snapshot)
        return loaded

    def _took(self, snapshot: Snapshot) -> None:
        """These files were tried: they are tried again only when they change again."""
        self._tried = snapshot
        self.settled.took(snapshot)

    def _refuse_fixed(self, loaded: Loaded) -> None:
        """What cannot be changed while running refuses the reload as a whole, so that nobody believes it was taken."""
        old, new = self._server.generation.loaded.config, loaded.config
        for key in ("admin", "health"):
            if getattr(old, key) != getattr(new, key):
                raise ConfigurationError(
                    ReloadCode.NEEDS_RESTART, f"{key} cannot change while running", hint=f"restart, or restore {key}"
                )

    def _new_log(self, config: Config) -> AccessLog | None:
        """Opens another access log where the configuration asks for one."""
        old = self._server.generation.loaded.config
        same = (old.access_log, old.log_full) == (config.access_log, config.log_full)
        return None if same else self._server.open_log(config)

    async def _reopen_log(self, log: AccessLog | None) -> None:
        """Puts another log in place and writes the old one out; the same log's file is opened again, for logrotate."""
        server, hub = self._server, self._server.hub
        if log is None:
            hub.access_log.reopen()
            return
        old, hub.access_log = hub.access_log, log
        dropped = old.dropped
        server.log_dropped += dropped  # at once, and the rest when it is known: a counter never goes back
        await asyncio.to_thread(old.close)
        server.log_dropped += old.dropped - dropped

    def _bind_new(self, generation: Generation) -> dict[Place, socket.socket]:
        bound: dict[Place, socket.socket] = {}
        try:
            for place in generation.services.keys() - self._server.listeners.keys():
                bound[place] = bind(place[1], place[2])
        except SidecarError:
            for sock in bound.values():
                sock.close()
            raise
        return bound

    def _swap(self, generation: Generation, opened: dict[Place, AnyListener]) -> None:
        """Puts everything new in place at once: nothing is awaited here, so nobody sees a half of it."""
        server, hub = self._server, self._server.hub
        old, server.generation = server.generation, generation
        config = generation.loaded.config
        hub.limits, hub.http_limits = config.limits, http_limits(config.limits)
        for place, listener in list(server.listeners.items()):
            service = generation.services.get(place)
            if service is None:
                del server.listeners[place]
                listener.stop()
            else:
                listener.service = service
        server.listeners |= opened
        for key, pool in old.pools.items():
            if generation.pools.get(key) is not pool:
                pool.retire()
        tokens.took_over(generation.tokens, old.tokens)
        hub.keep_issuers(generation.tokens.issuers)
        distrusted = bundle.changed(old.loaded.material.bundles, generation.loaded.material.bundles)
        for connection in list(hub.connections):
            self._review(connection, distrusted)
        server.took_key(old)
        server.show(generation)

    def _review(self, connection: Connection, distrusted: frozenset[TrustDomain]) -> None:
        try:
            connection.review(distrusted)
        except Exception as error:  # noqa: BLE001 - a defect of ours: neither it nor those behind it may stay unreviewed
            connection.give_up(ProxyCode.INTERNAL)
            context = {"message": "a connection could not be reviewed", "exception": error, "where": "reload"}
            self._server.loop.call_exception_handler(context)

    def _reload_failed(self, error: SidecarError, cause: str) -> None:
        server = self._server
        server.metrics.reloads_total.labels("failed").inc()
        faults = error.faults if isinstance(error, InvalidConfiguration) else [error]
        server.messages.error("reload refused, the old configuration serves on", cause=cause, faults=len(faults))
        for fault in faults:
            server.messages.error(str(fault))
        server.hub.access_log.write(server.event(Event.RELOAD, error=str(error.code)), urgent=True)

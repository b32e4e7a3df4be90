"""Taking a new configuration while the old one serves: read once, checked, opened, swapped; all of it or nothing."""

from __future__ import annotations

import asyncio
import concurrent.futures.thread  # noqa: F401 - for `to_thread`: asyncio loads it when there may be no descriptor to do so
from dataclasses import dataclass
from typing import TYPE_CHECKING

from sidecar.app import tokens
from sidecar.app.build import Generation, build, http_limits
from sidecar.app.watch import Settled
from sidecar.config.faults import InvalidConfiguration
from sidecar.config.load import Loaded, load
from sidecar.errors import ConfigurationError, LocalError, SidecarError
from sidecar.identity import bundle
from sidecar.proxy.failure import ProxyCode, ReloadCode
from sidecar.telemetry.record import Event

if TYPE_CHECKING:
    from sidecar.app.listening import Place
    from sidecar.app.own_key import OwnKey
    from sidecar.app.server import Server
    from sidecar.config.files import Snapshot
    from sidecar.config.values import Config
    from sidecar.identity.spiffe import TrustDomain
    from sidecar.proxy.binding import Binding
    from sidecar.proxy.connection import Connection
    from sidecar.proxy.listener import AnyListener
    from sidecar.telemetry.access_log import AccessLog


@dataclass(frozen=True, slots=True)
class Prepared:
    """All that a new configuration needs beside what serves already: another access log, sockets for new addresses."""

    generation: Generation
    log: AccessLog | None
    bound: dict[Place, Binding]


def refuse_fixed(old: Config, new: Config) -> None:
    """Raises ConfigurationError for a change that needs a restart: all of it is refused, so that nobody believes a half."""
    for key in ("workers", "admin", "health"):
        if getattr(old, key) != getattr(new, key):
            raise ConfigurationError(
                ReloadCode.NEEDS_RESTART, f"{key} cannot change while running", hint=f"restart, or restore {key}"
            )


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
            try:
                prepared = await self.prepare(await self._read())
                taken = await self.commit(prepared)
            except SidecarError as error:
                self._reload_failed(error, cause)
                return False
            except OSError as error:  # what is missing is not the configuration's fault, and may be there again later
                self._reload_failed(lacking(error), cause)
                return False
        if not taken:
            return False
        server.metrics.reloads_total.labels("ok").inc()
        server.messages.info("reloaded", cause=cause, policy=prepared.generation.policy_version)
        server.hub.access_log.write(server.event(Event.RELOAD), urgent=True)
        return True

    # -- in two steps ---------------------------------------------------------------------------------------------------

    async def prepare(self, loaded: Loaded) -> Prepared:
        """Makes everything that a checked configuration needs, while the old one serves on.

        Raises SidecarError where that cannot be had: nothing is left of it then.
        """
        server = self._server
        refuse_fixed(server.generation.loaded.config, loaded.config)
        key = await server.open_key(loaded, server.generation.key)
        try:
            generation = build(server.hub, loaded, key, server.generation)
            log = self._new_log(loaded.config)
            try:
                bound = self._bind_new(generation)
            except BaseException:
                if log is not None:
                    log.close()
                raise
        except BaseException:
            self._let_go(key)
            raise
        return Prepared(generation, log, bound)

    async def commit(self, prepared: Prepared) -> bool:
        """Puts what was prepared into force; False where a drain has begun meanwhile: nothing is changed any more.

        Raises BindError where a new address cannot be listened on after all: the old state serves on.
        """
        server = self._server
        try:
            opened = await server.open(prepared.generation, prepared.bound)
        except BaseException:
            self.abandon(prepared)
            raise
        if server.hub.draining:  # it began while the new listeners were opened
            for listener in opened.values():
                listener.stop()
            self.abandon(prepared)
            return False
        self._swap(prepared.generation, opened)
        await self._reopen_log(prepared.log)
        return True

    def abandon(self, prepared: Prepared) -> None:
        """Lets go of what will never be in force."""
        for binding in prepared.bound.values():
            binding.close()
        if prepared.log is not None:
            prepared.log.close()
        self._let_go(prepared.generation.key)

    def _let_go(self, key: OwnKey) -> None:
        """Closes a key that was opened for what will never be in force."""
        if key is not self._server.generation.key:
            key.retire(0)

    async def _read(self) -> Loaded:
        try:
            # In a thread: a large policy takes a second to read, and traffic goes on meanwhile.
            loaded = await asyncio.to_thread(load, self._path, now=self._server.clock.wall())
            loaded = loaded.for_agent(self._server.generation.loaded.config.agent)
        except InvalidConfiguration as error:
            self._took(error.snapshot)
            raise
        self._took(loaded.snapshot)
        return loaded

    def _took(self, snapshot: Snapshot) -> None:
        """These files were tried: they are tried again only when they change again."""
        self._tried = snapshot
        self.settled.took(snapshot)

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

    def _bind_new(self, generation: Generation) -> dict[Place, Binding]:
        bound: dict[Place, Binding] = {}
        try:
            for place in generation.services.keys() - self._server.listeners.keys():
                bound[place] = self._server.bind(place)
        except SidecarError:
            for binding in bound.values():
                binding.close()
            raise
        return bound

    def _swap(self, generation: Generation, opened: dict[Place, AnyListener]) -> None:
        """Puts everything new in place at once: nothing is awaited here, so nobody sees a half of it."""
        server, hub = self._server, self._server.hub
        old, server.generation = server.generation, generation
        config = generation.loaded.config
        hub.limits, hub.http_limits = config.limits, http_limits(config.limits)
        hub.look_at_ages()
        for place, listener in list(server.listeners.items()):
            service = generation.services.get(place)
            if service is None:
                del server.listeners[place]
                listener.stop()
            else:
                listener.replace(service)
        server.listeners |= opened
        for key, pool in old.pools.items():
            if generation.pools.get(key) is not pool:
                pool.retire()
            else:
                pool.freed()  # there may be room for more now
        tokens.took_over(generation.tokens, old.tokens)
        self._tell_of_trust(old, generation)
        hub.keep_issuers(generation.tokens.issuers)
        distrusted = bundle.changed(old.loaded.material.bundles, generation.loaded.material.bundles)
        for connection in list(hub.connections):
            self._review(connection, distrusted)
        server.took_key(old)
        server.show(generation)

    def _tell_of_trust(self, old: Generation, new: Generation) -> None:
        """Says when a bundle went back in time. It is taken: who restores a backup means it, and a restart takes it too."""
        for domain, before, after in bundle.older(old.loaded.material.bundles, new.loaded.material.bundles):
            self._server.messages.warning(
                "the trust bundle is an older one than before (spiffe_sequence)",
                trust_domain=domain,
                before=before,
                after=after,
            )

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


def lacking(error: OSError) -> LocalError:
    """Says that the system is at fault, and not the configuration."""
    text = f"the system does not give what a reload needs: {error.strerror or type(error).__name__}"
    return LocalError(ReloadCode.SYSTEM, text, hint="reload again when it does")

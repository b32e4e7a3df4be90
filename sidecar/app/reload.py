"""Taking a new configuration while the old one serves: read once, checked, opened, swapped; all of it or nothing."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from sidecar.app import tokens
from sidecar.app.build import Generation, build, http_limits
from sidecar.app.listening import open_listeners
from sidecar.app.reloading import Reloading
from sidecar.app.status import show
from sidecar.errors import SidecarError
from sidecar.identity import bundle
from sidecar.proxy.failure import ProxyCode

if TYPE_CHECKING:
    from sidecar.app.listening import Place
    from sidecar.app.own_key import OwnKey
    from sidecar.app.server import Server
    from sidecar.config.load import Loaded
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


class Reloader(Reloading):
    """Reloads one server."""

    def __init__(self, server: Server) -> None:
        super().__init__(server)
        self._server = server

    async def _take(self, loaded: Loaded, cause: str) -> bool:  # noqa: ARG002 - as in Reloading
        return await self.commit(await self.prepare(loaded))

    # -- in two steps ---------------------------------------------------------------------------------------------------

    async def prepare(self, loaded: Loaded) -> Prepared:
        """Makes everything that a checked configuration needs, while the old one serves on.

        Raises SidecarError where that cannot be had: nothing is left of it then.
        """
        server = self._server
        key = await server.open_key(loaded, server.generation.key)
        try:
            generation = build(server.hub, loaded, key, server.generation)
            log = server.log.another(server.loaded.config, loaded.config)
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
            opened = await open_listeners(server.hub, prepared.generation.services, prepared.bound)
        except BaseException:
            self.abandon(prepared)
            raise
        if server.hub.draining:  # it began while the new listeners were opened
            for listener in opened.values():
                listener.stop()
            self.abandon(prepared)
            return False
        self._swap(prepared.generation, opened)
        if prepared.log is not None:
            server.hub.access_log = prepared.log
            await server.log.replace(prepared.log)
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
        show(server.hub, generation)

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

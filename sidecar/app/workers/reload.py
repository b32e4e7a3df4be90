"""Taking a new configuration in several workers: read once, made ready by all, put into force by all; or by none."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Final

from sidecar.app.listening import bind_at, places
from sidecar.app.reload import lacking, refuse_fixed
from sidecar.app.watch import Settled
from sidecar.app.workers.handed import pack
from sidecar.app.workers.keeper import Keeper, door_of, needed
from sidecar.app.workers.serving import place_name
from sidecar.app.workers.wire import Ask, WorkerError
from sidecar.config.effective import policy_version
from sidecar.config.faults import InvalidConfiguration
from sidecar.config.load import load
from sidecar.errors import SidecarError
from sidecar.proxy.listener import listen
from sidecar.telemetry.record import Event

if TYPE_CHECKING:
    from sidecar.app.listening import Place
    from sidecar.app.workers.channel import Content
    from sidecar.app.workers.parent import Parent
    from sidecar.config.files import Snapshot
    from sidecar.config.load import Loaded
    from sidecar.proxy.binding import Binding
    from sidecar.telemetry.access_log import AccessLog

#: What a worker may take to make a configuration ready, and to put it into force, in seconds: then it is killed.
PREPARE_SECONDS: Final = 60.0
COMMIT_SECONDS: Final = 10.0


class FleetReloader:
    """Reloads all workers of one parent, one reload at a time; the counterpart of `sidecar.app.reload.Reloader`."""

    def __init__(self, parent: Parent) -> None:
        self.settled = Settled(parent.loaded.snapshot)
        self._parent = parent
        self._path = parent.loaded.config.source
        self._tried = parent.loaded.snapshot
        self._lock = asyncio.Lock()
        #: What makes a configuration ready just now.
        self._making: asyncio.Task[object] | None = None

    def give_up(self) -> None:
        """A drain begins: it does not wait for what is only being made ready, which may take longer than it has."""
        if self._making is not None:
            self._making.cancel()

    def look(self) -> Snapshot:
        """Looks at the files that were tried last, as they are now."""
        return self._tried.again()

    async def reload(self, cause: str) -> bool:
        """Reads everything once, checks it, and has it taken; on any failure the old state serves on everywhere."""
        parent = self._parent
        async with self._lock:
            if parent.draining:
                parent.messages.info("a reload during a drain is ignored", cause=cause)
                return False
            try:
                loaded = await self._read()
                refuse_fixed(parent.loaded.config, loaded.config)
                taken = await self._take(loaded)
            except SidecarError as error:
                self._failed(error, cause)
                return False
            except OSError as error:
                self._failed(lacking(error), cause)
                return False
            except asyncio.CancelledError:
                if not parent.draining:
                    raise
                parent.messages.info("a reload is given up for a drain", cause=cause)
                return False
        if not taken:
            return False
        parent.metrics.reloads_total.labels("ok").inc()
        parent.messages.info("reloaded", cause=cause, policy=policy_version(loaded.config))
        parent.write(Event.RELOAD)
        return True

    async def _read(self) -> Loaded:
        try:
            loaded = await asyncio.to_thread(load, self._path, now=self._parent.clock.wall())
            loaded = loaded.for_agent(self._parent.loaded.config.agent)
        except InvalidConfiguration as error:
            self._took(error.snapshot)
            raise
        self._took(loaded.snapshot)
        return loaded

    def _took(self, snapshot: Snapshot) -> None:
        self._tried = snapshot
        self.settled.took(snapshot)

    async def _take(self, loaded: Loaded) -> bool:
        """Has all workers take it, or none; False where a drain began meanwhile."""
        parent, packed = self._parent, pack(loaded)
        async with parent.fleet.lock:
            if parent.draining:
                return False
            log = self._new_log(loaded)
            bound: dict[Place, Binding] = {}
            keeper: Keeper | None = None
            self._making = asyncio.current_task()
            try:
                keeper = await self._keeper(loaded)
                for place in places(loaded.config) - parent.sockets.keys():
                    bound[place] = bind_at(place)
                await self._prepare(packed, bound, keeper)
                for binding in bound.values():
                    listen(binding.sock)
            except BaseException:
                self._making = None
                await self._abandon()
                if keeper is not None and keeper is not parent.keeper:
                    keeper.close()
                for binding in bound.values():
                    binding.close()
                if log is not None:
                    log.close()
                raise
            self._making = None
            # From here on nothing can refuse: a worker that fails now is replaced by one that begins with the new one.
            parent.put_into_force(loaded, packed, bound, keeper)
            await self._commit()
        await self._reopen_log(log)
        return True

    async def _keeper(self, loaded: Loaded) -> Keeper | None:
        """The signer process of a configuration: the one that there is, where it is the same key. Raises SidecarError."""
        parent = self._parent
        if not needed(loaded):
            return None
        if parent.keeper is not None and parent.keeper.serves(loaded):
            return parent.keeper
        return await Keeper.open(loaded, parent.messages)

    # -- the two steps --------------------------------------------------------------------------------------------------

    async def _prepare(self, packed: Content, bound: dict[Place, Binding], keeper: Keeper | None) -> None:
        """Has every worker make it ready. Raises what the first one that cannot says."""
        children = self._parent.fleet.children
        door = {} if keeper is self._parent.keeper else door_of(keeper)
        for child in children:
            child.hand({place_name(place): binding.sock.fileno() for place, binding in bound.items()} | door)
        content = packed | {"protection": keeper and keeper.protection}
        asking = (child.ask(Ask.PREPARE, content, seconds=PREPARE_SECONDS) for child in children)
        for found in await asyncio.gather(*asking, return_exceptions=True):
            if isinstance(found, BaseException):
                raise found

    async def _abandon(self) -> None:
        if self._parent.draining:  # all of it ends with the process
            return
        asking = (child.ask(Ask.ABANDON, seconds=COMMIT_SECONDS) for child in self._parent.fleet.children)
        await asyncio.gather(*asking, return_exceptions=True)

    async def _commit(self) -> None:
        children = self._parent.fleet.children
        asking = (child.ask(Ask.COMMIT, seconds=COMMIT_SECONDS) for child in children)
        for child, found in zip(children, await asyncio.gather(*asking, return_exceptions=True), strict=True):
            if isinstance(found, SidecarError) and not isinstance(found, WorkerError):
                child.end(f"did not take the new configuration: {found}")
            elif isinstance(found, BaseException) and not isinstance(found, WorkerError):
                raise found

    # -- our own log ----------------------------------------------------------------------------------------------------

    def _new_log(self, loaded: Loaded) -> AccessLog | None:
        old, new = self._parent.loaded.config, loaded.config
        same = (old.access_log, old.log_full) == (new.access_log, new.log_full)
        return None if same else self._parent.open_log(new)

    async def _reopen_log(self, log: AccessLog | None) -> None:
        parent = self._parent
        if log is None:
            parent.access_log.reopen()
            return
        old, parent.access_log = parent.access_log, log
        dropped = old.dropped
        parent.log_dropped += dropped
        await asyncio.to_thread(old.close)
        parent.log_dropped += old.dropped - dropped

    def _failed(self, error: SidecarError, cause: str) -> None:
        parent = self._parent
        parent.metrics.reloads_total.labels("failed").inc()
        faults = error.faults if isinstance(error, InvalidConfiguration) else [error]
        parent.messages.error("reload refused, the old configuration serves on", cause=cause, faults=len(faults))
        for fault in faults:
            parent.messages.error(str(fault))
        parent.write(Event.RELOAD, str(error.code))

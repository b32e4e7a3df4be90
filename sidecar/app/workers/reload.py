"""Taking a new configuration in several workers: read once, made ready by all, put into force by all; or by none."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Final

from sidecar.app.listening import bind_at, places
from sidecar.app.reloading import Reloading
from sidecar.app.workers.handed import pack
from sidecar.app.workers.keeper import Keeper, door_of, needed
from sidecar.app.workers.serving import place_name
from sidecar.app.workers.wire import Ask, WorkerError
from sidecar.errors import SidecarError
from sidecar.proxy.listener import listen

if TYPE_CHECKING:
    from sidecar.app.listening import Place
    from sidecar.app.workers.channel import Content
    from sidecar.app.workers.parent import Parent
    from sidecar.config.load import Loaded
    from sidecar.proxy.binding import Binding
    from sidecar.telemetry.access_log import AccessLog

#: What a worker may take to make a configuration ready, and to put it into force, in seconds: then it is killed.
PREPARE_SECONDS: Final = 60.0
COMMIT_SECONDS: Final = 10.0


class FleetReloader(Reloading):
    """Reloads all workers of one parent."""

    def __init__(self, parent: Parent) -> None:
        super().__init__(parent)
        self._parent = parent
        #: What makes a configuration ready just now.
        self._making: asyncio.Task[object] | None = None

    def give_up(self) -> None:
        """A drain begins: it does not wait for what is only being made ready, which may take longer than it has."""
        if self._making is not None:
            self._making.cancel()

    async def _take(self, loaded: Loaded, cause: str) -> bool:
        """Has all workers take it, or none; False where a drain began meanwhile."""
        parent = self._parent
        try:
            async with parent.fleet.lock:
                if parent.draining:
                    return False
                log = await self._make_all_take(loaded)
        except asyncio.CancelledError:
            if not parent.draining:
                raise
            parent.messages.info("a reload is given up for a drain", cause=cause)
            return False
        if log is not None:
            await parent.log.replace(log)
        return True

    async def _make_all_take(self, loaded: Loaded) -> AccessLog | None:
        """Has all workers take it, and returns another log of ours where it asks for one; raises where one cannot."""
        parent, packed = self._parent, pack(loaded)
        log = parent.log.another(parent.loaded.config, loaded.config)
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
        return log

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

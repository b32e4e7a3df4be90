"""The process of one worker: does what its parent asks."""

from __future__ import annotations

import asyncio
import os
from itertools import islice
from typing import TYPE_CHECKING

from sidecar.admin.answers import SHOWN_CONNECTIONS, GivenToken, NoToken
from sidecar.app import tokens
from sidecar.app.drain import cut, end
from sidecar.app.own_key import OwnKey
from sidecar.app.process import spare_collector
from sidecar.app.reloading import lacking
from sidecar.app.status import Status
from sidecar.app.workers import handed, sums
from sidecar.app.workers.answering import Answering, check_version
from sidecar.app.workers.lent import DOOR, LentKey
from sidecar.app.workers.serving import WorkerServer, share
from sidecar.app.workers.wire import Ask, WorkerCode, WorkerError

if TYPE_CHECKING:
    import socket

    from sidecar.app.reload import Prepared
    from sidecar.app.workers.channel import Content
    from sidecar.clock import Clock


class Worker(Answering):
    """Serves."""

    def __init__(self, sock: socket.socket, clock: Clock) -> None:
        super().__init__(sock, clock)
        self._server: WorkerServer | None = None
        self._prepared: Prepared | None = None
        #: What was in force beside ``_prepared``.
        self._lent_before: LentKey | None = None
        self.handlers = {
            Ask.START: self._start,
            Ask.PREPARE: self._prepare,
            Ask.COMMIT: self._commit,
            Ask.ABANDON: self._abandon,
            Ask.REOPEN: self._reopen,
            Ask.STATUS: self._status,
            Ask.CONNECTIONS: self._connections,
            Ask.TOKENS: self._tokens,
            Ask.TOKEN: self._token,
            Ask.DRAIN: self._drain,
            Ask.END: self._end,
        }

    async def close(self) -> None:
        """Lets go of everything; the log is written out."""
        if self._server is not None:
            await self._server.close()

    async def _start(self, content: Content) -> Content:
        check_version(content)
        given = self.take_handed()
        assert self.turns is not None  # noqa: S101 - it was handed first
        loaded = share(handed.unpack(content))
        lent = _lent(given, content)
        key = await OwnKey.open(loaded, lent=lent)
        try:
            server = WorkerServer(loaded, self.clock, asyncio.get_running_loop(), key, self.turns)
            server.lent = lent
            server.handed = given
            await server.start()
        except BaseException:
            await key.close()
            raise
        self._server = server
        spare_collector()
        return {}

    async def _prepare(self, content: Content) -> Content:
        server = self._serving
        before = server.lent
        try:
            server.handed = self.take_handed()
            new = _lent(server.handed, content)
            if new is not None or content["protection"] is None:
                server.lent = new
            # In a thread, as in one process: a large policy takes a second to read, and traffic goes on meanwhile.
            loaded = await asyncio.to_thread(handed.unpack, content)
            self._prepared = await server.reloader.prepare(share(loaded))
        except OSError as error:  # as in one process
            server.lent = before
            raise lacking(error) from error
        except BaseException:
            server.lent = before
            raise
        finally:
            server.forget_handed()
        self._lent_before = before
        return {}

    async def _commit(self, _: Content) -> Content:
        prepared, self._prepared = self._prepared, None
        if prepared is None or not await self._serving.reloader.commit(prepared):
            raise WorkerError(WorkerCode.INTERNAL, f"the worker {os.getpid()} has nothing to put into force")
        return {}

    async def _abandon(self, _: Content) -> Content:
        prepared, self._prepared = self._prepared, None
        if prepared is not None:
            self._serving.reloader.abandon(prepared)
            self._serving.lent = self._lent_before
        return {}

    async def _reopen(self, _: Content) -> Content:
        self._serving.reopen_log()
        return {}

    async def _status(self, _: Content) -> Content:
        server = self._serving
        return {"ready": Status(server).ready(), "metrics": sums.dump(server.metrics)}

    async def _connections(self, _: Content) -> Content:
        mine = {"worker": os.getpid()}
        listed = islice(Status(self._serving).connections(), SHOWN_CONNECTIONS + 1)
        return {"connections": [mine | each for each in listed]}

    async def _tokens(self, _: Content) -> Content:
        return Status(self._serving).tokens()

    async def _token(self, content: Content) -> Content:
        found = await Status(self._serving).token(content["name"])
        if isinstance(found, GivenToken):
            return {"token": found.value}
        return {"error": found.code} if isinstance(found, NoToken) else {}

    async def _drain(self, content: Content) -> Content:
        server = self._serving
        server.hub.draining = True
        deadline = self.clock.monotonic() + content["seconds"]
        return {"done": await end(server.hub, server.listeners.values(), content["direction"], deadline)}

    async def _end(self, content: Content) -> Content:
        if self._server is not None:
            cut(self._server.hub)
            if content["code"] == 0:  # else it is to end at once
                await tokens.revoke_all(self._server.generation.tokens)
        self.finish(content["code"])
        return {}

    @property
    def _serving(self) -> WorkerServer:
        assert self._server is not None  # noqa: S101 - START is what a worker is asked first
        return self._server


def _lent(given: dict[str, socket.socket], content: Content) -> LentKey | None:
    """The key that the parent's signer process has opened, where there is one that is new to us."""
    door = given.pop(DOOR, None)
    return None if door is None else LentKey(door, content["protection"])

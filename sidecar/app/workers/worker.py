"""The process of one worker: does what its parent asks, and ends when its parent is gone."""

from __future__ import annotations

import asyncio
import os
import signal
import socket
from itertools import islice
from typing import TYPE_CHECKING, Any, Final

from sidecar import __version__
from sidecar.admin.answers import SHOWN_CONNECTIONS, GivenToken, NoToken
from sidecar.app import tokens
from sidecar.app.drain import cut, end
from sidecar.app.own_key import OwnKey
from sidecar.app.status import Status
from sidecar.app.workers import handed, sums
from sidecar.app.workers.channel import Channel, Content
from sidecar.app.workers.serving import WorkerServer, share
from sidecar.app.workers.wire import Ask, Refusal, WorkerCode, WorkerError
from sidecar.cli.run import spare_collector
from sidecar.errors import SidecarError
from sidecar.tasks import describe, spawn
from sidecar.telemetry.messages import Messages
from sidecar.telemetry.turns import Turns

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from sidecar.app.reload import Prepared
    from sidecar.clock import Clock

#: What a terminal or a service manager sends to a whole group: the parent gets it too, and asks us to do what is due.
_THE_PARENTS: Final = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT)
#: The exit code where the parent is gone, or asked for what cannot be done.
_FAILED: Final = 1


class Worker:
    """Answers questions until the end. Each handler raises SidecarError to refuse."""

    def __init__(self, sock: socket.socket, clock: Clock) -> None:
        self._clock = clock
        self._loop = asyncio.get_running_loop()
        self._messages = Messages(clock.wall)
        self._server: WorkerServer | None = None
        self._prepared: Prepared | None = None
        self._sockets: dict[str, socket.socket] = {}
        self._turns: Turns | None = None
        #: Resolves to the exit code.
        self._ended: asyncio.Future[int] = self._loop.create_future()
        self._channel = Channel(sock, self._asked, self._parent_gone)
        self._handlers: dict[Ask, Callable[[Content], Awaitable[Content]]] = {
            Ask.START: self._start,
            Ask.PREPARE: self._prepare,
            Ask.COMMIT: self._commit,
            Ask.ABANDON: self._abandon,
            Ask.STATUS: self._status,
            Ask.CONNECTIONS: self._connections,
            Ask.TOKENS: self._tokens,
            Ask.TOKEN: self._token,
            Ask.DRAIN: self._drain,
            Ask.END: self._end,
        }

    async def run(self) -> int:
        """Serves until it is told to end; returns the exit code."""
        for signum in _THE_PARENTS:
            signal.signal(signum, signal.SIG_IGN)
        try:
            return await self._ended
        finally:
            if self._server is not None:
                await self._server.close()

    # -- what the channel calls ---------------------------------------------------------------------------------------

    def _parent_gone(self, why: str) -> None:  # noqa: ARG002 - there is nobody to tell
        # Nobody can ask us to drain any more, and whoever is started in the parent's place needs our addresses.
        self._finish(_FAILED)

    def _asked(self, content: Content, descriptors: list[int]) -> None:
        kind = Ask(content["ask"])
        if kind is Ask.HAND and content.get("turns"):
            self._turns = Turns(*descriptors)
        elif kind is Ask.HAND:
            for name, number in zip(content["places"], descriptors, strict=True):
                self._sockets[name] = socket.socket(fileno=number)
        else:
            spawn(self._answer(kind, content), name="worker-answer")

    async def _answer(self, kind: Ask, content: Content) -> None:
        answer: dict[str, Any] = {"number": content["number"]}
        try:
            answer["done"] = await self._handlers[kind](content)
        except SidecarError as error:
            answer["refused"] = Refusal.of(error).content()
        except Exception as error:  # noqa: BLE001 - a defect of ours; the parent ends us for it
            self._messages.error("unexpected: a worker failed", where=kind.value, error=describe(error))
            failed = WorkerError(WorkerCode.INTERNAL, f"the worker {os.getpid()} failed: its message says where")
            answer["refused"] = Refusal.of(failed).content()
        self._channel.send(answer)

    def _finish(self, code: int) -> None:
        if not self._ended.done():
            self._ended.set_result(code)

    # -- what is asked ------------------------------------------------------------------------------------------------

    async def _start(self, content: Content) -> Content:
        if content["version"] != __version__:
            raise WorkerError(
                WorkerCode.VERSION,
                f"this is sidecar {__version__} by now, its parent is {content['version']}",
                hint="restart it: the package was replaced while it ran",
            )
        loaded = share(handed.unpack(content))
        key = await OwnKey.open(loaded)
        try:
            assert self._turns is not None  # noqa: S101 - it was handed first
            server = WorkerServer(loaded, self._clock, self._loop, key, self._turns)
            server.handed, self._sockets = self._sockets, {}
            await server.start()
        except BaseException:
            await key.close()
            raise
        self._server = server
        spare_collector()
        return {}

    async def _prepare(self, content: Content) -> Content:
        server = self._serving
        server.handed, self._sockets = self._sockets, {}
        try:
            self._prepared = await server.reloader.prepare(share(handed.unpack(content)))
        finally:
            server.forget_handed()
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
        deadline = self._clock.monotonic() + content["seconds"]
        return {"done": await end(server.hub, server.listeners.values(), content["direction"], deadline)}

    async def _end(self, content: Content) -> Content:
        if self._server is not None:
            cut(self._server.hub)
            await tokens.revoke_all(self._server.generation.tokens)
        self._finish(content["code"])
        return {}

    @property
    def _serving(self) -> WorkerServer:
        assert self._server is not None  # noqa: S101 - START is what a worker is asked first
        return self._server

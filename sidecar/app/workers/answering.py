"""What the processes have in common that a parent starts for itself: they answer its questions, and end when it is gone."""

from __future__ import annotations

import asyncio
import errno
import os
import signal
import socket
from typing import TYPE_CHECKING, Any, Final

from sidecar import __version__
from sidecar.app.workers.channel import Channel, Content
from sidecar.app.workers.wire import Ask, Refusal, WorkerCode, WorkerError
from sidecar.errors import SidecarError
from sidecar.tasks import describe, spawn
from sidecar.telemetry.messages import Messages
from sidecar.telemetry.turns import Turns

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Mapping

    from sidecar.clock import Clock

#: What a terminal or a service manager sends to a whole group: the parent gets it too, and asks us to do what is due.
_THE_PARENTS: Final = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT)
#: The exit code where the parent is gone.
_ALONE: Final = 1


class Answering:
    """Answers until the end. A handler raises SidecarError to refuse."""

    def __init__(self, sock: socket.socket, clock: Clock) -> None:
        self.clock = clock
        self.messages = Messages(clock.wall)
        self._handed: dict[str, socket.socket] = {}
        self._short = False
        self.turns: Turns | None = None
        self.handlers: Mapping[Ask, Callable[[Content], Awaitable[Content]]] = {}
        #: Resolves to the exit code.
        self.ended: asyncio.Future[int] = asyncio.get_running_loop().create_future()
        self._channel = Channel(sock, self._asked, self._parent_gone)

    async def run(self) -> int:
        """Answers until it is told to end; returns the exit code."""
        for signum in _THE_PARENTS:
            signal.signal(signum, signal.SIG_IGN)
        try:
            return await self.ended
        finally:
            await self.close()

    async def close(self) -> None:
        """Lets go of everything."""

    def take_handed(self) -> dict[str, socket.socket]:
        """Returns what was handed over for the question that is answered, by its name.

        Raises OSError where this process had no descriptor left for all of it.
        """
        found, self._handed = self._handed, {}
        short, self._short = self._short, False
        if short:
            for sock in found.values():
                sock.close()
            raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))
        return found

    def finish(self, code: int) -> None:
        """Ends, with that exit code."""
        if not self.ended.done():
            self.ended.set_result(code)

    # -- what the channel calls ---------------------------------------------------------------------------------------

    def _parent_gone(self, why: str) -> None:  # noqa: ARG002 - there is nobody to tell
        # Nobody can ask us to drain any more, and whoever is started in the parent's place needs our addresses.
        self.finish(_ALONE)

    def _asked(self, content: Content, descriptors: list[int]) -> None:
        kind = Ask(content["ask"])
        if kind is not Ask.HAND:
            spawn(self._answer(kind, content), name="worker-answer")
        elif not descriptors:
            self._short = True
        elif content.get("turns"):
            self.turns = Turns(*descriptors)
        else:
            for name, number in zip(content["places"], descriptors, strict=True):
                self._handed[name] = socket.socket(fileno=number)

    async def _answer(self, kind: Ask, content: Content) -> None:
        answer: dict[str, Any] = {"number": content["number"]}
        try:
            answer["done"] = await self.handlers[kind](content)
        except SidecarError as error:
            answer["refused"] = Refusal.of(error).content()
        except Exception as error:  # noqa: BLE001 - a defect of ours; the parent is told that there is one
            self.messages.error("unexpected: a worker failed", where=kind.value, error=describe(error))
            failed = WorkerError(WorkerCode.INTERNAL, f"the worker {os.getpid()} failed: its message says where")
            answer["refused"] = Refusal.of(failed).content()
        self._channel.send(answer)


def check_version(content: Content) -> None:
    """Raises WorkerError where the package was replaced under a running parent."""
    if content["version"] != __version__:
        raise WorkerError(
            WorkerCode.VERSION,
            f"this is sidecar {__version__} by now, its parent is {content['version']}",
            hint="restart it: the package was replaced while it ran",
        )

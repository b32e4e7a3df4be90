"""What signals ask of a process that serves: from before it has opened anything, which takes a while with a device or workers."""

from __future__ import annotations

import asyncio
import signal
from typing import TYPE_CHECKING

from sidecar.tasks import spawn

if TYPE_CHECKING:
    from sidecar.app.server import Server
    from sidecar.app.workers.parent import Parent


class Signals:
    """Made in the task that starts the server. SIGTERM and SIGINT end that, and later drain; SIGHUP reloads.

    A SIGHUP that comes while it starts waits until it serves: nobody means to end it by that. One that comes while a
    reload is yet to begin asks for nothing more, but that the log is opened again, at once.
    """

    def __init__(self) -> None:
        #: The start was given up: what was opened for it is closed again.
        self.ended_start = False
        self._starting = asyncio.current_task()
        self._server: Server | Parent | None = None
        self._reload_wanted = False
        self._reloading = False
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self._stop)
        loop.add_signal_handler(signal.SIGHUP, self._hang_up)

    def serve(self, server: Server | Parent) -> None:
        """From now on it is this server that is asked."""
        self._server = server
        if self._reload_wanted:
            self._begin_reload()

    def _stop(self) -> None:
        if self._server is not None:
            self._server.stop()
        elif self._starting is not None and not self.ended_start:
            self.ended_start = True
            self._starting.cancel()

    def _hang_up(self) -> None:
        self._reload_wanted = True
        if self._server is None:
            return
        if self._reloading:
            self._server.reopen_log()
        else:
            self._begin_reload()

    def _begin_reload(self) -> None:
        self._reloading = True
        spawn(self._reload(), name="reload")

    async def _reload(self) -> None:
        assert self._server is not None  # noqa: S101 - see `serve`
        try:
            while self._reload_wanted:
                self._reload_wanted = False
                await self._server.reload("SIGHUP")
        finally:
            self._reloading = False

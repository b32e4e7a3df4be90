"""One more process of ours: started by exec, with one end of a channel, and ended for certain.

Never by fork alone: the parent has an event loop and threads, and what they hold is held for ever in a forked child. The
child gets no descriptor but its channel and the standard ones; the rest comes over the channel.
"""

from __future__ import annotations

import asyncio
import socket
import subprocess
import sys
from typing import TYPE_CHECKING, Final

from sidecar.interpreter import interpreter, path_flags
from sidecar.tasks import spawn

if TYPE_CHECKING:
    from collections.abc import Sequence

#: How often a process that must end is looked at, in seconds: it was killed, so it does not take long.
_LOOK_SECONDS: Final = 0.01
#: The module that such a process runs: `sidecar.app.workers.__main__`.
MODULE: Final = "sidecar.app.workers"


class Process:
    """A child of this process. ``sock`` is our end of its channel."""

    def __init__(self, popen: subprocess.Popen[bytes], sock: socket.socket) -> None:
        self._popen = popen
        self.sock = sock
        self.pid = popen.pid
        #: Its exit code, negative for a signal, once it has ended.
        self.ended: asyncio.Future[int] = asyncio.get_running_loop().create_future()
        self._reaping = False

    @classmethod
    def start(cls, arguments: Sequence[str]) -> Process:
        """Starts ``python -m sidecar.app.workers ARGUMENTS --channel N``. Raises OSError."""
        ours, its = socket.socketpair()
        try:
            with its:
                command = [sys.executable, *path_flags(), "-m", MODULE, *arguments, "--channel", str(its.fileno())]
                # A process group of its own: what is typed at our terminal is for us alone, and we tell it.
                popen = subprocess.Popen(  # noqa: S603 - our own interpreter and module
                    command,
                    executable=interpreter(),
                    stdin=subprocess.DEVNULL,
                    pass_fds=(its.fileno(),),
                    process_group=0,
                )
        except OSError:
            ours.close()
            raise
        return cls(popen, ours)

    def kill(self) -> None:
        """Ends it at once, if it has not ended; ``ended`` says when."""
        if self._popen.poll() is None:
            self._popen.kill()
        self.reap()

    def reap(self) -> None:
        """Looks after its end from now on: its channel is closed, so it comes."""
        if not self._reaping:
            self._reaping = True
            spawn(self._reap(), name="worker-reap")

    async def _reap(self) -> None:
        while (code := self._popen.poll()) is None:  # noqa: ASYNC110 - the kernel tells nobody but by SIGCHLD
            await asyncio.sleep(_LOOK_SECONDS)
        if not self.ended.done():
            self.ended.set_result(code)

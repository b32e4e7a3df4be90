"""One more process of ours: started by exec, with one end of a channel, and ended for certain.

Never by fork alone: the parent has an event loop and threads, and what they hold is held for ever in a forked child. The
child gets no descriptor but its channel and the standard ones; the rest comes over the channel.
"""

from __future__ import annotations

import asyncio
import os
import socket
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Final

import sidecar
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
                command = [sys.executable, *_path_flags(), "-m", MODULE, *arguments, "--channel", str(its.fileno())]
                # A process group of its own: what is typed at our terminal is for us alone, and we tell it.
                popen = subprocess.Popen(  # noqa: S603 - our own interpreter and module
                    command,
                    executable=_interpreter(),
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


def _interpreter() -> str:
    """The program that we are; by its name, unless that cannot be executed any more, or by us."""
    itself = "/proc/self/exe"
    by_name = os.access(sys.executable, os.X_OK) or not Path(itself).exists()
    return sys.executable if by_name else itself


def _path_flags() -> list[str]:
    """How the child finds the package where we found it, and not in whatever folder we were started in.

    What keeps us from the environment's modules and the user's keeps the child from them as well. ``-P`` keeps the working
    directory off its path, unless that is where we have the package from ourselves.
    """
    if sys.flags.isolated:
        return ["-I"]
    root = str(Path(sidecar.__file__).parent.parent)
    from_cwd = bool(sys.path) and sys.path[0] == root and not sys.flags.safe_path
    given = (("-E", sys.flags.ignore_environment), ("-s", sys.flags.no_user_site), ("-P", not from_cwd))
    return [flag for flag, there in given if there]

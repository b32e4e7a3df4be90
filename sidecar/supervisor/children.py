"""Children: started with nothing of ours, and reaped, also those that only became ours because we are process 1."""

from __future__ import annotations

import os
import signal
from contextlib import suppress
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

#: What Python itself ignores; a program expects the default.
_DEFAULT: Final = (signal.SIGPIPE, signal.SIGXFSZ)


class Children:
    """The processes that were started, and how those that have ended did."""

    def __init__(self) -> None:
        self._ended: dict[int, int] = {}
        self._alive: set[int] = set()

    def start(
        self,
        words: Sequence[str],
        environ: Mapping[str, str],
        *,
        program: str | None = None,
        output: int | None = None,
        inherited: Sequence[int] = (),
        apart: bool = False,
    ) -> int:
        """Starts a program, by its path or its name in PATH, and returns its process id; signals are as by default.

        ``program`` is what is executed where that is not the first of ``words``.
        It has our standard streams, except where ``output`` stands in for standard output, which leaves it no input either.
        Of descriptors that we have opened it gets those ``inherited``. ``apart``: in a session of its own, which no
        terminal's signal reaches. Raises OSError where it cannot be started.
        """
        actions: list[tuple[int, int, int] | tuple[int, str, int, int]] = []
        if output is not None:
            actions = [(os.POSIX_SPAWN_OPEN, 0, os.devnull, os.O_RDONLY, 0), (os.POSIX_SPAWN_DUP2, output, 1)]  # type: ignore[list-item]
        for descriptor in inherited:
            os.set_inheritable(descriptor, True)
        try:
            child = os.posix_spawnp(
                program or words[0],
                list(words),
                dict(environ),
                file_actions=actions,
                setsid=apart,
                setsigmask=(),
                setsigdef=_DEFAULT,
            )
        finally:
            for descriptor in inherited:
                os.set_inheritable(descriptor, False)
        self._alive.add(child)
        return child

    def reap(self) -> None:
        """Takes note of every child that has ended, and forgets those that nobody here has started."""
        with suppress(ChildProcessError):
            while True:
                child, status = os.waitpid(-1, os.WNOHANG)
                if child == 0:
                    return
                if child in self._alive:
                    self._alive.discard(child)
                    self._ended[child] = os.waitstatus_to_exitcode(status)

    def ended(self, child: int) -> int | None:
        """How a child has ended: its exit code, or the number of the signal that ended it below 0; None while it lives."""
        return self._ended.get(child)

    def send(self, child: int, number: int) -> None:
        """Sends a signal to a child that was not reaped: its number is nobody else's until then."""
        if child in self._alive:
            with suppress(ProcessLookupError):
                os.kill(child, number)

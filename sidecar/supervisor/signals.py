"""Signals as things to wait for, one after the other, instead of interruptions.

All that are waited for are blocked before anything is started, so that none can end the supervisor without its children
being told. Linux says who sent one: what the terminal sends (Ctrl-C) goes to every process of the foreground, so that the
agent has it already; a second one might end it at once. Elsewhere that is guessed by whether we are in the foreground.
"""

from __future__ import annotations

import os
import select
import signal
import sys
from contextlib import suppress
from typing import TYPE_CHECKING, Final, NamedTuple

if TYPE_CHECKING:
    from types import FrameType, TracebackType
    from typing import Self

#: What is passed on to the agent.
FORWARDED: Final = (
    signal.SIGTERM,
    signal.SIGINT,
    signal.SIGHUP,
    signal.SIGQUIT,
    signal.SIGUSR1,
    signal.SIGUSR2,
    signal.SIGWINCH,
)
#: Of these, what ends the supervisor while there is no agent yet.
ENDING: Final = frozenset({signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGQUIT})
_WAITED: Final = frozenset({*FORWARDED, signal.SIGCHLD})


class Received(NamedTuple):
    """One signal. ``everybody``: it went to the whole foreground, so the agent has it too."""

    number: int
    everybody: bool = False


class Signals:
    """Use as a context manager, in the one thread of the process. What children start with is as if it was never here."""

    def __init__(self) -> None:
        self._patient: _Blocked | _Handled = _Blocked() if hasattr(signal, "sigtimedwait") else _Handled()

    def __enter__(self) -> Self:
        self._patient.begin()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._patient.end()

    def wait(self, seconds: float | None = None) -> Received | None:
        """Returns the next signal; None where none came in so many seconds."""
        return self._patient.wait(seconds)


class _Blocked:
    """Where the system can wait for blocked signals, and says who sent each: sigtimedwait(2)."""

    def __init__(self) -> None:
        self._mask: set[signal.Signals | int] = set()
        self._on_child: object = signal.SIG_DFL

    def begin(self) -> None:
        # Where whoever started us ignores it, nobody would be told that a child has ended, nor how: wait(2).
        self._on_child = signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        self._mask = set(signal.pthread_sigmask(signal.SIG_BLOCK, _WAITED))

    def end(self) -> None:
        signal.pthread_sigmask(signal.SIG_SETMASK, self._mask)
        signal.signal(signal.SIGCHLD, self._on_child)  # type: ignore[arg-type]  # as it was given

    def wait(self, seconds: float | None) -> Received | None:
        if sys.platform != "darwin":
            while True:
                if seconds is None:
                    found = signal.sigwaitinfo(_WAITED)
                elif (given := signal.sigtimedwait(_WAITED, seconds)) is None:
                    return None
                else:
                    found = given
                # A positive si_code is the kernel's own word, as of the terminal driver: sigaction(2).
                return Received(found.si_signo, found.si_code > 0 and found.si_signo != signal.SIGCHLD)
        raise NotImplementedError


class _Handled:
    """Elsewhere: handlers that do nothing, and the pipe that Python writes each number into."""

    def __init__(self) -> None:
        self._handlers: dict[int, object] = {}
        self._pipe = (-1, -1)
        self._numbers = b""

    def begin(self) -> None:
        self._pipe = os.pipe()
        for end in self._pipe:
            os.set_blocking(end, False)
        signal.set_wakeup_fd(self._pipe[1], warn_on_full_buffer=False)
        self._handlers = {number: signal.signal(number, _nothing) for number in _WAITED}

    def end(self) -> None:
        for number, handler in self._handlers.items():
            signal.signal(number, handler)  # type: ignore[arg-type]  # as it was given
        signal.set_wakeup_fd(-1)
        for end in self._pipe:
            os.close(end)

    def wait(self, seconds: float | None) -> Received | None:
        if not self._numbers:
            select.select([self._pipe[0]], [], [], seconds)
            with suppress(BlockingIOError):
                self._numbers = os.read(self._pipe[0], 512)
        if not self._numbers:
            return None
        number, self._numbers = self._numbers[0], self._numbers[1:]
        return Received(number, number in {signal.SIGINT, signal.SIGQUIT} and _in_foreground())


def _nothing(_number: int, _frame: FrameType | None) -> None:
    """Only has the number written into the pipe."""


def _in_foreground() -> bool:
    try:
        terminal = os.open("/dev/tty", os.O_RDONLY | os.O_NOCTTY)
    except OSError:
        return False
    try:
        return os.tcgetpgrp(terminal) == os.getpgrp()
    except OSError:
        return False
    finally:
        os.close(terminal)

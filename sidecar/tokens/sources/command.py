"""Runs a command for its output, within bounds, and leaves nothing of it behind when it fails.

In a thread of its own, and not with the event loop's own functions for processes:

* a fork never holds up the connections that the loop serves, nor does a program on a file system that hangs;
* uvloop lets a child have descriptors that a C library opened without CLOEXEC (it has no ``close_fds``), and ours may be
  an open session with the device that has our key;
* whoever reaps the process also kills its group, under one lock: a number that was given to another process meanwhile is
  never killed.
"""

from __future__ import annotations

import os
import select
import signal
import subprocess
import threading
from contextlib import suppress
from typing import TYPE_CHECKING, Final

from sidecar.threads import apart
from sidecar.tokens.codes import SourceCode, SourceError

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

#: The output that is read; a token has 8 KiB, and an ExecCredential may hold certificates beside it.
MAX_OUTPUT: Final = 64 * 1024
#: How often a run looks whether it is still wanted, in milliseconds.
_TICK: Final = 50
#: How long it waits for a process that has closed its output, between two looks, in seconds.
_PAUSE: Final = 0.005


async def output_of(words: Sequence[str], environ: Mapping[str, str], seconds: float) -> bytes:
    """Returns what a command printed: a path, or a name that is looked for in PATH, and its arguments; no shell.

    Its input is empty. What it says on stderr is discarded: it may hold secrets, and would have to go to our log. It has a
    session, and so a process group, of its own: the group is killed when the time is over, when too much is printed, and
    when this is cancelled. What is left of it after a success is its own business.

    Raises SourceError: COMMAND, COMMAND_TIMEOUT, BUSY.
    """
    run = _Run(words, environ)
    try:
        return await apart(run, seconds, "token-command")
    except TimeoutError:
        raise SourceError(
            SourceCode.COMMAND_TIMEOUT,
            f"the command {words[0]} did not end, or keep its output open for less, than {seconds:g} s",
            hint="does it ask for something, or leave a process behind that holds its output? Otherwise raise `timeout`",
        ) from None
    except RuntimeError:
        raise SourceError(SourceCode.BUSY, f"there is no thread to run {words[0]} in") from None
    finally:
        run.end()


class _Run:
    """One run: called in its thread, and ended from any."""

    def __init__(self, words: Sequence[str], environ: Mapping[str, str]) -> None:
        self._words = words
        self._environ = environ
        self._lock = threading.Lock()
        self._unwanted = threading.Event()
        #: What may be killed: from its start until it is reaped.
        self._process: subprocess.Popen[bytes] | None = None

    def __call__(self) -> bytes:
        """Returns the output of a command that ended well. Raises SourceError."""
        self._demand_wanted()
        process = self._start()
        with self._lock:
            self._process = process
        try:
            data = self._read(process)
            status = self._wait(process)
        finally:
            self._finish(process)
        if status != 0:
            raise _failed(self._words[0], status)
        return data

    def end(self) -> None:
        """Kills what still runs, and lets nothing begin. Returns at once; the thread cleans up."""
        self._unwanted.set()
        with self._lock:
            self._kill()

    def _start(self) -> subprocess.Popen[bytes]:
        try:
            return subprocess.Popen(  # noqa: S603 - the operator's own command, and no shell
                list(self._words),
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL,
                env=dict(self._environ),
                start_new_session=True,
            )
        except (OSError, ValueError) as error:
            raise _not_started(self._words[0], error) from None

    def _read(self, process: subprocess.Popen[bytes]) -> bytes:
        assert process.stdout is not None  # noqa: S101 - it is a pipe
        descriptor = process.stdout.fileno()
        readable = select.poll()
        readable.register(descriptor, select.POLLIN)
        data = bytearray()
        while True:
            self._demand_wanted()
            if not readable.poll(_TICK):
                continue
            more = os.read(descriptor, MAX_OUTPUT)
            if not more:
                return bytes(data)
            data += more
            if len(data) > MAX_OUTPUT:
                raise SourceError(
                    SourceCode.COMMAND,
                    f"the command {self._words[0]} printed more than {MAX_OUTPUT // 1024} KiB",
                    hint="it has to print the token and nothing else",
                )

    def _wait(self, process: subprocess.Popen[bytes]) -> int:
        while True:
            with self._lock:
                status = process.poll()
                if status is not None:
                    self._process = None
                    return status
            self._unwanted.wait(_PAUSE)
            self._demand_wanted()

    def _demand_wanted(self) -> None:
        if self._unwanted.is_set():
            raise SourceError(SourceCode.COMMAND_TIMEOUT, "nobody waits for it any more")

    def _finish(self, process: subprocess.Popen[bytes]) -> None:
        with self._lock:
            self._kill()
            self._process = None
        assert process.stdout is not None  # noqa: S101 - it is a pipe
        process.stdout.close()
        process.wait()

    def _kill(self) -> None:
        """Kills the whole group, unless its leader was reaped: until then its number is nobody else's."""
        if self._process is not None:
            # A group that is not ours to kill (a program with another uid) is left to end by itself.
            with suppress(ProcessLookupError, PermissionError):
                os.killpg(self._process.pid, signal.SIGKILL)


def _not_started(name: str, error: OSError | ValueError) -> SourceError:
    if isinstance(error, FileNotFoundError):
        what, hint = (
            "is not there",
            "give its whole path, or put its folder into our PATH; the interpreter of a script counts",
        )
    elif isinstance(error, PermissionError):
        what, hint = "may not be executed", f"chmod +x, for uid {os.geteuid()}"
    elif isinstance(error, OSError):
        what, hint = f"cannot be started: {(error.strerror or 'no reason given').lower()}", "try it by hand"
    else:
        what, hint = "cannot be the name of a command", "correct `command`"
    return SourceError(SourceCode.COMMAND, f"the command {name} {what}", hint=hint)


def _failed(name: str, status: int) -> SourceError:
    how = f"was ended by signal {-status}" if status < 0 else f"failed with exit status {status}"
    return SourceError(
        SourceCode.COMMAND,
        f"the command {name} {how}",
        hint=f"run it by hand as uid {os.geteuid()}: what it says on stderr is not kept, since it may hold secrets",
    )

"""The demo's processes: started apart from the terminal, watched, and ended whatever happens."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final

from sidecar.clock import Clock
from sidecar.demo.outcome import UnexpectedError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping
    from pathlib import Path

ENDING: Final = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
"""The signals that end a demo, in good order."""
TAIL_LINES: Final = 12
PATIENCE: Final = 10.0
"""Seconds that anything may take: far more than it does."""
FAREWELL: Final = 3.0
"""Seconds from SIGTERM to SIGKILL, all processes together."""

_PAUSE: Final = 0.02
_clock = Clock()


@dataclass(frozen=True, slots=True)
class Process:
    """A running process; what it prints goes into two files."""

    name: str
    popen: subprocess.Popen[bytes]
    stdout: Path
    stderr: Path

    @property
    def alive(self) -> bool:
        """Whether it runs."""
        return self.popen.poll() is None

    def tail(self) -> str:
        """The last lines of what it said on stderr, and its end if it has come to one."""
        lines = self.stderr.read_text(errors="backslashreplace").splitlines()[-TAIL_LINES:]
        if not self.alive:
            lines.append(f"(exit code {self.popen.returncode})")
        return "\n".join(lines)

    def until(self, ready: Callable[[], bool], what: str) -> None:
        """Waits until something holds; raises UnexpectedError when the process ends before, or takes too long."""
        deadline = _clock.monotonic() + PATIENCE
        while not ready():
            if not self.alive:
                raise UnexpectedError(f"{self.name} ended before {what}", self.tail())
            if _clock.monotonic() > deadline:
                raise UnexpectedError(f"{self.name}: not {what} within {PATIENCE:.0f} s", self.tail())
            self._pause()

    def _pause(self) -> None:
        """Waits for a moment, or until the process ends."""
        try:
            self.popen.wait(_PAUSE)
        except subprocess.TimeoutExpired:
            return


@dataclass(slots=True)
class Crew:
    """All processes of one demo; ``folder`` is where their output goes."""

    folder: Path
    processes: list[Process] = field(default_factory=list)

    def start(self, name: str, *arguments: str | Path, extra: Mapping[str, str] | None = None) -> Process:
        """Starts ``python -m <arguments>``; nothing is imported from the folder it starts in (``-P``)."""
        return self.launch(name, sys.executable, "-P", "-m", *arguments, extra=extra)

    def launch(self, name: str, *command: str | Path, extra: Mapping[str, str] | None = None) -> Process:
        """Starts a program. It is in a session of its own: Ctrl-C reaches us alone, and we end it."""
        stdout, stderr = self.folder / f"{name}.out", self.folder / f"{name}.err"
        with unbroken(), stdout.open("wb") as out, stderr.open("wb") as err:
            popen = subprocess.Popen(  # noqa: S603 - our own interpreter and modules, and swtpm
                list(map(str, command)),
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=err,
                cwd=self.folder,
                env=environment(extra or {}),
                start_new_session=True,
            )
            process = Process(name, popen, stdout, stderr)
            self.processes.append(process)
        return process

    def ask(self, name: str, *arguments: str | Path, extra: Mapping[str, str] | None = None) -> Any:
        """Runs a program to its end and returns what it printed as its last line, which is JSON."""
        process = self.finish(self.start(name, *arguments, extra=extra))
        lines = process.stdout.read_text().splitlines()
        if process.popen.returncode != 0 or not lines:
            raise UnexpectedError(f"{name} failed", process.tail())
        return json.loads(lines[-1])

    def finish(self, process: Process) -> Process:
        """Waits for the end of a process that comes to one by itself, however it ends."""
        try:
            process.popen.wait(PATIENCE)
        except subprocess.TimeoutExpired:
            raise UnexpectedError(f"{process.name}: not ended within {PATIENCE:.0f} s", process.tail()) from None
        self.processes.remove(process)
        return process

    def last_words(self) -> str:
        """What the processes said that ended by themselves."""
        return "\n".join(f"{process.name}:\n{process.tail()}" for process in self.processes if not process.alive)

    def stop(self) -> None:
        """Ends every process, the stubborn ones by force."""
        for process in self.processes:
            process.popen.terminate()
        deadline = _clock.monotonic() + FAREWELL
        for process in self.processes:
            try:
                process.popen.wait(max(deadline - _clock.monotonic(), 0))
            except subprocess.TimeoutExpired:
                process.popen.kill()
                process.popen.wait()
        self.processes.clear()


@contextmanager
def unbroken() -> Iterator[None]:
    """Puts the signals that end us off until the block is over: one in its middle would leave a process to nobody."""
    came: list[int] = []
    before = {number: signal.getsignal(number) for number in ENDING}
    for number, handler in before.items():
        if callable(handler):
            signal.signal(number, lambda number, _: came.append(number))
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
    if came:
        signal.raise_signal(came[0])


def environment(extra: Mapping[str, str]) -> dict[str, str]:
    """Our environment without proxies that somebody else set: the demo's traffic stays on this machine."""
    kept = {name: value for name, value in os.environ.items() if not name.lower().endswith("_proxy")}
    return kept | dict(extra)

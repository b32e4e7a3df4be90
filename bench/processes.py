"""Processes of the benchmark: pinned to a core, apart from the terminal, and ended whatever happens."""

from __future__ import annotations

import itertools
import json
import os
import re
import signal
import socket
import subprocess
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Self

from bench.errors import CouldNotRunError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

ROOT: Final = Path(__file__).parent.parent
HOST: Final = "127.0.0.1"
#: Seconds that a start may take (ten thousand rules take some), and a program may take beyond what it was told.
PATIENCE: Final = 30.0
#: Seconds from SIGTERM to SIGKILL, all processes together.
FAREWELL: Final = 3.0

#: How programs tell of an error (`FILE:LINE: …` is ours), and how many lines from the end that may be.
_ERROR: Final = re.compile(r"error|emerg|alert|critical|cannot|failed|:\d+: ", re.IGNORECASE)
_LOOK_BACK: Final = 8

#: Ports that the kernel does not give to clients; each benchmark process begins to look at another place.
FIRST_PORT: Final = 12_000
LAST_PORT: Final = 32_000


@dataclass(frozen=True, slots=True)
class Process:
    """One that was started; ``log`` holds what it printed."""

    name: str
    popen: subprocess.Popen[bytes]
    log: Path

    @property
    def pid(self) -> int:
        """The process id. `taskset` replaces itself, so this is the program's own."""
        return self.popen.pid

    def last_words(self) -> str:
        """What it said last: of its last lines the first that tells of an error, else the last."""
        lines = [line.strip() for line in self.log.read_text(errors="backslashreplace").splitlines() if line.strip()]
        told = [line for line in lines[-_LOOK_BACK:] if _ERROR.search(line)] + lines[-1:]
        return told[0].replace(f"{self.log.parent}/", "") if told else "no message"

    def until(self, ready: Callable[[], bool], what: str, more: float = 0.0) -> None:
        """Waits until something holds; raises CouldNotRunError when the process ends before, or takes too long.

        ``more`` is seconds beyond `PATIENCE`, for what is known to take long.
        """
        deadline = time.monotonic() + PATIENCE + more
        while not ready():
            if self.popen.poll() is not None:
                raise CouldNotRunError(f"{self.name} ended before it {what}: {self.last_words()}")
            if time.monotonic() > deadline:
                raise CouldNotRunError(
                    f"{self.name} has not {what} within {PATIENCE + more:.0f} s: {self.last_words()}"
                )
            time.sleep(0.02)


@dataclass(slots=True)
class Crew:
    """All processes of one row, in one folder; leaving the block ends them."""

    folder: Path
    proxy_core: int
    load_core: int
    processes: list[Process] = field(default_factory=list)
    _names: Iterator[int] = field(default_factory=itertools.count)
    _ports: Iterator[int] = field(default_factory=lambda: _ports(os.getpid() * 37))

    def __enter__(self) -> Self:
        """Nothing runs yet."""
        return self

    def __exit__(self, *_: object) -> None:
        """Ends what runs."""
        self.stop()

    def start(self, name: str, core: int | str, *command: str | Path) -> Process:
        """Starts a program on one core, or on some: as taskset(1) lists them.

        It is in a session of its own, so that Ctrl-C reaches us alone and we end it; and it is told to end when we die
        without a word (PR_SET_PDEATHSIG, prctl(2)).
        """
        log = self.path(f"{name}.out")
        pinned = ["setpriv", "--pdeathsig", "TERM", "taskset", "-c", str(core), *map(str, command)]
        with log.open("wb") as out:
            popen = subprocess.Popen(
                pinned,
                stdin=subprocess.PIPE,
                stdout=out,
                stderr=subprocess.STDOUT,
                cwd=ROOT,
                env=environment(),
                start_new_session=True,
            )
        process = Process(name, popen, log)
        self.processes.append(process)
        return process

    def ask(self, name: str, *arguments: str | Path, seconds: float) -> dict[str, Any]:
        """Runs ``python -m <arguments>`` on the load core to its end; returns the JSON object of its last line."""
        process = self.start(name, self.load_core, sys.executable, "-m", *arguments)
        try:
            code = process.popen.wait(seconds + PATIENCE)
        except subprocess.TimeoutExpired:
            raise CouldNotRunError(f"{name} has not ended {PATIENCE:.0f} s after its time") from None
        finally:
            self.end([process])
        if code != 0:
            raise CouldNotRunError(f"{name} failed: {process.last_words()}")
        answer: dict[str, Any] = json.loads(process.log.read_text().splitlines()[-1])
        return answer

    def port(self) -> int:
        """A port of the loopback interface on which nobody listens."""
        return next(port for port in self._ports if _free(port))

    def path(self, name: str) -> Path:
        """A path in the folder that nothing else has."""
        return self.folder / f"{next(self._names):03}-{name}"

    def end(self, processes: list[Process]) -> None:
        """Ends these, with their children: by SIGTERM, and by SIGKILL what is left."""
        for process in processes:
            _tell(process, signal.SIGTERM)
        deadline = time.monotonic() + FAREWELL
        for process in processes:
            try:
                process.popen.wait(max(deadline - time.monotonic(), 0))
            except subprocess.TimeoutExpired:
                _tell(process, signal.SIGKILL)
                process.popen.wait()
            _tell_group(process, signal.SIGKILL)
            if process.popen.stdin is not None:
                process.popen.stdin.close()
        self.processes = [process for process in self.processes if process not in processes]

    def stop(self) -> None:
        """Ends everything."""
        self.end(list(self.processes))


def _ports(start: int) -> Iterator[int]:
    """All ports, round and round."""
    for number in itertools.count(start):
        yield FIRST_PORT + number % (LAST_PORT - FIRST_PORT)


def _free(port: int) -> bool:
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((HOST, port))
        except OSError:
            return False
        return True


def _tell(process: Process, number: signal.Signals) -> None:
    if process.popen.poll() is None:
        process.popen.send_signal(number)


def _tell_group(process: Process, number: signal.Signals) -> None:
    """Reaches children that a process left behind; its session's id is its process id."""
    try:
        os.killpg(process.pid, number)
    except ProcessLookupError:
        return  # the usual case: nobody is left


def environment() -> dict[str, str]:
    """Our environment, with our own modules first and without proxies that somebody else set."""
    kept = {name: value for name, value in os.environ.items() if not name.lower().endswith("_proxy")}
    return kept | {"PYTHONPATH": str(ROOT), "PYTHONDONTWRITEBYTECODE": "", "GOMAXPROCS": "1"}

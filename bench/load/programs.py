"""Starting our own load generators."""

from __future__ import annotations

import json
import subprocess
import sys
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from bench.certificates import CALLER
from bench.errors import CouldNotRunError
from bench.processes import PATIENCE

if TYPE_CHECKING:
    from collections.abc import Iterator

    from bench.processes import Process
    from bench.site import Site


def identity(site: Site) -> list[str]:
    """The arguments that make a generator the caller."""
    files = site.certificates
    return [
        *("--authority", str(files.authority)),
        *("--certificate", str(files.certificate(CALLER))),
        *("--key", str(files.key(CALLER))),
    ]


def open_connections(site: Site, mode: str, port: int, seconds: float) -> int:
    """Opens TLS connections one after the other; returns how many. See `bench.load.connections`."""
    options = ["--port", str(port), "--seconds", str(seconds), *identity(site)]
    answer = site.crew.ask("connections", "bench.load.connections", mode, *options, seconds=seconds)
    return int(answer["connections"])


#: A slow machine opens that many TLS connections in a second.
_A_SECOND: Final = 50


@dataclass(frozen=True, slots=True)
class Held:
    """Idle connections that a process of its own keeps open."""

    process: Process
    count: int

    def release(self) -> None:
        """Lets them go; raises CouldNotRunError when the proxy had closed one before that."""
        if self.process.popen.stdin is not None:
            self.process.popen.stdin.close()
        try:
            self.process.popen.wait(PATIENCE)
        except subprocess.TimeoutExpired:
            raise CouldNotRunError("the holder of idle connections does not end") from None
        closed = (_last(self.process.log.read_text()) or {}).get("closed")
        if closed != 0:
            raise CouldNotRunError(f"{closed} of {self.count} idle connections were closed by the proxy")


@contextmanager
def holding(site: Site, port: int, count: int, *, tls: bool = True) -> Iterator[Held]:
    """Holds idle connections, each after one request, while a block runs."""
    options = ["--port", str(port), "--count", str(count), *(identity(site) if tls else [])]
    process = site.crew.start("holder", site.crew.load_core, sys.executable, "-m", "bench.load.holder", *options)
    try:
        opened = f"opened {count} connections"
        process.until(lambda: _last(process.log.read_text()) is not None, opened, more=count / _A_SECOND)
        yield Held(process, count)
    finally:
        site.crew.end([process])


@dataclass(slots=True)
class Crowd:
    """Clients that connected all at once, again and again; known when they have ended: see `bench.load.crowd`."""

    handshakes: int = 0
    median_ms: float = 0.0


@contextmanager
def crowding(site: Site, port: int, clients: int, beats: int) -> Iterator[Crowd]:
    """Lets that many clients connect at once at each beat, a second apart, while a block runs; waits for the last one."""
    options = ["--port", str(port), "--clients", str(clients), "--beats", str(beats), *identity(site)]
    process = site.crew.start("crowd", site.crew.load_core, sys.executable, "-m", "bench.load.crowd", *options)
    crowd = Crowd()
    try:
        yield crowd
        if process.popen.wait(beats + PATIENCE) != 0:
            raise CouldNotRunError(f"the crowd failed: {process.last_words()}")
        found = _last(process.log.read_text()) or {}
        crowd.handshakes, crowd.median_ms = int(found["handshakes"]), float(found["p50_ms"])
    except subprocess.TimeoutExpired:
        raise CouldNotRunError(f"the crowd has not ended {PATIENCE:.0f} s after its time") from None
    finally:
        site.crew.end([process])


def longest_wait(site: Site, port: int, seconds: float) -> dict[str, Any]:
    """Asks on one open connection, again and again; returns percentiles of the waits. See `bench.load.waits`."""
    options = ["--port", str(port), "--seconds", str(seconds), *identity(site)]
    return site.crew.ask("waits", "bench.load.waits", *options, seconds=seconds)


def _last(text: str) -> dict[str, Any] | None:
    """The JSON object of the last whole line, if there is one."""
    lines = text[: text.rfind("\n") + 1].splitlines()
    found: dict[str, Any] | None = json.loads(lines[-1]) if lines and lines[-1].startswith("{") else None
    return found

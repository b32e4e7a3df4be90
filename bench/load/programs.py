"""Starting our own load generators."""

from __future__ import annotations

import json
import sys
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from bench.errors import CouldNotRunError
from bench.site import CALLER

if TYPE_CHECKING:
    from collections.abc import Iterator

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


@contextmanager
def holding(site: Site, port: int, count: int, *, tls: bool = True) -> Iterator[None]:
    """Holds idle connections, each after one request, while a block runs; raises when any was closed meanwhile."""
    options = ["--port", str(port), "--count", str(count), *(identity(site) if tls else [])]
    process = site.crew.start("holder", site.crew.load_core, sys.executable, "-m", "bench.load.holder", *options)
    try:
        process.until(lambda: _last(process.log.read_text()) is not None, f"opened {count} connections")
        yield
        if process.popen.stdin is not None:
            process.popen.stdin.close()
        process.popen.wait(10)
        closed = (_last(process.log.read_text()) or {}).get("closed")
        if closed != 0:
            raise CouldNotRunError(f"{closed} of {count} idle connections were closed by the proxy")
    finally:
        site.crew.end([process])


def _last(text: str) -> dict[str, Any] | None:
    """The JSON object of the last whole line, if there is one."""
    lines = text[: text.rfind("\n") + 1].splitlines()
    found: dict[str, Any] | None = json.loads(lines[-1]) if lines and lines[-1].startswith("{") else None
    return found

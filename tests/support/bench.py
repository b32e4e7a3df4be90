"""Results of the benchmark that nobody measured."""

from __future__ import annotations

from typing import Any

from bench.figures import Cell
from bench.result import Result
from bench.rows.row import Line

ABOUT: dict[str, Any] = {
    "date": "2026-01-02 03:04 UTC",
    "command": "python -m bench",
    "settings": {"rounds": 3, "seconds": 3},
    "machine": {
        "cpu": "Abacus & Sons <II>",
        "cores": 2,
        "architecture": "x86_64",
        "kernel": "6.1",
        "system": "Debian GNU/Linux 12",
        "memory_mb": 8_000,
    },
    "versions": {"python": "3.11.7", "openssl": "3.0.19"},
    "peer_versions": {"sidecar": "sidecar 0.1.0", "nginx": "nginx/1.22.1", "ghostunnel": "missing: not there"},
}
HTTP = Line("http", "HTTP request", "µs CPU")
TCP = Line("tcp", "tunnel", "µs CPU")
IDLE = Line("memory.idle", "one process, idle", "MB")
LOG = Line("log.on", "log in a file", "µs CPU")
PEERS = ["sidecar", "nginx", "envoy", "haproxy", "stunnel", "ghostunnel"]


def result(*lines: Line, **cells: dict[str, Any]) -> Result:
    """A result with these lines; cells are given as ``http={"sidecar": [1.0, 2.0], "envoy": Cell(…)}``."""
    made = Result(dict(ABOUT), list(PEERS))
    made.announce(lines)
    for name, by_peer in cells.items():
        for peer, cell in by_peer.items():
            made.cells[name.replace("__", ".")][peer] = cell if isinstance(cell, Cell) else Cell(list(cell))
    return made

"""Where proxies are started: one crew, one folder, one set of certificates."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathlib import Path

    from bench.certificates import Certificates
    from bench.processes import Crew, Process


@dataclass(frozen=True, slots=True)
class Running:
    """A proxy, or a pair of them: where to connect to, and whose CPU time and memory count."""

    port: int
    processes: tuple[Process, ...]


@dataclass(frozen=True, slots=True)
class Site:
    """What it takes to start something."""

    crew: Crew
    certificates: Certificates

    def proxy(self, name: str, port: int, *command: str | Path) -> Running:
        """Starts one proxy on the core of the proxies."""
        return Running(port, (self.crew.start(name, self.crew.proxy_core, *command),))

    def spread(self, name: str, port: int, *command: str | Path) -> Running:
        """Starts one proxy on both cores, that of the load as well."""
        cores = f"{self.crew.proxy_core},{self.crew.load_core}"
        return Running(port, (self.crew.start(name, cores, *command),))

    def file(self, name: str, text: str) -> Path:
        """Writes a file of its own, and returns its path."""
        path = self.crew.path(name)
        path.write_text(text)
        return path

"""Where proxies are started: one crew, one folder, one set of certificates."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, Self

from bench.load.tls import client_context
from bench.processes import ROOT, Crew, Process

if TYPE_CHECKING:
    from pathlib import Path

    from bench.load.tls import SSLContext

#: The identities of both ends, made by `sidecar certs init` and used by all proxies alike.
CALLER: Final = "planner"
PEER: Final = "tools"
TRUST_DOMAIN: Final = "example.org"


def spiffe_prefix(name: str) -> str:
    """What every instance of an agent's SPIFFE ID begins with."""
    return f"spiffe://{TRUST_DOMAIN}/agent/{name}/"


@dataclass(frozen=True, slots=True)
class Certificates:
    """The folder that `sidecar certs init` filled."""

    folder: Path

    @classmethod
    def make(cls, folder: Path) -> Self:
        """Makes an authority and both identities."""
        agents = [word for name in (CALLER, PEER) for word in ("--agent", name)]
        command = [sys.executable, "-m", "sidecar", "certs", "init", str(folder), *agents]
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL, cwd=ROOT)
        made = cls(folder)
        for name in (CALLER, PEER):  # HAProxy wants both in one file
            made.both(name).touch(mode=0o600)
            made.both(name).write_bytes(made.certificate(name).read_bytes() + made.key(name).read_bytes())
        return made

    @property
    def authority(self) -> Path:
        """The trust bundle, PEM."""
        return self.folder / "ca.crt"

    def certificate(self, name: str) -> Path:
        """The certificate, PEM."""
        return self.folder / name / "tls.crt"

    def key(self, name: str) -> Path:
        """The private key, PEM."""
        return self.folder / name / "tls.key"

    def context(self) -> SSLContext:
        """A TLS client that is the caller."""
        return client_context(self.authority, self.certificate(CALLER), self.key(CALLER))

    def both(self, name: str) -> Path:
        """Certificate and private key in one PEM file."""
        return self.folder / name / "both.pem"


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

    def file(self, name: str, text: str) -> Path:
        """Writes a file of its own, and returns its path."""
        path = self.crew.path(name)
        path.write_text(text)
        return path

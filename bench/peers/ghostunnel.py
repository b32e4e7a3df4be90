"""ghostunnel: tunnels alone, and only where its path is given. Both sides are proven by chain and SPIFFE ID."""

from __future__ import annotations

import os
import shutil
from dataclasses import dataclass
from typing import TYPE_CHECKING

from bench.certificates import CALLER, PEER, spiffe_prefix
from bench.peers.peer import Work
from bench.programs import first_line

if TYPE_CHECKING:
    from pathlib import Path

    from bench.site import Running, Site


@dataclass(frozen=True, slots=True)
class Ghostunnel:
    """The nearest other product; it speaks TLS 1.3 with itself without being told."""

    name: str = "ghostunnel"

    def missing(self, work: Work) -> str | None:
        """Says that no path was given, or that nothing is there."""
        if work is not Work.TCP:
            return "ghostunnel knows no HTTP"
        path = os.environ.get("GHOSTUNNEL", "")
        if not path:
            return "not in Debian: name a binary with GHOSTUNNEL=path"
        return None if shutil.which(path) else f"GHOSTUNNEL={path} is no program"

    def version(self) -> str:
        """What it says of itself."""
        return first_line(_program(), "--version")

    def inbound(self, site: Site, work: Work, upstream: int) -> Running:  # noqa: ARG002 - it has but one
        """Callers are allowed by SPIFFE ID."""
        allow = ("--allow-uri", f"{spiffe_prefix(CALLER)}1")
        return _start(site, PEER, "server", upstream, *allow)

    def outbound(self, site: Site, work: Work, inbound: int) -> Running:  # noqa: ARG002 - it has but one
        """The peer is verified by SPIFFE ID."""
        return _start(site, CALLER, "client", inbound, "--verify-uri", f"{spiffe_prefix(PEER)}1")


def _program() -> str:
    return os.environ["GHOSTUNNEL"]


def _start(site: Site, name: str, mode: str, to: int, *rule: str) -> Running:
    port, files = site.crew.port(), site.certificates
    certificate = files.named if name == PEER else files.certificate(name)  # it looks for the address as well
    identity: list[str | Path] = ["--cert", certificate, "--key", files.key(name)]
    addresses = ["--listen", f"127.0.0.1:{port}", "--target", f"127.0.0.1:{to}"]
    trust: list[str | Path] = ["--cacert", files.authority]
    return site.proxy("ghostunnel", port, _program(), mode, *addresses, *identity, *trust, *rule)

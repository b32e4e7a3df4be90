"""A key in a file that `sidecar signer` has, and the proxy has not."""

from __future__ import annotations

import socket
import sys
from dataclasses import dataclass
from typing import TYPE_CHECKING

from bench.certificates import PEER
from bench.keys.kind import Given, OwnKey, unsuitable

if TYPE_CHECKING:
    from pathlib import Path

    from bench.site import Site


@dataclass(frozen=True, slots=True)
class ServiceKey:
    """A software key, so that the service costs what the service costs."""

    name: str = "signer"
    title: str = "key behind sidecar signer"

    def missing(self) -> str | None:
        """Says that this Python cannot use it."""
        return unsuitable()

    def begin(self, site: Site) -> Given:
        """Starts the service on the core of the load."""
        files, path = site.certificates, site.crew.path("signer")
        options = ("--listen", f"unix:{path}", "--key", files.key(PEER))
        process = site.crew.start("signer", site.crew.load_core, sys.executable, "-m", "sidecar", "signer", *options)
        process.until(lambda: accepts(path), "listened")
        return Given(OwnKey(f"signer:unix:{path}", files.certificate(PEER)), (process,))


def accepts(path: Path) -> bool:
    """Says whether somebody listens at a UNIX socket."""
    with socket.socket(socket.AF_UNIX) as probe:
        return probe.connect_ex(str(path)) == 0

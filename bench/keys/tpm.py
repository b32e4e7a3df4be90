"""A key in a software TPM (swtpm), which may answer as slowly as a real one."""

from __future__ import annotations

import importlib.util
import sys
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final
from urllib.parse import quote

from bench.keys.kind import Given, OwnKey, certify, unsuitable
from bench.programs import lacking, path_of

if TYPE_CHECKING:
    from pathlib import Path

    from bench.processes import Process
    from bench.site import Site

#: What a TCTI has unescaped in `tcti=`.
_SAFE: Final = "/:,.=-_~"


@dataclass(frozen=True, slots=True)
class TpmKey:
    """``delay`` is what each command takes longer, in seconds."""

    delay: float = 0.0
    name: str = "tpm"
    title: str = "key in a TPM (swtpm)"

    def missing(self) -> str | None:
        """Says that swtpm or tpm2-pytss is not there."""
        lack = lacking("swtpm", package="swtpm")
        if lack is None and importlib.util.find_spec("tpm2_pytss") is None:
            return (
                "tpm2-pytss is not installed: apt-get install libtss2-dev gcc python3-dev pkg-config, then make again"
            )
        return lack or unsuitable()

    def begin(self, site: Site) -> Given:
        """Starts a TPM on the core of the load, and has a key made in it."""
        tpm, socket = _start(site)
        certificate = certify(site, self.name, f"tpm:tcti={_tcti(socket)}")
        beside = [tpm]
        if self.delay:
            relay, socket = _start_relay(site, socket, self.delay)
            beside.append(relay)
        place = f"tpm:file={quote(str(certificate.with_name('tls.tpm.pem')), safe='/')};tcti={_tcti(socket)}"
        return Given(OwnKey(place, certificate), tuple(beside))


def _tcti(socket: Path) -> str:
    return quote(f"swtpm:path={socket}", safe=_SAFE)


def _start(site: Site) -> tuple[Process, Path]:
    state, socket, pid = (site.crew.path(name) for name in ("state", "tpm", "pid"))
    state.mkdir(mode=0o700)
    process = site.crew.start(
        "swtpm",
        site.crew.load_core,
        *(path_of("swtpm"), "socket", "--tpm2", "--tpmstate", f"dir={state}", "--pid", f"file={pid}"),
        # tpm2-tss expects the second socket under this name.
        *("--server", f"type=unixio,path={socket}", "--ctrl", f"type=unixio,path={socket}.ctrl"),
        *("--flags", "not-need-init,startup-clear"),
    )
    # It writes its process id after it has begun to listen.
    process.until(lambda: pid.exists() and pid.stat().st_size > 0, "listened")
    return process, socket


def _start_relay(site: Site, tpm: Path, delay: float) -> tuple[Process, Path]:
    socket = site.crew.path("slow")
    options = ("--tpm", tpm, "--listen", socket, "--delay", str(delay))
    process = site.crew.start("slow-tpm", site.crew.load_core, sys.executable, "-m", "bench.backend.slow_tpm", *options)
    process.until(lambda: "listening" in process.log.read_text(), "listened")
    return process, socket

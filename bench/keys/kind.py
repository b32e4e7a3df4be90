"""What a row asks of a kind of key, whichever it is."""

from __future__ import annotations

import os
import subprocess
import sys
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

from bench.certificates import PEER
from bench.errors import CouldNotRunError
from bench.processes import PATIENCE, ROOT
from sidecar.keys import openssl
from sidecar.keys.errors import PrivateKeyError

if TYPE_CHECKING:
    from pathlib import Path

    from bench.processes import Process
    from bench.site import Site


@dataclass(frozen=True, slots=True)
class OwnKey:
    """A key as a configuration names it, and the certificate for it; ``environment`` is what the process needs to use it."""

    place: str
    certificate: Path
    environment: tuple[tuple[str, str], ...] = ()


@dataclass(frozen=True, slots=True)
class Given:
    """A key that can be used, and the processes beside the proxy that it takes to use it."""

    own: OwnKey
    beside: tuple[Process, ...] = ()


class Kind(Protocol):
    """One kind of place that a key can be in."""

    @property
    def name(self) -> str:
        """The last part of its lines' names."""
        ...

    @property
    def title(self) -> str:
        """How a line of the table ends."""
        ...

    def missing(self) -> str | None:
        """Says what this machine lacks and how to get it; None when all is there."""
        ...

    def begin(self, site: Site) -> Given:
        """Makes a key, with what it takes to use it. Raises CouldNotRunError."""
        ...


@dataclass(frozen=True, slots=True)
class FileKey:
    """The key of all other rows: a PEM file, which OpenSSL reads."""

    name: str = "file"
    title: str = "key in a file"

    def missing(self) -> str | None:
        """Nothing."""
        return None

    def begin(self, site: Site) -> Given:
        """It is there."""
        files = site.certificates
        return Given(OwnKey(str(files.key(PEER)), files.certificate(PEER)))


def unsuitable() -> str | None:
    """Says that this interpreter's OpenSSL takes no key from outside of the process."""
    try:
        openssl.install()
    except PrivateKeyError as error:
        return f"{error}: {error.hint}"
    return None


def certify(site: Site, kind: str, device: str, environment: tuple[tuple[str, str], ...] = ()) -> Path:
    """Has `sidecar certs init` make a key in a device, as an instance of the accepting agent; returns its certificate."""
    files = site.certificates
    words = ["--agent", PEER, "--instance", kind, "--key", device, "--new-keys"]
    done = subprocess.run(
        [sys.executable, "-m", "sidecar", "certs", "init", str(files.folder), *words],
        capture_output=True,
        text=True,
        check=False,
        cwd=ROOT,
        env=os.environ | dict(environment),
        timeout=PATIENCE,
    )
    if done.returncode != 0:
        raise CouldNotRunError((done.stderr.strip() or "sidecar certs init failed").splitlines()[0])
    return files.folder / PEER / kind / "tls.crt"

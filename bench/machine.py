"""What the benchmark runs on: cores, processor, and the versions of everything."""

from __future__ import annotations

import importlib.metadata
import os
import platform
import resource
import ssl
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

from bench.errors import UsageError
from bench.programs import find, first_line, lacking
from sidecar.clock import Clock

#: What nothing can be measured without, and the Debian packages that have it.
NEEDED: Final = {"taskset": "util-linux", "setpriv": "util-linux", "wrk": "wrk", "nginx": "nginx-light"}

#: What stands in for TPMs and HSMs, where it is there.
_DEVICES: Final = {"swtpm": "swtpm", "SoftHSM": "softhsm2-util"}


def cores() -> tuple[int, int]:
    """Returns the core of the proxies and the core of load and local server; raises UsageError when there is but one."""
    allowed = sorted(os.sched_getaffinity(0))
    if len(allowed) < 2:
        raise UsageError("the benchmark needs two cores: one for the proxies, one for load and local server")
    return allowed[0], allowed[1]


def check() -> None:
    """Raises UsageError for what is needed whatever is measured; peers that are not there are named in the table."""
    if platform.system() != "Linux":
        raise UsageError("the benchmark reads CPU time from /proc and pins with taskset: it needs Linux")
    lacks = [lack for program, package in NEEDED.items() if (lack := lacking(program, package=package))]
    if lacks:
        raise UsageError("\n".join(lacks))


def stay_on(core: int) -> None:
    """Keeps this process off the core of the proxies, and lets it and its children open many connections."""
    os.sched_setaffinity(0, {core})
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


def facts() -> dict[str, Any]:
    """Machine, versions and date, as plain values."""
    return {
        "date": datetime.fromtimestamp(Clock().wall(), UTC).strftime("%Y-%m-%d %H:%M UTC"),
        "machine": {
            "cpu": _cpu_model(),
            "cores": len(os.sched_getaffinity(0)),
            "architecture": platform.machine(),
            "kernel": platform.release(),
            "system": platform.freedesktop_os_release().get("PRETTY_NAME", "unknown"),
            "memory_mb": os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") // 1_000_000,
        },
        "versions": {
            "python": platform.python_version(),
            "openssl": ssl.OPENSSL_VERSION.removeprefix("OpenSSL "),
            **{name: _package(name) for name in ("uvloop", "httptools", "cryptography", "tpm2-pytss", "python-pkcs11")},
            "wrk": first_line("wrk", "-v", holding="wrk").split(" [")[0].removeprefix("wrk "),
            **{name: _release(program) for name, program in _DEVICES.items() if find(program)},
        },
    }


def _package(name: str) -> str:
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return "not installed"


def _release(program: str) -> str:
    return first_line(program, "--version").removeprefix("TPM emulator version ").partition(",")[0]


def _cpu_model() -> str:
    lines = Path("/proc/cpuinfo").read_text().splitlines()
    names = [line.partition(":")[2].strip() for line in lines if line.startswith(("model name", "Model", "CPU part"))]
    return names[0] if names else platform.machine()

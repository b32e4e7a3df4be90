"""The commands that look behind the scene while the demo is kept running."""

from __future__ import annotations

import shlex
import shutil
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from sidecar.demo.stage import TOOLS_HOST

if TYPE_CHECKING:
    from sidecar.demo.stage import Stage


def commands(stage: Stage) -> list[tuple[str, str]]:
    """Commands as they can be typed, each with what it shows. The first one enters the folder of the others."""
    ports = stage.ports
    # In two lines, for a terminal of 80 columns.
    rogue = "--cert certs/rogue/tls.crt --key certs/rogue/tls.key \\\n     "
    return [
        (f"cd {shlex.quote(str(stage.folder))}", "configurations, logs, sockets, certificates"),
        ("tail -n 5 tools.log", "what the tools' sidecar let through and refused, one JSON line each"),
        ("cat planner-sidecar.err", "the planner's sidecar's own messages"),
        ("curl --unix-socket tools.sock http://sidecar/certs", "identity, expiry, pin and key protection"),
        ("curl --unix-socket tools.sock http://sidecar/connections", "who is connected now"),
        ("curl --unix-socket planner.sock http://sidecar/tokens", "its tokens: for whom, bound to what, until when"),
        ("curl --unix-socket planner.sock http://sidecar/config", "the effective configuration"),
        ("curl --unix-socket planner.sock http://sidecar/metrics", "metrics for Prometheus"),
        (f"curl -x http://127.0.0.1:{ports.outbound} http://{TOOLS_HOST}/headers", "call the tools as the planner"),
        (f"curl -k {rogue}https://127.0.0.1:{ports.inbound}/mcp", "call the tools as the rogue"),
        (f"curl -k https://127.0.0.1:{ports.inbound}/mcp", "call the tools as a stranger"),
        (f"{program()} check tools.yaml", "what the configuration means"),
        (f"{program()} key show {shlex.quote(stage.key('tools'))}", "the key of the tools: it signs once"),
    ]


def program() -> str:
    """How this very sidecar is called from any folder."""
    found = shutil.which("sidecar")
    here = Path(sys.executable).with_name("sidecar")
    if found and here.exists() and Path(found).samefile(here):
        return "sidecar"
    return shlex.quote(str(here)) if here.exists() else f"{shlex.quote(sys.executable)} -m sidecar"

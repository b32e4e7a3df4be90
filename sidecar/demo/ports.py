"""Free loopback ports."""

from __future__ import annotations

import itertools
import os
import socket
from typing import Final

from sidecar.demo.outcome import UnexpectedError

HOST: Final = "127.0.0.1"

FIRST: Final = 20_000
COUNT: Final = 10_000
"""Below the range from which systems take the ports of outgoing connections (Linux: 32768 and up, IANA: 49152 and up),
so that between the look and the start no stranger's connection comes to sit on one."""


def free_ports(count: int) -> list[int]:
    """That many ports nobody listens on now. Each process begins to look at another place."""
    found: list[int] = []
    start = os.getpid() * 16 % COUNT
    for port in itertools.islice(itertools.cycle(range(COUNT)), start, start + COUNT):
        if _free(FIRST + port):
            found.append(FIRST + port)
        if len(found) == count:
            return found
    raise UnexpectedError(f"fewer than {count} free ports on {HOST}")


def _free(port: int) -> bool:
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((HOST, port))
        except OSError:
            return False
        return True


def accepts(port: int) -> bool:
    """Says whether somebody listens on the port."""
    try:
        with socket.create_connection((HOST, port), timeout=1):
            return True
    except OSError:
        return False

"""Ports for what tests start: nobody listens on them, and no two calls give the same one.

The range lies below the one from which the kernel takes the ports of clients. Where the tests run in several processes at
once (pytest-xdist), each has a part of it: a port that one has found free and not yet bound is free to the others, too.
"""

from __future__ import annotations

import os
import random
import socket
from contextlib import suppress
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Mapping

LOOPBACK: Final = "127.0.0.1"
FIRST: Final = 12_000
END: Final = 32_000


def part_of(environ: Mapping[str, str]) -> range:
    """The ports of this process, as pytest-xdist names it: worker ``gw2`` of 4 has the third quarter."""
    workers = int(environ.get("PYTEST_XDIST_WORKER_COUNT", "1"))
    number = int(environ.get("PYTEST_XDIST_WORKER", "gw0").removeprefix("gw"))
    size = (END - FIRST) // workers
    return range(FIRST + number * size, FIRST + (number + 1) * size)


class Ports:
    """Gives each port of a range once, in an order of its own: other runs of the tests may be on the same machine."""

    def __init__(self, part: range) -> None:
        self._left = list(part)
        random.Random(os.getpid()).shuffle(self._left)  # noqa: S311 - no secret

    def free(self) -> int:
        """A port that nobody listens on. Raises IndexError where all of them were given."""
        while True:
            port = self._left.pop()
            with socket.socket() as sock, suppress(OSError):
                sock.bind((LOOPBACK, port))
                return port


_ports = Ports(part_of(os.environ))


def free_port() -> int:
    """A port that nobody listens on and that this process has not been given before."""
    return _ports.free()

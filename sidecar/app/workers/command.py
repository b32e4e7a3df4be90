"""The command line of a worker: what `sidecar.app.workers.process` writes, and what ``ps`` shows.

``python -m sidecar.app.workers worker --of planner.yaml --number 1 --loop auto --channel 7``
"""

from __future__ import annotations

import argparse
import asyncio
import socket
import sys
from typing import TYPE_CHECKING, Final

from sidecar.app.process import loop_factory, prepare_process
from sidecar.clock import Clock
from sidecar.hardening import harden

if TYPE_CHECKING:
    from collections.abc import Sequence


def main(argv: Sequence[str] | None = None) -> int:
    """Runs one process to its end; returns its exit code."""
    parser = argparse.ArgumentParser(prog="sidecar.app.workers", description="Started by sidecar run, for itself.")
    parser.add_argument("role", choices=sorted(_ROLES))
    parser.add_argument("--of", metavar="FILE", help="the configuration file, for whoever looks at the processes")
    parser.add_argument("--number", type=int, help="which of the workers it is, likewise")
    parser.add_argument("--loop", default="auto", help="as in sidecar run")
    parser.add_argument("--channel", type=int, required=True, help="the descriptor of our end")
    args = parser.parse_args(sys.argv[1:] if argv is None else argv)
    harden()  # what it refuses, the parent has said
    prepare_process()
    sock = socket.socket(fileno=args.channel)
    sock.set_inheritable(False)
    with asyncio.Runner(loop_factory=loop_factory(args.loop)) as runner:
        return runner.run(_ROLES[args.role](sock))


async def _work(sock: socket.socket) -> int:
    from sidecar.app.workers.worker import Worker  # noqa: PLC0415 - each role loads what it needs

    return await Worker(sock, Clock()).run()


async def _sign(sock: socket.socket) -> int:
    from sidecar.app.workers.signing import SignerProcess  # noqa: PLC0415 - likewise

    return await SignerProcess(sock, Clock()).run()


_ROLES: Final = {"worker": _work, "signer": _sign}

"""``sidecar run FILE``: the proxy itself."""

from __future__ import annotations

import argparse
import asyncio
from pathlib import Path
from typing import TYPE_CHECKING

from sidecar.app.bequest import Bequest
from sidecar.app.own_key import OwnKey
from sidecar.app.process import loop_factory, prepare_process, spare_collector
from sidecar.app.signals import Signals
from sidecar.clock import Clock
from sidecar.config.load import Loaded, load
from sidecar.telemetry.messages import Messages

if TYPE_CHECKING:
    from sidecar.app.server import Server
    from sidecar.app.workers.parent import Parent


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declares the command line of ``sidecar run``."""
    parser.description = (
        "Runs the proxy that a configuration file describes. The access log goes where the file says, the proxy's own\n"
        "messages to standard error. A changed file or SIGHUP reloads, all or nothing; SIGTERM drains, a second one ends\n"
        "at once."
    )
    parser.epilog = (
        "example:\n  sidecar run planner.yaml\n\n"
        "exit codes: 0 drained, 1 failed while running, 2 the configuration is wrong"
    )
    parser.add_argument("file", metavar="FILE", type=Path, help="the configuration file (YAML)")
    parser.add_argument(
        "--loop",
        choices=("auto", "uvloop", "asyncio"),
        default="auto",
        help="the event loop; auto takes uvloop where it is installed",
    )
    # What `sidecar exec` hands over, by the numbers of inherited descriptors.
    parser.add_argument("--lifeline", metavar="FD", type=int, help=argparse.SUPPRESS)
    parser.add_argument("--agent-listener", metavar="FD", type=int, help=argparse.SUPPRESS)


def run(args: argparse.Namespace) -> int:
    """Runs until a signal ends it: 0 after a drain, 1 when it was told twice.

    Raises:
        InvalidConfiguration: the file is wrong; every fault is named.
        SidecarError: the process cannot start, for example because a port is in use.

    """
    prepare_process()
    clock = Clock()
    bequest = Bequest.take(args.lifeline, args.agent_listener)
    loaded = load(args.file, now=clock.wall()).for_agent(bequest.agent)
    with asyncio.Runner(loop_factory=loop_factory(args.loop)) as runner:
        return runner.run(serve(loaded, clock, args.loop, bequest))


async def serve(loaded: Loaded, clock: Clock, loop_choice: str, bequest: Bequest) -> int:
    """Starts, obeys signals, and ends in order: SIGTERM or SIGINT drains, a second one exits at once, SIGHUP reloads."""
    signals = Signals()
    several = loaded.config.workers > 1
    try:
        server = await (_workers(loaded, clock, loop_choice, bequest) if several else _alone(loaded, clock, bequest))
    except asyncio.CancelledError:
        if not signals.ended_start:
            raise
        Messages(clock.wall).info("told to end before it was ready")
        return 0
    spare_collector()
    signals.serve(server)
    bequest.watch(asyncio.get_running_loop(), server.stop)
    try:
        return await server.ended
    finally:
        await server.close()


async def _alone(loaded: Loaded, clock: Clock, bequest: Bequest) -> Server:
    from sidecar.app.server import Server  # noqa: PLC0415 - a parent of workers does without

    key = await OwnKey.open(loaded)
    try:
        server = Server(loaded, clock, asyncio.get_running_loop(), key)
        server.inherited = bequest.sockets
        await server.start()
    except BaseException:
        await key.close()
        raise
    return server


async def _workers(loaded: Loaded, clock: Clock, loop_choice: str, bequest: Bequest) -> Parent:
    from sidecar.app.workers.parent import Parent  # noqa: PLC0415 - where there are workers

    parent = Parent(loaded, clock, asyncio.get_running_loop(), loop_choice)
    parent.inherited = bequest.sockets
    await parent.start()
    return parent

"""``sidecar exec FILE -- CMD …``: an agent behind its sidecar."""

from __future__ import annotations

import argparse
import os
import shutil
import socket
import sys
from contextlib import ExitStack
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Final

from sidecar.cli.agent_environment import agent_environment
from sidecar.cli.configuration import read_configuration
from sidecar.cli.output import complain
from sidecar.config.faults import printable
from sidecar.config.values import TcpAddress
from sidecar.errors import ConfigurationError
from sidecar.interpreter import interpreter, path_flags
from sidecar.supervisor.supervise import NOT_EXECUTABLE, NOT_FOUND, AgentNotStarted, Order, supervise

if TYPE_CHECKING:
    from sidecar.config.values import Config

LOOPBACK: Final = "127.0.0.1"
READY_SECONDS: Final = 30.0
_MOST_SECONDS: Final = 3600.0


class ExecCode(StrEnum):
    """What is wrong with the command line."""

    NO_COMMAND = "exec_no_command"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declares the command line of ``sidecar exec``."""
    parser.usage = "sidecar exec [--ready-timeout SECONDS] FILE -- CMD [ARGUMENT ...]"
    parser.description = (
        "Runs an agent behind its sidecar: starts the proxy, waits until it is ready, starts the agent, passes signals on,\n"
        "drains the proxy when the agent has ended, and exits with the agent's code. It works as process 1 of a container.\n\n"
        "One more listener, on a free port of 127.0.0.1, serves every outbound entry by its name; HTTP_PROXY and HTTPS_PROXY\n"
        "name it to the agent, NO_PROXY this machine, and SIDECAR_<NAME>_URL each outbound entry. The rest of the environment\n"
        "stays. What the proxy prints, an access log on stdout too, goes to standard error."
    )
    parser.epilog = (
        "example:\n"
        "  sidecar exec planner.yaml -- python agent.py\n\n"
        "exit codes: the agent's, 128 and more where a signal has ended it; 1 the proxy did not start or has died, 2 the file\n"
        "or the command line is wrong, 126 CMD cannot be executed, 127 it is not there"
    )
    parser.add_argument(
        "--ready-timeout",
        metavar="SECONDS",
        type=_seconds,
        default=READY_SECONDS,
        help="how long the proxy may take to be ready (default %(default)g)",
    )
    parser.add_argument("file", metavar="FILE", type=Path, help="the configuration file (YAML)")
    parser.add_argument("agent", metavar="CMD", nargs=argparse.REMAINDER, help="the agent's program, and its arguments")


def run(args: argparse.Namespace) -> int:
    """Runs both until the agent ends; raises SidecarError where the proxy cannot be had."""
    agent = _agent(args.agent, args.file)
    config = read_configuration(args.file).config
    if (code := _unusable(agent[0])) is not None:
        return code
    with ExitStack() as stack:
        lifeline, ours = os.pipe()  # the proxy sees the end of it if we are killed
        stack.callback(os.close, ours)
        lent, words, proxy = [lifeline], ["--lifeline", str(lifeline)], None
        if config.outbound:
            sock = _free_port(config)
            proxy = str(TcpAddress(LOOPBACK, sock.getsockname()[1]))
            lent.append(sock.detach())
            words += ["--agent-listener", str(lent[-1])]
        order = Order(
            program=interpreter(),
            proxy=[sys.executable, *path_flags(), "-m", "sidecar", "run", *words, "--", str(args.file)],
            lent=lent,
            agent=agent,
            environ=agent_environment(config, proxy, os.environ),
            admin=Path(config.admin.listen.path),
            ready_seconds=args.ready_timeout,
            drain_seconds=config.drain_timeout,
        )
        try:
            return supervise(order)
        except AgentNotStarted as error:
            complain(str(error), error.hint)
            return error.exit_code


def _agent(words: list[str], file: Path) -> list[str]:
    """Returns the agent's command. What stands before it is ours: argparse has eaten a ``--``, or left it (bpo-13922)."""
    if words[:1] == ["--"]:
        words = words[1:]
    elif words and words[0].startswith("-"):
        raise ConfigurationError(
            ExecCode.NO_COMMAND, f"{words[0]} stands behind the file", hint="options of sidecar exec stand before it"
        )
    if not words:
        hint = f"sidecar exec {printable(str(file))} -- CMD: its command stands after --"
        raise ConfigurationError(ExecCode.NO_COMMAND, "which agent?", hint=hint)
    return words


def _unusable(name: str) -> int | None:
    """Says, before anything is started, how it ends with a program that cannot be: None where it can, as far as is seen."""
    if shutil.which(name) is not None:
        return None
    there = shutil.which(name, os.F_OK) is not None
    error = PermissionError(0, "permission denied") if there else FileNotFoundError()
    refused = AgentNotStarted(name, error)
    complain(str(refused), refused.hint)
    return NOT_EXECUTABLE if there else NOT_FOUND


def _free_port(config: Config) -> socket.socket:
    """Binds a port of loopback that the file does not name either. The proxy listens on it."""
    named = _ports(config)
    while True:
        sock = socket.socket()
        sock.bind((LOOPBACK, 0))
        if sock.getsockname()[1] not in named:
            return sock
        sock.close()


def _ports(config: Config) -> set[int]:
    listens: set[object] = {entry.listen for entry in config.inbound} | {entry.listen for entry in config.outbound}
    if config.health is not None:
        listens.add(config.health.listen)
    return {listen.port for listen in listens if isinstance(listen, TcpAddress)}


def _seconds(text: str) -> float:
    try:
        seconds = float(text)
    except ValueError:
        seconds = 0.0
    if not 0 < seconds <= _MOST_SECONDS:  # NaN is neither
        raise argparse.ArgumentTypeError(f"write a number of seconds, more than 0 and at most {_MOST_SECONDS:g}")
    return seconds

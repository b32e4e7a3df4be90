"""The command line: one file a command, loaded when it is asked for.

A command's module has ``add_arguments(parser)``, which also sets the parser's description and example, and
``run(args) -> int``, which returns the exit code: 0 fine, 1 failed while running, 2 the configuration or the command line
is wrong. It may raise any SidecarError; what a user sees of it is decided here, once.
"""

from __future__ import annotations

import argparse
import importlib
import io
import os
import sys
import traceback
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Final, NamedTuple

from sidecar import __version__
from sidecar.cli.output import columns, complain, print_faults
from sidecar.config.faults import InvalidConfiguration
from sidecar.errors import ConfigurationError, SidecarError
from sidecar.keys.errors import SignCode

if TYPE_CHECKING:
    from collections.abc import Sequence

FINE, FAILED, WRONG, INTERRUPTED = 0, 1, 2, 130


class Command(NamedTuple):
    """One row of the table: where a command lives, and what `sidecar --help` says of it.

    ``hardened``: its process is (`sidecar.hardening`), as it may hold a key, a PIN or a token; where it starts programs of
    the user's, which would inherit some of that, it is only concealed.
    """

    module: str
    help: str
    hardened: bool = True


#: A new command is one new file and one line here.
COMMANDS: Final = {
    "run": Command("sidecar.cli.run", "run the proxy that a configuration file describes"),
    "exec": Command("sidecar.cli.exec", "run an agent behind its sidecar", hardened=False),
    "check": Command("sidecar.cli.check", "check a configuration file and name every fault in it"),
    "explain": Command("sidecar.cli.explain", "say which rule allows or denies a request, and what is missing"),
    "inspect": Command("sidecar.cli.inspect", "show what a TLS peer presents, and what of it would be refused"),
    "certs": Command("sidecar.cli.certs", "make an authority and identities for development"),
    "key": Command("sidecar.cli.key", "make a private key in a file, a TPM or a token, or try one"),
    "token": Command("sidecar.cli.token", "print a fresh token of a running proxy"),
    "signer": Command("sidecar.cli.signer", "let other processes use a private key without having it"),
    "demo": Command("sidecar.cli.demo", "show two agents and two sidecars at work on this machine", hardened=False),
}

_EXAMPLE: Final = """\
example:
  sidecar certs init certs-dev --agent planner --agent tools
  sidecar check planner.yaml
  sidecar run planner.yaml

exit codes: 0 fine, 1 failed while running, 2 the configuration or the command line is wrong
"""


def main(argv: Sequence[str] | None = None) -> int:
    """Runs one command and returns its exit code. Nothing is raised: no traceback ever reaches a user.

    Without ``argv`` the process is ours, and is hardened where the command asks for it; one that calls this with a command
    line of its own making is not ours to change.
    """
    try:
        _soften(sys.stdout)
        _soften(sys.stderr)
        code = _run(sys.argv[1:], ours=True) if argv is None else _run(argv, ours=False)
        sys.stdout.flush()  # here, where a reader that went away is no surprise
    except KeyboardInterrupt:
        return INTERRUPTED
    except BrokenPipeError:
        _discard_stdout()
        return FAILED
    except InvalidConfiguration as error:
        print_faults(error)
        return WRONG
    except SidecarError as error:
        complain(str(error), error.hint)
        # A PIN that was refused is a wrong one: whoever starts us again and again would lock the device with it.
        wrong = isinstance(error, ConfigurationError) or error.code == SignCode.AUTH
        return WRONG if wrong else FAILED
    except OSError as error:  # the machine's doing: a full disk, no descriptors left
        _show_traceback(error)
        _settle_stdout()
        complain(" ".join(filter(None, [error.strerror or type(error).__name__, str(error.filename or "")])))
        return FAILED
    except Exception as error:  # noqa: BLE001 - the one place where everything unexpected ends
        _internal(error)
        return FAILED
    return code


def _run(argv: Sequence[str], *, ours: bool) -> int:
    parser = _parser(next((word for word in argv if not word.startswith("-")), None))
    try:
        args = parser.parse_args(argv)
    except SystemExit as stop:  # argparse has printed help, a version or what is wrong
        return stop.code if isinstance(stop.code, int) else WRONG
    if args.command is None:
        parser.print_help(sys.stderr)
        return WRONG
    command = COMMANDS[args.command]
    if ours:
        _harden(command)
    code: int = importlib.import_module(command.module).run(args)
    return code


def _harden(command: Command) -> None:
    """Before anything secret is read. What the system refuses is said; it protects what must work all the same."""
    from sidecar.hardening import conceal, harden  # noqa: PLC0415 - only a command that runs needs it

    for missing in harden() if command.hardened else conceal():
        complain(f"warning: not hardened: {missing}", "does a seccomp profile of the container forbid it?")


def _parser(chosen: str | None) -> argparse.ArgumentParser:
    """Returns the parser; only the chosen command's module is loaded, for its arguments."""
    # Without a width argparse loads shutil to ask for it, with all that can compress, also where no help is printed.
    layout = partial(argparse.RawDescriptionHelpFormatter, width=columns() - 2)
    parser = argparse.ArgumentParser(
        prog="sidecar",
        description="A proxy beside each AI agent: proves who calls by mutual TLS, and lets through only who is named.",
        epilog=_EXAMPLE,
        formatter_class=layout,
        allow_abbrev=False,
    )
    parser.add_argument("--version", action="version", version=f"sidecar {__version__}")
    commands = parser.add_subparsers(dest="command", metavar="COMMAND", title="commands")
    for name, command in COMMANDS.items():
        below = commands.add_parser(
            name,
            help=command.help,
            description=command.help[0].upper() + command.help[1:] + ".",
            formatter_class=layout,
            allow_abbrev=False,
        )
        if name == chosen:
            importlib.import_module(command.module).add_arguments(below)
    return parser


def _soften(stream: object) -> None:
    """Lets a stream escape what its encoding cannot hold, such as the name of a file that is not UTF-8."""
    if isinstance(stream, io.TextIOWrapper):
        stream.reconfigure(errors="backslashreplace")


def _settle_stdout() -> None:
    """Writes what is buffered, or gives it up where that is what failed."""
    try:
        sys.stdout.flush()
    except OSError:
        _discard_stdout()


def _discard_stdout() -> None:
    """Sends what is still buffered to nowhere, so that the interpreter's last flush does not complain either."""
    try:
        null = os.open(os.devnull, os.O_WRONLY)
        os.dup2(null, sys.stdout.fileno())
        os.close(null)
    except (OSError, ValueError):  # stdout is no real file, or is gone: then nothing is flushed either
        return


def _show_traceback(error: Exception) -> None:
    if os.environ.get("SIDECAR_DEBUG") == "1":
        traceback.print_exception(error)


def _internal(error: Exception) -> None:
    """Names a defect of sidecar by kind and place. Its text is left out: it may quote what must stay secret."""
    _show_traceback(error)
    frames = traceback.extract_tb(error.__traceback__)
    place = f" at {Path(frames[-1].filename).name}:{frames[-1].lineno}" if frames else ""
    complain(
        f"internal error: {type(error).__name__}{place}",
        "this is a defect of sidecar, not of your configuration: please report it with the traceback that the same "
        "command prints under SIDECAR_DEBUG=1 (look through it first, it may quote your configuration)",
    )

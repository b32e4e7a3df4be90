"""``sidecar token FILE NAME``: a fresh token of a running proxy, for tools that ask a command for their key."""

from __future__ import annotations

import re
import shlex
from enum import StrEnum
from http import HTTPStatus
from pathlib import Path
from typing import TYPE_CHECKING, Final

from sidecar.admin.client import AskCode, AskError, Reply, ask
from sidecar.cli.configuration import read_configuration
from sidecar.config.faults import quote
from sidecar.errors import ConfigurationError, LocalError
from sidecar.tokens.codes import SourceError
from sidecar.tokens.token import checked

if TYPE_CHECKING:
    import argparse

    from sidecar.config.values import Config
    from sidecar.tokens.settings import SourceSettings

#: For everything, in seconds: the proxy takes up to 30 s, and then says so.
SECONDS: Final = 35.0
#: What an answer's code looks like; anything else is not shown.
_CODE: Final = re.compile(r"[a-z_]{1,64}")


class TokenCommandCode(StrEnum):
    """Why no token is printed."""

    UNKNOWN = "unknown_token_source"
    NOT_A_HELPER = "token_source_not_a_helper"
    NOT_IN_FORCE = "token_source_not_in_force"
    NO_TOKEN = "no_token"  # noqa: S105 - a code


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declares the command line of ``sidecar token``."""
    parser.description = (
        "Asks the running proxy of a configuration file for a fresh token, over its administration socket, and prints the\n"
        "token and nothing else. It is for tools that get their key from a command, in a setting such as apiKeyHelper, and\n"
        "for sources that say `helper: true` alone: whoever has a token can use it until it expires, unless it is bound."
    )
    parser.epilog = (
        "example:\n  sidecar token planner.yaml models\n\n"
        'in the settings of a tool:\n  "apiKeyHelper": "/opt/sidecar/bin/sidecar token /etc/sidecar/planner.yaml models"\n\n'
        "exit codes: 0 the token is on standard output, 1 it cannot be had now, 2 the file or the command line is wrong"
    )
    parser.add_argument("file", metavar="FILE", type=Path, help="the configuration file (YAML) of the proxy")
    parser.add_argument("name", metavar="NAME", help="the name of a source in `tokens`, one with helper: true")


def run(args: argparse.Namespace) -> int:
    """Prints the token. Raises SidecarError where there is none."""
    config = read_configuration(args.file).config
    source = _source(config, args.name, args.file)
    socket = Path(config.admin.listen.path)
    reply = _asked(socket, source.name, args.file)
    if reply.status != HTTPStatus.OK:
        raise _refused(reply, socket, source.name)
    print(_token(reply))
    return 0


def _source(config: Config, name: str, file: Path) -> SourceSettings:
    found = {source.name: source for source in config.tokens}
    source = found.get(name)
    if source is None:
        known = sorted(each.name for each in config.tokens if each.keeping.helper)
        raise ConfigurationError(
            TokenCommandCode.UNKNOWN,
            f"{file}: tokens has no source {quote(name)}",
            hint=f"with helper: true there are: {', '.join(known)}" if known else "add it, with helper: true",
        )
    if not source.keeping.helper:
        raise LocalError(
            TokenCommandCode.NOT_A_HELPER,
            f"{file}: the source {name} gives no tokens to other programs",
            hint="say helper: true in it if whoever may use the administration socket may have its tokens",
        )
    return source


def _asked(socket: Path, name: str, file: Path) -> Reply:
    try:
        return ask(socket, "POST", f"/tokens/{name}", seconds=SECONDS)
    except AskError as error:
        if error.code is not AskCode.NOT_RUNNING:
            raise
        hint = f"start it: sidecar run {shlex.quote(str(file))}"
        raise AskError(error.code, str(error), hint=hint) from None


def _refused(reply: Reply, socket: Path, name: str) -> LocalError:
    if reply.status == HTTPStatus.NOT_FOUND:
        return LocalError(
            TokenCommandCode.NOT_IN_FORCE,
            f"the running proxy knows no source {name} with helper: true",
            hint="the file says so, but is not in force: the proxy's messages say why it was not reloaded, or it is of another "
            "version",
        )
    found = str(reply.content.get("error"))
    code = found if _CODE.fullmatch(found) else f"status {reply.status}"
    return LocalError(
        TokenCommandCode.NO_TOKEN,
        f"the running proxy has no token of {name} now: {code}",
        hint=f"its messages say more; its sources: curl --unix-socket {shlex.quote(str(socket))} http://sidecar/tokens",
    )


def _token(reply: Reply) -> str:
    """Returns the token, which is one word: nothing that comes here can steer a terminal or be two lines."""
    found = reply.content.get("token")
    try:
        return checked(found if isinstance(found, str) else "")
    except SourceError as error:
        raise LocalError(error.code, f"the running proxy's answer cannot be used: {error}") from None

"""``sidecar explain FILE --caller ID``: which rule would allow or deny, by the code that the proxy runs."""

from __future__ import annotations

import argparse
import json
import re
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Final

from sidecar.cli.configuration import read_configuration
from sidecar.cli.verdicts import Answer, answer_of, lines_of, plain
from sidecar.config.effective import policy_version
from sidecar.config.faults import printable, quote
from sidecar.config.values import Protocol
from sidecar.errors import ConfigurationError
from sidecar.http.errors import HttpError
from sidecar.http.grammar import METHOD
from sidecar.http.messages import TargetForm
from sidecar.http.target import parse_target
from sidecar.identity.pins import Pin, PinError
from sidecar.identity.spiffe import SpiffeId, SpiffeIdError
from sidecar.policy.explain import Question, explain

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from sidecar.cli.configuration import ReadConfiguration
    from sidecar.config.values import Config, Inbound

_METHOD: Final = re.compile(METHOD)
ALLOWED, DENIED = 0, 1


class ExplainCode(StrEnum):
    """What is wrong with the question."""

    UNKNOWN_ENTRY = "unknown_entry"
    NO_SUCH_REQUEST = "no_such_request"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declares the command line of ``sidecar explain``."""
    parser.description = (
        "Says whether a caller may do something, by which rule, or which rule comes nearest and what of it does not hold:\n"
        "through the code that the proxy runs, for each inbound entry or for one. Reads the configuration file and nothing\n"
        "that it names; whether a certificate is good, and a token, is not looked at."
    )
    parser.epilog = (
        "example:\n"
        "  sidecar explain tools.yaml --caller spiffe://example.org/agent/planner/1 --method POST --path /mcp\n\n"
        "exit codes: 0 an entry allows it, 1 none does, 2 the file or the command line is wrong"
    )
    parser.add_argument("file", metavar="FILE", type=Path, help="the configuration file (YAML)")
    parser.add_argument("--caller", metavar="ID", type=_caller, required=True, help="the caller's SPIFFE ID")
    parser.add_argument(
        "--pin", metavar="PIN", type=_pin, help="the pin of the caller's key; without it no rule with pins matches"
    )
    parser.add_argument("--entry", metavar="NAME", help="the one inbound entry to ask; otherwise all of them")
    parser.add_argument("--method", metavar="METHOD", type=_method, default="GET", help="default %(default)s")
    parser.add_argument(
        "--path",
        metavar="PATH",
        default="/",
        help="as the caller sends it; a query counts for nothing. Default %(default)s",
    )
    parser.add_argument(
        "--with-token", action="store_true", help="as if a token came along that meets whatever a rule asks of it"
    )
    parser.add_argument("--json", action="store_true", help="print one JSON object")


def run(args: argparse.Namespace) -> int:
    """Prints the verdicts. Raises InvalidConfiguration, and ConfigurationError for a question that cannot be asked."""
    read = read_configuration(args.file)
    entries = _entries(read.config, args.entry, args.file)
    question = Question(args.caller, args.pin, args.method.encode(), _path(args.method, args.path), args.with_token)
    answers = [_answer(read, entry, question) for entry in entries]
    notes = list(_notes(read.config, question))
    if args.json:
        print(json.dumps(_object(question, answers, notes, policy_version(read.config)), indent=2))
    else:
        print(*_text(args.file, question, answers, notes), sep="\n")
    return ALLOWED if any(answer.allowed for answer in answers) else DENIED


def _answer(read: ReadConfiguration, entry: Inbound, question: Question) -> Answer:
    if entry.forward.protocol is Protocol.TCP:
        question = Question(question.caller, question.pin)
    explanation = explain(entry.allow, policy_version(read.config), question)
    index = read.config.inbound.index(entry)
    rules = {rule.id: read.lines.get(f"inbound[{index}].allow[{n}]", 0) for n, rule in enumerate(entry.allow)}
    return answer_of(entry.name, question, explanation, rules)


def _entries(config: Config, name: str | None, file: Path) -> Sequence[Inbound]:
    found = [entry for entry in config.inbound if name in {None, entry.name}]
    if not found:
        known = ", ".join(entry.name for entry in config.inbound)
        what = "has no inbound entry" + (f" {quote(name)}" if name else "")
        raise ConfigurationError(
            ExplainCode.UNKNOWN_ENTRY,
            f"{printable(str(file))} {what}",
            hint=f"there are: {known}" if known else "nobody can call this sidecar: it has outbound entries alone",
        )
    return found


def _path(method: str, target: str) -> bytes:
    """Takes the path out of a request's target as the proxy does."""
    try:
        found = parse_target(method.encode(), target.encode(errors="surrogateescape"), secure=True)
    except HttpError as error:
        raise _no_such_request(f"{method} {target}", str(error)) from None
    if found.form is TargetForm.ABSOLUTE:
        raise _no_such_request(f"{method} {target}", "write the path alone")
    return found.path or b"/"


def _no_such_request(request: str, why: str) -> ConfigurationError:
    return ConfigurationError(
        ExplainCode.NO_SUCH_REQUEST,
        f"{quote(request)} is no request that any rule sees: {why}",
        hint="write a path as it is sent: it begins with /, what is odd in it is percent-encoded",
    )


def _notes(config: Config, question: Question) -> Iterable[str]:
    domain = question.caller.trust_domain
    if domain not in config.identity.trust:
        yield f"identity.trust names no bundle for {domain}: its certificates are refused before any rule is looked at"
    if question.token:
        yield "a token was only supposed: the proxy checks each"


def _text(file: Path, question: Question, answers: Sequence[Answer], notes: Iterable[str]) -> Iterable[str]:
    yield f"{printable(str(file))}: {question.caller}" + (f", key {question.pin}" if question.pin else "")
    for answer in answers:
        yield from lines_of(answer, file)
    yield from (f"  note: {note}" for note in notes)


def _object(question: Question, answers: Sequence[Answer], notes: list[str], version: str) -> dict[str, object]:
    return {
        "allowed": any(answer.allowed for answer in answers),
        "caller": str(question.caller),
        "pin": str(question.pin) if question.pin else None,
        "policy_version": version,
        "entries": [plain(answer) for answer in answers],
        "notes": notes,
    }


def _caller(text: str) -> SpiffeId:
    try:
        found = SpiffeId.parse(text)
    except SpiffeIdError as error:
        raise argparse.ArgumentTypeError(str(error)) from None
    if not found.path:
        raise argparse.ArgumentTypeError("this names a trust domain, and no caller in it")
    return found


def _pin(text: str) -> Pin:
    try:
        return Pin.parse(text)
    except PinError as error:
        raise argparse.ArgumentTypeError(str(error)) from None


def _method(text: str) -> str:
    if not text.isascii() or _METHOD.fullmatch(text.encode()) is None:
        raise argparse.ArgumentTypeError(f"{text[:40]!a} is not a method")
    return text

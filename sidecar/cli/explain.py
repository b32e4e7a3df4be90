"""``sidecar explain FILE``: which rule would allow or deny a caller, or the agent, by the code that the proxy runs."""

from __future__ import annotations

import argparse
import json
import re
from pathlib import Path
from typing import TYPE_CHECKING, Final, TypeVar

from sidecar.cli.configuration import read_configuration
from sidecar.cli.explain_url import asked_url, way_of
from sidecar.cli.questions import ExplainCode, no_such_request
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
    from collections.abc import Iterable, Mapping, Sequence

    from sidecar.cli.configuration import ReadConfiguration
    from sidecar.config.values import Config, Inbound, Outbound

    _Entry = TypeVar("_Entry", Inbound, Outbound)

_METHOD: Final = re.compile(METHOD)
ALLOWED, DENIED = 0, 1


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declares the command line of ``sidecar explain``."""
    parser.description = (
        "Says whether a caller may do something (--caller), by which rule, or which rule comes nearest and what of it does not\n"
        "hold; or what becomes of the agent's request for a URL (--url). Through the code that the proxy runs, for each entry\n"
        "or for one. Reads the configuration file and nothing that it names; whether a certificate is good, and a token, is\n"
        "not looked at."
    )
    parser.epilog = (
        "example:\n"
        "  sidecar explain tools.yaml --caller spiffe://example.org/agent/planner/1 --method POST --path /mcp\n"
        "  sidecar explain planner.yaml --url http://tools.internal/mcp\n\n"
        "exit codes: 0 an entry allows it, 1 none does, 2 the file or the command line is wrong"
    )
    parser.add_argument("file", metavar="FILE", type=Path, help="the configuration file (YAML)")
    who = parser.add_mutually_exclusive_group(required=True)
    who.add_argument("--caller", metavar="ID", type=_caller, help="inbound: the caller's SPIFFE ID")
    who.add_argument("--url", metavar="URL", help="outbound: what the agent asks for, of its proxy or of a listener")
    parser.add_argument(
        "--pin", metavar="PIN", type=_pin, help="the pin of the caller's key; without it no rule with pins matches"
    )
    parser.add_argument("--entry", metavar="NAME", help="the one entry to ask; otherwise all of them")
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
    if args.url is not None:
        return _outbound(read.config, args)
    entries = _named(read.config.inbound, "inbound", args.entry, args.file)
    question = Question(args.caller, args.pin, args.method.encode(), _path(args.method, args.path), args.with_token)
    answers = [_answer(read, entry, question) for entry in entries]
    notes = list(_notes(read.config, question))
    subject = f"{question.caller}" + (f", key {question.pin}" if question.pin else "")
    about = {"caller": str(question.caller), "pin": str(question.pin) if question.pin else None}
    return _tell(args, subject, about | {"policy_version": policy_version(read.config)}, answers, notes)


def _outbound(config: Config, args: argparse.Namespace) -> int:
    asked = asked_url(args.method, args.url)
    entries = _named(config.outbound, "outbound", args.entry, args.file)
    answers = [way_of(config, entry, asked) for entry in entries]
    about = {"url": args.url, "method": args.method, "policy_version": policy_version(config)}
    return _tell(args, f"the agent asks for {args.method} {printable(args.url)}", about, answers, [])


def _tell(
    args: argparse.Namespace, subject: str, about: Mapping[str, object], answers: Sequence[Answer], notes: list[str]
) -> int:
    allowed = any(answer.allowed for answer in answers)
    if args.json:
        entries = [plain(answer) for answer in answers]
        print(json.dumps({"allowed": allowed, **about, "entries": entries, "notes": notes}, indent=2))
        return ALLOWED if allowed else DENIED
    print(f"{printable(str(args.file))}: {subject}")
    for answer in answers:
        print(*lines_of(answer, args.file), sep="\n")
    for note in notes:
        print(f"  note: {note}")
    return ALLOWED if allowed else DENIED


def _answer(read: ReadConfiguration, entry: Inbound, question: Question) -> Answer:
    if entry.forward.protocol is Protocol.TCP:
        question = Question(question.caller, question.pin)
    explanation = explain(entry.allow, policy_version(read.config), question)
    index = read.config.inbound.index(entry)
    rules = {rule.id: read.lines.get(f"inbound[{index}].allow[{n}]", 0) for n, rule in enumerate(entry.allow)}
    return answer_of(entry.name, question, explanation, rules)


def _named(entries: Sequence[_Entry], direction: str, name: str | None, file: Path) -> list[_Entry]:
    """Returns the entry of that name, or all of them. Raises ConfigurationError where there is none."""
    found = [entry for entry in entries if name in {None, entry.name}]
    if not found:
        known = ", ".join(entry.name for entry in entries)
        what = f"has no {direction} entry" + (f" {quote(name)}" if name else "")
        other = "--url asks about outbound ones" if direction == "inbound" else "--caller asks about inbound ones"
        raise ConfigurationError(
            ExplainCode.UNKNOWN_ENTRY,
            f"{printable(str(file))} {what}",
            hint=f"there are: {known}" if known else other,
        )
    return found


def _path(method: str, target: str) -> bytes:
    """Takes the path out of a request's target as the proxy does."""
    try:
        found = parse_target(method.encode(), target.encode(errors="surrogateescape"), secure=True)
    except HttpError as error:
        raise no_such_request(f"{method} {target}", str(error)) from None
    if found.form is TargetForm.ABSOLUTE:
        raise no_such_request(f"{method} {target}", "write the path alone")
    return found.path or b"/"


def _notes(config: Config, question: Question) -> Iterable[str]:
    domain = question.caller.trust_domain
    if domain not in config.identity.trust:
        yield f"identity.trust names no bundle for {domain}: its certificates are refused before any rule is looked at"
    if question.token:
        yield "a token was only supposed: the proxy checks each"


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

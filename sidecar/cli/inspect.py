"""``sidecar inspect HOST:PORT``: what a TLS peer presents, and what of it we would refuse."""

from __future__ import annotations

import argparse
import asyncio
import importlib.util
import json
import warnings
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Final, NamedTuple

from cryptography.utils import CryptographyDeprecationWarning

from sidecar.cli.own_handshake import NOBODY, How, own_handshake
from sidecar.cli.presented import Report, lines_of, plain
from sidecar.clock import Clock
from sidecar.config.addresses import dns_name, tcp_address
from sidecar.config.faults import Refused, printable, quote
from sidecar.config.load import load
from sidecar.config.values import Protocol, TcpAddress, Tls, UnixAddress
from sidecar.errors import ConfigurationError, SidecarError
from sidecar.inspection.described import describe
from sidecar.inspection.judge import Fault, Wanted, judge
from sidecar.inspection.wire import Wire
from sidecar.tls.contexts import HTTP_ALPN, NO_ALPN

if TYPE_CHECKING:
    from sidecar.config.load import Loaded
    from sidecar.config.values import Outbound

#: For each connection to the peer, in seconds: what is usual, and the most that may be asked for.
SECONDS: Final = 10.0
_MOST_SECONDS: Final = 300.0
ACCEPTED, REFUSED = 0, 1


class InspectCommandCode(StrEnum):
    """What is wrong with the command line."""

    EXTRA_MISSING = "inspect_extra_missing"
    NO_ADDRESS = "inspect_no_address"
    UNKNOWN_ENTRY = "unknown_entry"


class _Question(NamedTuple):
    """Where to look, and as whom. ``entry`` comes with ``loaded``."""

    address: TcpAddress
    server_name: str | None
    alpn: tuple[str, ...]
    seconds: float
    loaded: Loaded | None
    entry: Outbound | None

    def dial(self) -> Wire:
        return Wire(self.address.host, self.address.port, self.seconds)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declares the command line of ``sidecar inspect``."""
    parser.description = (
        "Shows what a TLS peer presents: its chain with SPIFFE ID, pins and lifetimes, version, cipher, group, and whether it\n"
        "asks for a certificate. With --config it says what we would refuse, and why; with --entry it also makes the handshake\n"
        "that the proxy makes for this outbound entry, with our identity, and says whether the session resumes. It never sends\n"
        "application data. Needs pyOpenSSL: pip install 'agent-sidecar[inspect]'."
    )
    parser.epilog = (
        "example:\n"
        "  sidecar inspect 127.0.0.1:8443\n"
        "  sidecar inspect --config planner.yaml --entry tools\n\n"
        "exit codes: 0 we would accept it (without --config: it was shown), 1 we would not, or it cannot be reached,\n"
        "2 the file or the command line is wrong"
    )
    parser.add_argument(
        "address", metavar="HOST:PORT", type=_address, nargs="?", help="the peer; with --entry by default its `connect`"
    )
    parser.add_argument(
        "--config", metavar="FILE", type=Path, help="verify with the trust bundles of this configuration"
    )
    parser.add_argument("--entry", metavar="NAME", help="an outbound entry of it: its peer, its pins, our identity")
    parser.add_argument(
        "--server-name",
        metavar="NAME",
        type=_name,
        help="the SNI to send; by default the host's name, none for an address",
    )
    parser.add_argument(
        "--alpn",
        metavar="NAME",
        action="append",
        type=_protocol,
        help="a protocol to offer, once for each; by default http/1.1, or what the entry offers",
    )
    parser.add_argument(
        "--timeout", metavar="SECONDS", type=_seconds, default=SECONDS, help="for each connection (default %(default)g)"
    )
    parser.add_argument("--json", action="store_true", help="print one JSON object")


def run(args: argparse.Namespace) -> int:
    """Prints what was seen. Raises InspectError where there is nothing, and ConfigurationError."""
    if importlib.util.find_spec("OpenSSL") is None:
        raise ConfigurationError(
            InspectCommandCode.EXTRA_MISSING,
            "inspect needs pyOpenSSL, not installed here: pip install 'agent-sidecar[inspect]'",
        )
    # A peer's odd certificates make the library warn on standard error.
    warnings.simplefilter("ignore", CryptographyDeprecationWarning)
    clock = Clock()
    question = _question(args, clock.wall())
    report = _inspect(question, clock)
    if args.json:
        print(json.dumps(plain(report), indent=2))
    else:
        print(*lines_of(report, clock.wall()), sep="\n")
    return ACCEPTED if report.accepted is not False else REFUSED


def _inspect(question: _Question, clock: Clock) -> Report:
    from sidecar.inspection.look import look  # noqa: PLC0415 - pyOpenSSL may be missing

    with question.dial() as wire:
        remote = wire.remote
        seen = look(wire, question.server_name, question.alpn)
    chain = tuple(map(describe, seen.chain))
    entry = question.entry
    unseen = entry is not None and entry.passthrough
    report = Report(str(question.address), question.server_name, question.alpn, seen, chain, unseen=unseen)
    if question.loaded is None:
        return report
    faults = judge(seen, _wanted(question.loaded, entry), clock.wall(), remote)
    if entry is None or unseen:
        return report.judged(faults)
    as_us = str(question.loaded.material.svid.id) if entry.tls is Tls.MUTUAL else NOBODY
    how = How(question.dial, question.server_name, question.alpn, clock)
    try:
        own = asyncio.run(own_handshake(question.loaded, entry, how))
    except SidecarError as error:
        return report.judged(faults, as_us=as_us, failed=Fault(str(error.code), str(error), error.hint))
    return report.judged(faults, as_us=as_us, own=own)


def _wanted(loaded: Loaded, entry: Outbound | None) -> Wanted:
    bundles = loaded.material.bundles
    if entry is None:
        return Wanted(bundles)
    site = entry.tls is Tls.PUBLIC
    anywhere, unseen = entry.unsafe_private_addresses, entry.passthrough
    return Wanted(bundles, entry.peer, entry.pins, site=site, anywhere=anywhere, unseen=unseen)


def _question(args: argparse.Namespace, now: float) -> _Question:
    if args.entry is not None and args.config is None:
        raise ConfigurationError(InspectCommandCode.UNKNOWN_ENTRY, "--entry needs the file that has it: --config FILE")
    loaded = load(args.config, now=now) if args.config is not None else None
    entry = _entry(loaded, args.entry) if loaded is not None and args.entry is not None else None
    address = args.address or (entry.connect if entry is not None else None)
    if isinstance(address, UnixAddress):
        raise ConfigurationError(
            InspectCommandCode.NO_ADDRESS,
            f"{quote(args.entry)} connects to {printable(str(address))}, and inspect looks at what TCP leads to",
            hint="name the HOST:PORT behind that socket, beside --entry",
        )
    if address is None:
        raise ConfigurationError(
            InspectCommandCode.NO_ADDRESS,
            "which peer?",
            hint="name HOST:PORT, or --config FILE --entry NAME for where that entry connects to",
        )
    name = args.server_name or _default_name(address, entry)
    alpn = tuple(args.alpn) if args.alpn else _default_alpn(entry)
    return _Question(address, name, alpn, args.timeout, loaded, entry)


def _entry(loaded: Loaded, name: str) -> Outbound:
    found = next((entry for entry in loaded.config.outbound if entry.name == name), None)
    if found is None:
        known = ", ".join(entry.name for entry in loaded.config.outbound)
        raise ConfigurationError(
            InspectCommandCode.UNKNOWN_ENTRY,
            f"{printable(str(loaded.config.source))} has no outbound entry {quote(name)}",
            hint=f"there are: {known}" if known else "it has inbound entries alone",
        )
    return found


def _default_name(address: TcpAddress, entry: Outbound | None) -> str | None:
    if entry is not None:
        return entry.server_name
    return address.host if address.ip is None else None


def _default_alpn(entry: Outbound | None) -> tuple[str, ...]:
    return NO_ALPN if entry is not None and entry.protocol is Protocol.TCP else HTTP_ALPN


def _address(text: str) -> TcpAddress:
    try:
        return tcp_address(text)
    except Refused as error:
        raise argparse.ArgumentTypeError(f"{error}: {error.hint}" if error.hint else str(error)) from None


def _name(text: str) -> str:
    try:
        return dns_name(text)
    except Refused as error:
        raise argparse.ArgumentTypeError(str(error)) from None


def _protocol(text: str) -> str:
    if not 1 <= len(text) <= 255 or not text.isascii() or not text.isprintable():  # RFC 7301 3.1
        raise argparse.ArgumentTypeError(f"{quote(text)} is not the name of a protocol, such as http/1.1")
    return text


def _seconds(text: str) -> float:
    try:
        seconds = float(text)
    except ValueError:
        seconds = 0.0
    if not 0 < seconds <= _MOST_SECONDS:  # NaN is neither
        raise argparse.ArgumentTypeError(f"write a number of seconds, more than 0 and at most {_MOST_SECONDS:g}")
    return seconds

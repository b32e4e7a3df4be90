"""``python -m bench``: the command line."""

from __future__ import annotations

import argparse
import json
import shlex
import signal
import sys
import tempfile
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

from bench import machine, selection
from bench.certificates import Certificates
from bench.chart import draw
from bench.errors import UsageError
from bench.install import install
from bench.page import write_page
from bench.peers.peer import Work
from bench.peers.table import PEERS
from bench.processes import ROOT
from bench.result import Result
from bench.rows.table import ROWS
from bench.session import Session, Settings
from bench.table import as_text

if TYPE_CHECKING:
    from types import FrameType


PAGE = ROOT / "bench/README.md"
RESULT, CHART = "result.json", "chart.svg"


def main(argv: list[str] | None = None) -> int:
    """0: measured; 1: we ourselves could not be measured in some line; 2: the command line or the machine is wrong."""
    args = _parser().parse_args(argv)
    before = signal.signal(signal.SIGTERM, _interrupt)
    try:
        return _run(args)
    except UsageError as error:
        print(f"bench: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("bench: interrupted; everything it started has ended", file=sys.stderr)
        return 130
    finally:
        signal.signal(signal.SIGTERM, before)


def _interrupt(_signal: int, _frame: FrameType | None) -> None:
    raise KeyboardInterrupt


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m bench",
        description="Measures a pair of our proxies against pairs of others, in interleaved rounds of the same run.",
        epilog="exit codes: 0 measured, 1 sidecar could not be measured in some line, 2 wrong usage or machine",
    )
    parser.add_argument("--peers", default="", metavar="A,B", help=f"of {', '.join(PEERS)}; sidecar always runs")
    parser.add_argument("--rows", default="", metavar="A,B", help=f"of {', '.join(ROWS)}; or all")
    parser.add_argument("--rounds", type=_count, default=5, help="rounds of each row (5)")
    parser.add_argument("--seconds", type=_count, default=3, help="seconds of each round (3)")
    parser.add_argument("--no-install", action="store_true", help="install nothing; name what is missing")
    parser.add_argument(
        "--write-readme", type=Path, metavar="JSON", help="measure nothing: write a result into README.md"
    )
    parser.add_argument(
        "--output", type=Path, default=ROOT / ".bench/results", metavar="DIR", help="for JSON and chart"
    )
    return parser


def _count(text: str) -> int:
    if not text.isascii() or not text.isdigit() or not 1 <= int(text) <= 100:
        raise argparse.ArgumentTypeError(f"{text!r} is not a number from 1 to 100")
    return int(text)


def _run(args: argparse.Namespace) -> int:
    if args.write_readme is not None:
        write_page(args.write_readme, PAGE)
        print(f"written: {PAGE}")
        return 0
    settings = Settings(selection.peers(args.peers), selection.rows(args.rows), args.rounds, args.seconds)
    if not args.no_install:
        install(settings.peers, settings.rows, _say)
    machine.check()
    cores = machine.cores()
    about = machine.facts() | {
        "command": shlex.join(["python", "-m", "bench", *sys.argv[1:]]),
        "settings": asdict(settings),
        "peer_versions": {name: _version(name) for name in settings.peers},
    }
    machine.stay_on(cores[1])
    result = Result(about, list(settings.peers))
    with tempfile.TemporaryDirectory(prefix="bench-") as folder:
        certificates = Certificates.make(Path(folder) / "certificates")
        session = Session(settings, certificates, Path(folder), cores, result, say=_say)
        for name in settings.rows:
            row = ROWS[name]
            result.announce(row.lines)
            row.play(session, row)
            _write(result, args.output)
    print(f"\n{as_text(result)}")
    print(f"\nwritten: {args.output / RESULT} and {args.output / CHART}")
    return 0 if session.went_well else 1


def _version(name: str) -> str:
    lacks = [PEERS[name].missing(work) for work in Work]
    return PEERS[name].version() if None in lacks else f"missing: {lacks[-1]}"


def _say(text: str) -> None:
    print(text, flush=True)


def _write(result: Result, folder: Path) -> None:
    """After each row, so that a run that is interrupted leaves what it had."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / RESULT).write_text(json.dumps(result.as_json(), indent=1, ensure_ascii=False) + "\n")
    (folder / CHART).write_text(draw(result))


if __name__ == "__main__":
    sys.exit(main())

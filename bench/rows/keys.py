"""Rows that compare us with ourselves by where our private key is: new connections, and what they do to the others."""

from __future__ import annotations

from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Final

from bench.backend import web
from bench.errors import CouldNotRunError
from bench.keys.kind import FileKey
from bench.keys.table import KINDS
from bench.keys.tpm import TpmKey
from bench.load.programs import crowding, longest_wait, open_connections
from bench.peers.peer import Work
from bench.peers.sidecar import Sidecar
from bench.peers.table import OURSELVES
from bench.proxies import spending, start_inbound
from bench.rows.row import Contestant, Line, Reading, Row
from bench.rows.settings import OURSELVES_ALONE
from bench.site import Running

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from bench.keys.kind import Given, Kind
    from bench.session import Session
    from bench.site import Site

MILLI: Final = 1e3
WARM_UP: Final = 0.5
MODES: Final = {"full": "full handshake", "resumed": "resumed"}
SERVICE: Final = "signer"

#: Seconds that a TPM command takes in the other row, and how many clients connect at once.
DELAY: Final = 0.1
CLIENTS: Final = 8


@dataclass(frozen=True, slots=True)
class Started:
    """Our accepting side, and what it takes to use its key."""

    proxy: Running
    beside: Running


def contestants(session: Session, row: Row, kinds: Mapping[Kind, tuple[str, ...]]) -> dict[Contestant, Kind]:
    """Ourselves with each kind of key that this machine has, and the lines that fills; the others are put down."""
    found = {}
    for kind, lines in kinds.items():
        lack = kind.missing()
        if lack is None:
            found[Contestant(Sidecar(), Work.HTTP, lines)] = kind
            continue
        session.progress(row.id, f"{kind.title} is missing: {lack}")
        for line in lines:
            session.result.cell(line, OURSELVES).missing = lack
    return found


def start(site: Site, contestant: Contestant, kind: Kind, upstream: int) -> Started:
    """Makes the key and starts our accepting side with it."""
    given: Given = kind.begin(site)
    ours = replace(contestant, peer=Sidecar(own=given.own))
    return Started(start_inbound(site, ours, upstream), Running(0, given.beside))


# -- new connections ----------------------------------------------------------------------------------------------------


def _lines(kind: Kind) -> tuple[str, ...]:
    """The lines of one kind: CPU and rate of each mode, and the CPU of a service beside us."""
    both = tuple(f"keys.{mode}.{kind.name}{suffix}" for mode in MODES for suffix in ("", ".rate"))
    return (*both, f"keys.full.{SERVICE}.service") if kind.name == SERVICE else both


def _play(session: Session, row: Row) -> None:
    kinds = contestants(session, row, {kind: _lines(kind) for kind in KINDS})
    seconds = session.settings.seconds / len(MODES)
    with session.site() as site:
        upstream = web.start(site)

        def prepare(contestant: Contestant) -> Started:
            started = start(site, contestant, kinds[contestant], upstream)
            for mode in MODES:
                open_connections(site, mode, started.proxy.port, WARM_UP)
            return started

        def measure(contestant: Contestant, started: Started) -> Reading:
            values: list[float] = []
            beside: dict[str, float] = {}
            for mode in MODES:
                with spending(started.proxy) as ours, spending(started.beside) as theirs:
                    count = open_connections(site, mode, started.proxy.port, seconds)
                values += [ours.seconds / count * MILLI, count / seconds]
                beside[mode] = theirs.seconds / count * MILLI
            if kinds[contestant].name == SERVICE:
                return Reading((*values, beside["full"]))
            notes = {f"ms CPU beside us, {mode}": cost for mode, cost in beside.items()}
            return Reading(tuple(values), notes if started.beside.processes else {})

        session.interleave(row, kinds, prepare, measure)


def _all_lines() -> Iterator[Line]:
    what = "connection with one request"
    for mode, words in MODES.items():
        for kind in KINDS:
            yield Line(f"keys.{mode}.{kind.name}", f"{what}, {words}, {kind.title}", "ms CPU")
        if mode == "full":
            yield Line(f"keys.full.{SERVICE}.service", f"{what}, {words}: sidecar signer beside it", "ms CPU")
    for mode, words in MODES.items():
        for kind in KINDS:
            title = f"such connections one after the other, {words}, {kind.title}"
            yield Line(f"keys.{mode}.{kind.name}.rate", title, "a second", more=True)


KEYS: Final = Row(
    "keys",
    "one request on each TLS connection, the accepting side alone, by where its private key is",
    tuple(_all_lines()),
    OURSELVES_ALONE,
    _play,
)


# -- others' requests while clients connect -----------------------------------------------------------------------------

_WAIT: Final = f"longest wait of a request while {CLIENTS} clients connect"
_STALL: Final[dict[Kind, tuple[str, ...]]] = {FileKey(): ("stall.file",), TpmKey(delay=DELAY): ("stall.tpm",)}


@contextmanager
def _checked(beats: int, notes: dict[str, float], site: Site, port: int) -> Iterator[None]:
    """The crowd around a block; what it did goes into the notes."""
    with crowding(site, port, CLIENTS, beats) as crowd:
        yield
    if crowd.handshakes != beats * CLIENTS:
        raise CouldNotRunError(f"{crowd.handshakes} of {beats * CLIENTS} clients connected")
    notes |= {"handshakes": crowd.handshakes, "ms the median handshake": crowd.median_ms}


def _stall(session: Session, row: Row) -> None:
    kinds = contestants(session, row, _STALL)
    beats = max(1, round(session.settings.seconds))
    with session.site() as site:
        upstream = web.start(site)

        def prepare(contestant: Contestant) -> Started:
            started = start(site, contestant, kinds[contestant], upstream)
            with _checked(1, {}, site, started.proxy.port):
                longest_wait(site, started.proxy.port, WARM_UP)
            return started

        def measure(_: Contestant, started: Started) -> Reading:
            port = started.proxy.port
            quiet = longest_wait(site, port, session.settings.seconds)
            notes = {"ms the longest with nobody connecting": float(quiet["worst_ms"])}
            with _checked(beats, notes, site, port):
                found = longest_wait(site, port, beats)
            return Reading((float(found["worst_ms"]),), notes | {"ms p99": found["p99_ms"]})

        session.interleave(row, kinds, prepare, measure)


STALL: Final = Row(
    "stall",
    f"requests on an open connection while {CLIENTS} clients connect at once, every second",
    (
        Line("stall.file", f"{_WAIT}, key in a file", "ms"),
        Line("stall.tpm", f"{_WAIT}, key in a TPM with {DELAY * MILLI:.0f} ms a command", "ms"),
    ),
    OURSELVES_ALONE,
    _stall,
)

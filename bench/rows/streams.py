"""A stream of small server-sent events: what the pair spends on each."""

from __future__ import annotations

import sys
from dataclasses import replace
from typing import TYPE_CHECKING, Final

from bench.backend.events import RATE
from bench.load.probe import answers
from bench.peers.haproxy import Haproxy
from bench.proxies import spending, start_pair
from bench.rows.row import HTTP_PEERS, Line, Reading, Row

if TYPE_CHECKING:
    from bench.peers.peer import Peer
    from bench.rows.row import Contestant
    from bench.session import Session
    from bench.site import Running, Site

MICRO: Final = 1e6
#: Peers that carry a stream only when they are told to.
FITTED: Final[dict[str, Peer]] = {"haproxy": Haproxy(no_delay=True)}


def _backend(site: Site) -> int:
    port = site.crew.port()
    core = site.crew.load_core
    process = site.crew.start("events", core, sys.executable, "-m", "bench.backend.events", str(port))
    process.until(lambda: answers(port), "answered")
    return port


def _play(session: Session, row: Row) -> None:
    seconds = session.settings.seconds
    with session.site() as site:
        upstream = _backend(site)

        def prepare(contestant: Contestant) -> Running:
            return start_pair(site, contestant, upstream)

        def measure(_: Contestant, running: Running) -> Reading:
            options = ("--port", str(running.port), "--seconds", str(seconds))
            with spending(running) as spent:
                found = site.crew.ask("reader", "bench.load.events", *options, seconds=seconds)
            notes = {"events/s": found["events"] / seconds, "ms p50": found["p50_ms"], "ms p99": found["p99_ms"]}
            return Reading((spent.seconds / found["events"] * MICRO,), notes)

        contestants = [replace(each, peer=FITTED.get(each.peer.name, each.peer)) for each in session.contestants(row)]
        session.interleave(row, contestants, prepare, measure)


SSE: Final = Row(
    "sse",
    f"one stream of {RATE:,} small server-sent events a second",
    (Line("sse", f"event of a stream with {RATE:,} a second", "µs CPU"),),
    HTTP_PEERS,
    _play,
)

"""Latency at half load: requests at a fixed rate, measured from the moment at which each was due."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from bench.backend import web
from bench.errors import CouldNotRunError
from bench.load import wrk
from bench.load.wrk import Load
from bench.peers.table import OURSELVES
from bench.proxies import start_pair
from bench.rows.requests import warm
from bench.rows.row import HTTP_PEERS, Line, Reading, Row

if TYPE_CHECKING:
    from bench.rows.row import Contestant
    from bench.session import Session
    from bench.site import Running


def _play(session: Session, row: Row) -> None:
    """The same rate for everybody, half of what goes through ourselves: latencies at different rates say nothing."""
    seconds = session.settings.seconds
    rate: float | None = None
    notes: dict[str, float] = {}
    with session.site() as site:
        upstream = web.start(site)

        def paced(port: int, rate: float) -> tuple[float, float, float]:
            options = ("--port", str(port), "--rate", f"{rate:.1f}", "--seconds", str(seconds))
            found = site.crew.ask("paced", "bench.load.paced", *options, seconds=seconds)
            return found["p50_ms"], found["p99_ms"], found["p999_ms"]

        def prepare(contestant: Contestant) -> Running:
            nonlocal rate
            running = start_pair(site, contestant, upstream)
            if contestant.peer.name == OURSELVES:
                warm(site, running, Load())
                full = wrk.run(site, running.port, Load(), seconds)
                rate = full.requests / seconds / 2
                floor = paced(upstream, rate)
                notes.update({"requests/s": rate, "ms p50 without a proxy": floor[0], "ms p99 without": floor[1]})
            return running

        def measure(_: Contestant, running: Running) -> Reading:
            if rate is None:
                raise CouldNotRunError("the rate is half of sidecar's full load, which is not known")
            warm(site, running, Load())
            return Reading(paced(running.port, rate), notes)

        session.interleave(row, session.contestants(row), prepare, measure)


PERCENTILES: Final = Row(
    "percentiles",
    "latency at half of sidecar's full load, the same rate for everybody, 32 connections",
    (
        Line("percentiles.p50", "latency at half load, p50", "ms"),
        Line("percentiles.p99", "latency at half load, p99", "ms"),
        Line("percentiles.p999", "latency at half load, p999", "ms"),
    ),
    HTTP_PEERS,
    _play,
)

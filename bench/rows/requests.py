"""Rows in which wrk keeps a pair of proxies busy and the question is what one request, or one gigabyte, costs."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Final

from bench.backend import web
from bench.load import wrk
from bench.load.wrk import Load
from bench.peers.peer import Work
from bench.proxies import spending, start_pair
from bench.rows.row import HTTP_PEERS, TCP_PEERS, Line, Reading, Row

if TYPE_CHECKING:
    from collections.abc import Callable

    from bench.load.wrk import Sent
    from bench.rows.row import Contestant
    from bench.session import Session
    from bench.site import Running, Site

MICRO: Final = 1e6
GIGA: Final = 1e9
#: Seconds; what wrk does at least.
WARM_UP: Final = 1.0


def play(
    session: Session,
    row: Row,
    *,
    load: Load,
    read: Callable[[Sent, float], Reading],
    contestants: list[Contestant] | None = None,
) -> None:
    """Loads the pair of each contestant in turn; ``read`` makes a reading of what went through and its CPU seconds."""
    with session.site() as site:
        upstream = web.start(site)

        def prepare(contestant: Contestant) -> Running:
            running = start_pair(site, contestant, upstream)
            if contestant.work is Work.TCP:
                warm(site, running, load)
            return running

        def measure(contestant: Contestant, running: Running) -> Reading:
            if contestant.work is Work.HTTP:
                warm(site, running, load)
            sent, seconds = loaded(site, running, load, session.settings.seconds)
            return read(sent, seconds)

        session.interleave(row, session.contestants(row) if contestants is None else contestants, prepare, measure)


def warm(site: Site, running: Running, load: Load) -> None:
    """A second of load that does not count.

    For HTTP before every round: while the others had theirs, connections between the two sides were closed, sooner or
    later depending on whose they are, and new handshakes would be counted as the cost of requests.
    """
    wrk.run(site, running.port, load, WARM_UP)


def loaded(site: Site, running: Running, load: Load, seconds: float) -> tuple[Sent, float]:
    """One round of load: what went through, and the CPU seconds of all proxies."""
    with spending(running) as spent:
        sent = wrk.run(site, running.port, load, seconds)
    return sent, spent.seconds


def a_request(seconds: float) -> Callable[[Sent, float], Reading]:
    """CPU microseconds a request; how many a second, and the median latency at full load, as notes."""

    def read(sent: Sent, spent: float) -> Reading:
        notes = {"requests/s": sent.requests / seconds, "ms p50": sent.p50_us / 1e3}
        return Reading((spent / sent.requests * MICRO,), notes)

    return read


def _requests(session: Session, row: Row, *, load: Load) -> None:
    play(session, row, load=load, read=a_request(session.settings.seconds))


def _gigabyte(session: Session, row: Row) -> None:
    def read(sent: Sent, spent: float) -> Reading:
        return Reading((spent / sent.bytes * GIGA,), {"GB/s": sent.bytes / GIGA / session.settings.seconds})

    play(session, row, load=Load("/bulk", connections=4), read=read)


def _latency(session: Session, row: Row) -> None:
    def read(sent: Sent, spent: float) -> Reading:
        notes = {"ms p99": sent.p99_us / 1e3, "us CPU a request": spent / sent.requests * MICRO}
        return Reading((sent.p50_us / 1e3,), notes)

    play(session, row, load=Load(connections=1), read=read)


HTTP: Final = Row(
    "http",
    "HTTP/1.1 keep-alive, 32 connections",
    (Line("http", "HTTP request, 32 connections", "µs CPU"),),
    HTTP_PEERS,
    partial(_requests, load=Load()),
)
TCP: Final = Row(
    "tcp",
    "TCP tunnel, 32 connections",
    (Line("tcp", "request through a TCP tunnel, 32 connections", "µs CPU"),),
    TCP_PEERS,
    partial(_requests, load=Load()),
)
BULK: Final = Row(
    "bulk",
    "HTTP download of 16 MiB bodies, 4 connections",
    (Line("bulk", "HTTP download", "s CPU/GB"),),
    HTTP_PEERS,
    _gigabyte,
)
BULK_TCP: Final = Row(
    "bulk-tcp",
    "the same download through a TCP tunnel",
    (Line("bulk-tcp", "download through a TCP tunnel", "s CPU/GB"),),
    TCP_PEERS,
    _gigabyte,
)
LATENCY: Final = Row(
    "latency",
    "one connection, one request at a time",
    (Line("latency", "latency at 1 connection, p50", "ms"),),
    HTTP_PEERS,
    _latency,
)
UPLOAD: Final = Row(
    "upload",
    "POST of 1 MB, 4 connections",
    (Line("upload", "POST of 1 MB", "µs CPU"),),
    HTTP_PEERS,
    partial(_requests, load=Load("/upload", connections=4, upload=1_000_000)),
)

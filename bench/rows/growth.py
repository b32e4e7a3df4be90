"""Rows that run by hand: whether a request costs more with many connections open, or after many minutes."""

from __future__ import annotations

import os
from contextlib import ExitStack
from typing import TYPE_CHECKING, Final

from bench.backend import web
from bench.load import wrk
from bench.load.programs import holding
from bench.load.wrk import Load
from bench.peers.peer import Work
from bench.peers.sidecar import Sidecar
from bench.proxies import start_inbound, start_outbound, start_pair
from bench.rows.requests import MICRO, loaded, warm
from bench.rows.row import Contestant, Line, Reading, Row
from bench.rows.settings import OURSELVES_ALONE
from bench.usage import resident_bytes

if TYPE_CHECKING:
    from bench.session import Session
    from bench.site import Running, Site

FEW: Final = 10
MANY: Final = 5_000
#: The default is 4096; raised for both alike.
LIMITS: Final = (("connections", 6_000),)

#: A soak has this many parts of `STRETCH` seconds for each second of a round: ten minutes by default.
PARTS: Final = 10
STRETCH: Final = 20
MEGA: Final = 1e6


def _connections(session: Session, row: Row) -> None:
    """Ten connections work; in the second line each proxy has 4,990 idle ones beside them, plaintext or TLS."""
    load = Load(connections=FEW)
    sidecar = Sidecar(limits=LIMITS)
    contestants = [Contestant(sidecar, Work.HTTP, (line.id,)) for line in row.lines]
    with session.site() as site, ExitStack() as stack:
        upstream = web.start(site)

        def prepare(contestant: Contestant) -> Running:
            inner = start_inbound(site, contestant, upstream)
            running = start_outbound(site, contestant, inner)
            if contestant.lines[0].endswith(str(MANY)):
                stack.enter_context(holding(site, inner.port, MANY - FEW))
                stack.enter_context(holding(site, running.port, MANY - FEW, tls=False))
            return running

        def measure(_: Contestant, running: Running) -> Reading:
            warm(site, running, load)
            sent, seconds = loaded(site, running, load, session.settings.seconds)
            return Reading((seconds / sent.requests * MICRO,))

        session.interleave(row, contestants, prepare, measure)


def _soak(session: Session, row: Row) -> None:
    part = session.settings.seconds * STRETCH
    contestant = Contestant(Sidecar(), Work.HTTP, tuple(line.id for line in row.lines))
    with session.site() as site:
        upstream = web.start(site)

        def prepare(contestant: Contestant) -> Running:
            running = start_pair(site, contestant, upstream)
            wrk.run(site, running.port, Load(), part)  # what grows at first, and then no more, is no leak
            return running

        def measure(_: Contestant, running: Running) -> Reading:
            costs, sizes = [], []
            for number in range(1, PARTS + 1):
                sent, seconds = loaded(site, running, Load(), part)
                costs.append(seconds / sent.requests * MICRO)
                sizes.append(sum(resident_bytes(running.processes)) / MEGA)
                session.progress(row.id, f"part {number}/{PARTS}  {costs[-1]:.1f} µs CPU, {sizes[-1]:.1f} MB")
                _empty_logs(site)
            notes = {f"µs in part {number}": cost for number, cost in enumerate(costs, 1)}
            notes |= {f"MB after part {number}": size for number, size in enumerate(sizes, 1)}
            return Reading((costs[0], costs[-1], sizes[0], sizes[-1]), notes)

        session.play_round(row, session.prepare(row, [contestant], prepare), 1, measure)


def _empty_logs(site: Site) -> None:
    """Ten minutes write gigabytes; the logs are opened for appending, so they begin anew."""
    for log in site.crew.folder.glob("*-access.log"):
        os.truncate(log, 0)


CONNECTIONS: Final = Row(
    "connections",
    "the request with 10 and with 5,000 open connections on each side, 10 of them at work",
    (
        Line(f"connections.{FEW}", "HTTP request, 10 connections open", "µs CPU"),
        Line(f"connections.{MANY}", "HTTP request, 5,000 connections open", "µs CPU"),
    ),
    OURSELVES_ALONE,
    _connections,
    by_hand=True,
)
SOAK: Final = Row(
    "soak",
    "ten minutes of the first row: the first and the last of ten parts",
    (
        Line("soak.first", "HTTP request, first of ten minutes", "µs CPU"),
        Line("soak.last", "HTTP request, last of ten minutes", "µs CPU"),
        Line("soak.memory-first", "both processes after the first minute", "MB"),
        Line("soak.memory-last", "both processes after the last minute", "MB"),
    ),
    OURSELVES_ALONE,
    _soak,
    by_hand=True,
)

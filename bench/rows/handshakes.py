"""Rows in which each connection is new: what the side that terminates TLS spends on one."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from bench.backend import web
from bench.load.programs import open_connections
from bench.proxies import spending, start_inbound
from bench.rows.row import EVERYBODY, HTTP_PEERS, Line, Reading, Row

if TYPE_CHECKING:
    from bench.rows.row import Contestant
    from bench.session import Session
    from bench.site import Running

MILLI: Final = 1e3
WARM_UP: Final = 0.5


def _play(session: Session, row: Row) -> None:
    modes = ("handshake",) if row.id == "handshake" else ("full", "resumed")
    with session.site() as site:
        upstream = web.start(site)

        def prepare(contestant: Contestant) -> Running:
            running = start_inbound(site, contestant, upstream)
            for mode in modes:
                open_connections(site, mode, running.port, WARM_UP)
            return running

        def measure(_: Contestant, running: Running) -> Reading:
            costs, rates = [], {}
            for mode in modes:
                with spending(running) as spent:
                    count = open_connections(site, mode, running.port, session.settings.seconds / len(modes))
                costs.append(spent.seconds / count * MILLI)
                rates[f"{mode}/s"] = count * len(modes) / session.settings.seconds
            return Reading(tuple(costs), rates)

        session.interleave(row, session.contestants(row), prepare, measure)


HANDSHAKE: Final = Row(
    "handshake",
    "full handshakes of mutual TLS 1.3, the accepting side alone",
    (Line("handshake", "full handshake, accepting side", "ms CPU"),),
    EVERYBODY,
    _play,
)
PER_CONNECTION: Final = Row(
    "per-connection",
    "one request on each TLS connection, the accepting side alone, full and resumed",
    (
        Line("per-connection.full", "connection with one request, full handshake", "ms CPU"),
        Line("per-connection.resumed", "connection with one request, resumed", "ms CPU"),
    ),
    HTTP_PEERS,
    _play,
)

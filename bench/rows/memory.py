"""Memory of one process: just started, and for each idle TLS connection."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from bench.backend import web
from bench.load.programs import holding
from bench.proxies import start_inbound
from bench.rows.row import EVERYBODY, Line, Reading, Row
from bench.usage import resident_bytes

if TYPE_CHECKING:
    from bench.rows.row import Contestant
    from bench.session import Session

CONNECTIONS: Final = 1_000
#: Connections that come and go before the first look: what the first ones load stays, and belongs to no connection.
FIRST_ONES: Final = 20
MEGA, KILO = 1e6, 1e3


def _play(session: Session, row: Row) -> None:
    with session.site() as site:
        upstream = web.start(site)

        def nothing(_: Contestant) -> None:
            """Every round has a process of its own."""

        def measure(contestant: Contestant, _: None) -> Reading:
            running = start_inbound(site, contestant, upstream)
            try:
                idle = max(resident_bytes(running.processes))  # a master that only waits is not what a user pays for
                with holding(site, running.port, FIRST_ONES) as held:
                    held.release()
                before = sum(resident_bytes(running.processes))
                with holding(site, running.port, CONNECTIONS) as held:
                    after = sum(resident_bytes(running.processes))
                    held.release()
                return Reading((idle / MEGA, (after - before) / CONNECTIONS / KILO))
            finally:
                site.crew.end(list(running.processes))

        session.interleave(row, session.contestants(row), nothing, measure)


MEMORY: Final = Row(
    "memory",
    "resident memory of the accepting side, alone and with 1,000 idle TLS connections",
    (
        Line("memory.idle", "one process, idle", "MB"),
        Line("memory.connection", "each idle TLS connection, of 1,000", "KB"),
    ),
    EVERYBODY,
    _play,
)

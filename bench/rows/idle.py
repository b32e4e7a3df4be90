"""A thousand idle connections: what they cost while nothing happens."""

from __future__ import annotations

import time
from contextlib import ExitStack
from typing import TYPE_CHECKING, Final

from bench.backend import web
from bench.load.programs import holding
from bench.proxies import start_inbound
from bench.rows.row import HTTP_PEERS, Line, Reading, Row
from bench.usage import cpu_seconds, resident_bytes

if TYPE_CHECKING:
    from bench.load.programs import Held
    from bench.rows.row import Contestant
    from bench.session import Session
    from bench.site import Running

CONNECTIONS: Final = 1_000
#: Seconds of one look, for each second of a round: ten by default. Some do their housekeeping every few seconds.
STRETCH: Final = 10 / 3
MEGA, MILLI = 1e6, 1e3


def _play(session: Session, row: Row) -> None:
    """All peers are looked at over the same seconds: none of them has anything to do."""
    window = session.settings.seconds * STRETCH
    with session.site() as site, ExitStack() as stack:
        upstream = web.start(site)

        def prepare(contestant: Contestant) -> tuple[Running, Held]:
            running = start_inbound(site, contestant, upstream)
            return running, stack.enter_context(holding(site, running.port, CONNECTIONS))

        ready = session.prepare(row, session.contestants(row), prepare)
        rounds = session.settings.rounds
        for number in range(1, rounds + 1):
            before = {each: cpu_seconds(running.processes) for each, (running, _) in ready.items()}
            time.sleep(window)

            def measure(
                each: Contestant,
                state: tuple[Running, Held],
                *,
                last: bool = number == rounds,
                before: dict[Contestant, float] = before,
            ) -> Reading:
                running, held = state
                used = cpu_seconds(running.processes) - before[each]
                resident = sum(resident_bytes(running.processes))
                if last:
                    held.release()
                return Reading((used / window * MILLI, resident / MEGA))

            session.play_round(row, ready, number, measure)


IDLE: Final = Row(
    "idle",
    "1,000 idle TLS connections on the accepting side, nothing happening",
    (
        Line("idle.cpu", "1,000 idle TLS connections, each second", "ms CPU"),
        Line("idle.memory", "all processes with 1,000 idle TLS connections", "MB"),
    ),
    HTTP_PEERS,
    _play,
)

"""What more worker processes bring: as many requests as go through a pair with one on each side, and with two."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from bench.load.wrk import Load
from bench.peers.peer import Work
from bench.peers.sidecar import Sidecar
from bench.rows.requests import MICRO, play
from bench.rows.row import Contestant, Line, Reading, Row

if TYPE_CHECKING:
    from bench.load.wrk import Sent
    from bench.session import Session

#: Workers on each side -> in words. More than one have both cores, the load's too.
_SIDES: Final = {1: "1 worker on each side, one core", 2: "2 workers on each side, both cores"}


def _play(session: Session, row: Row) -> None:
    def read(sent: Sent, spent: float) -> Reading:
        return Reading((sent.requests / session.settings.seconds, spent / sent.requests * MICRO))

    contestants = [
        Contestant(Sidecar(workers=count), Work.HTTP, (f"workers.{count}", f"workers.{count}.cpu")) for count in _SIDES
    ]
    play(session, row, load=Load(), read=read, contestants=contestants)


WORKERS: Final = Row(
    "workers",
    "the request of the first row with 1 and with 2 workers on each side",
    tuple(
        line
        for count, words in _SIDES.items()
        for line in (
            Line(f"workers.{count}", f"HTTP requests, {words}", "requests/s", more=True),
            Line(f"workers.{count}.cpu", f"HTTP request, {words}", "µs CPU"),
        )
    ),
    {"sidecar": Work.HTTP},
    _play,
)

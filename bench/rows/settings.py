"""Rows that compare us with ourselves under another setting: the number of rules, the access log."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Final

from bench.load.wrk import Load
from bench.peers.peer import Work
from bench.peers.sidecar import Sidecar
from bench.rows.requests import a_request, play
from bench.rows.row import Contestant, Line, Row

if TYPE_CHECKING:
    from collections.abc import Mapping

    from bench.session import Session

OURSELVES_ALONE: Final = {"sidecar": Work.HTTP}


def _compare(session: Session, row: Row, *, settings: Mapping[str, Sidecar]) -> None:
    contestants = [Contestant(ours, Work.HTTP, (line,)) for line, ours in settings.items()]
    play(session, row, load=Load(), read=a_request(session.settings.seconds), contestants=contestants)


RULES: Final = Row(
    "rules",
    "the request of the first row with 10 and with 10,000 allow rules, of which the last one allows",
    (
        Line("rules.10", "HTTP request, 10 allow rules", "µs CPU"),
        Line("rules.10000", "HTTP request, 10,000 allow rules", "µs CPU"),
    ),
    OURSELVES_ALONE,
    partial(_compare, settings={"rules.10": Sidecar(rules=10), "rules.10000": Sidecar(rules=10_000)}),
)
LOG: Final = Row(
    "log",
    "the request of the first row with the access log in a file and in /dev/null",
    (
        Line("log.on", "HTTP request, access log in a file", "µs CPU"),
        Line("log.off", "HTTP request, access log in /dev/null", "µs CPU"),
    ),
    OURSELVES_ALONE,
    partial(_compare, settings={"log.on": Sidecar(), "log.off": Sidecar(access_log="/dev/null")}),
)

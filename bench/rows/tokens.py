"""The row that compares us with ourselves by what requests go with: no token, or one that is injected and validated."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from bench.backend import web
from bench.errors import CouldNotRunError
from bench.load.probe import asks_for_token
from bench.load.wrk import Load
from bench.peers.peer import Work
from bench.peers.sidecar import Sidecar
from bench.proxies import start_outbound, start_pair
from bench.rows.requests import MICRO, loaded, warm
from bench.rows.row import Contestant, Line, Reading, Row
from bench.rows.settings import OURSELVES_ALONE
from bench.tokens.table import KINDS

if TYPE_CHECKING:
    from collections.abc import Iterator

    from bench.session import Session
    from bench.site import Running, Site
    from bench.tokens.kind import Kind

WITHOUT: Final = "tokens.without"


def lines_of(kind: Kind) -> tuple[str, str, str]:
    """The lines of one kind: what a request costs with such a token, what that is more, and how many times as much."""
    return f"tokens.{kind.name}", f"tokens.{kind.name}.added", f"tokens.{kind.name}.ratio"


def start(site: Site, contestant: Contestant, kind: Kind, upstream: int) -> Running:
    """Starts a pair whose requests go with such tokens, and see that none goes through without."""
    ours = Contestant(Sidecar(tokens=kind.begin(site)), contestant.work, contestant.lines)
    inner = ours.peer.inbound(site, ours.work, upstream)
    inner.processes[0].until(lambda: asks_for_token(inner.port, site.certificates), "asked for a token")
    return start_outbound(site, ours, inner)


def _play(session: Session, row: Row) -> None:
    """The pair without comes first in each round: the others are compared with it in the same round."""
    plain = Contestant(Sidecar(), Work.HTTP, (WITHOUT,))
    kinds = {Contestant(Sidecar(), Work.HTTP, lines_of(kind)): kind for kind in KINDS}
    load, before = Load(), 0.0
    with session.site() as site:
        upstream = web.start(site)

        def prepare(contestant: Contestant) -> Running:
            kind = kinds.get(contestant)
            return start_pair(site, contestant, upstream) if kind is None else start(site, contestant, kind, upstream)

        def measure(contestant: Contestant, running: Running) -> Reading:
            nonlocal before
            if contestant is plain:
                before = 0.0  # an earlier round is no measure for this one
            warm(site, running, load)
            sent, seconds = loaded(site, running, load, session.settings.seconds)
            cost = seconds / sent.requests * MICRO
            notes = {"requests/s": sent.requests / session.settings.seconds, "ms p50": sent.p50_us / 1e3}
            if contestant is plain:
                before = cost
                return Reading((cost,), notes)
            return Reading(compared(cost, before), notes)

        session.interleave(row, [plain, *kinds], prepare, measure)


def compared(cost: float, before: float) -> tuple[float, float, float]:
    """A cost, and how much and how many times as much that is beside another; raises CouldNotRunError without one."""
    if not before:
        raise CouldNotRunError("there is nothing to compare with: requests without a token could not be measured")
    return cost, cost - before, cost / before


def _lines() -> Iterator[Line]:
    yield Line(WITHOUT, "HTTP request without a token", "µs CPU")
    for kind in KINDS:
        cost, added, ratio = lines_of(kind)
        yield Line(cost, f"HTTP request {kind.title}", "µs CPU")
        yield Line(added, f"HTTP request {kind.title}, more than without", "µs CPU")
        yield Line(ratio, f"HTTP request {kind.title}, against without", "times")


TOKENS: Final = Row(
    "tokens",
    "the request of the first row, with a cached token that is bound to the certificate (ES256), and without",
    tuple(_lines()),
    OURSELVES_ALONE,
    _play,
)

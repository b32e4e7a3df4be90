"""Starting a peer and waiting until it serves; warming it up; measuring its CPU time around some work."""

from __future__ import annotations

from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

from bench.errors import CouldNotRunError
from bench.load.probe import answers, answers_strangers, answers_tls
from bench.site import Running
from bench.usage import cpu_seconds

if TYPE_CHECKING:
    from collections.abc import Iterator

    from bench.rows.row import Contestant
    from bench.site import Site


def start_inbound(site: Site, contestant: Contestant, upstream: int) -> Running:
    """Starts the side that terminates TLS, alone; returns when a request goes through it."""
    running = contestant.peer.inbound(site, contestant.work, upstream)
    running.processes[0].until(lambda: answers_tls(running.port, site.certificates), "answered")
    if answers_strangers(running.port):
        raise CouldNotRunError(f"{contestant.peer.name} serves callers without a certificate: no fair comparison")
    return running


def start_pair(site: Site, contestant: Contestant, upstream: int) -> Running:
    """Starts both sides; returns when a request goes through both."""
    return start_outbound(site, contestant, start_inbound(site, contestant, upstream))


def start_outbound(site: Site, contestant: Contestant, inner: Running) -> Running:
    """Starts the other side for one that runs; returns the pair when a request goes through both."""
    outer = contestant.peer.outbound(site, contestant.work, inner.port)
    outer.processes[0].until(lambda: answers(outer.port), "answered")
    return Running(outer.port, (*outer.processes, *inner.processes))


@dataclass(slots=True)
class Spent:
    """CPU seconds that processes used while a block ran; known when it has ended."""

    seconds: float = 0.0


@contextmanager
def spending(running: Running) -> Iterator[Spent]:
    """Measures the CPU time of proxies around a block."""
    spent = Spent()
    before = cpu_seconds(running.processes)
    yield spent
    spent.seconds = cpu_seconds(running.processes) - before

"""A row of the benchmark: which lines of the table it fills, who takes part, and how it is measured."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

from bench.peers.peer import Work

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from bench.peers.peer import Peer
    from bench.session import Session


@dataclass(frozen=True, slots=True)
class Line:
    """A line of the table; less is better unless ``more`` is. ``id`` begins with the row's."""

    id: str
    title: str
    unit: str
    more: bool = False


@dataclass(frozen=True, slots=True)
class Row:
    """``play`` measures all rounds of all peers; rows ``by_hand`` run only when they are named."""

    id: str
    title: str
    lines: tuple[Line, ...]
    peers: Mapping[str, Work]
    play: Callable[[Session, Row], None]
    by_hand: bool = False


@dataclass(frozen=True, slots=True)
class Contestant:
    """Who is measured: a peer, or one of several settings of ourselves, and which lines that fills."""

    peer: Peer
    work: Work
    lines: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Reading:
    """One round: a value for each line of the contestant, in the line's unit, and further figures."""

    values: tuple[float, ...]
    notes: dict[str, float] = field(default_factory=dict)


#: Who speaks HTTP, and who carries tunnels.
HTTP_PEERS: Final = dict.fromkeys(("sidecar", "nginx", "envoy", "haproxy"), Work.HTTP)
TCP_PEERS: Final = dict.fromkeys(("sidecar", "nginx", "envoy", "haproxy", "stunnel", "ghostunnel"), Work.TCP)
#: One side alone, each in the work it is made for.
EVERYBODY: Final = HTTP_PEERS | dict.fromkeys(("stunnel", "ghostunnel"), Work.TCP)

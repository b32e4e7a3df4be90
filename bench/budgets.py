"""What a line may cost: the table of budgets, as data."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from bench.peers.table import OURSELVES

if TYPE_CHECKING:
    from bench.result import Result


@dataclass(frozen=True, slots=True)
class Bound:
    """At most ``factor`` times what ``peer`` costs (in ``line``, where it is another); without a peer: at most that.

    ``given`` marks a bound that holds only where the peer was measured.
    """

    factor: float
    peer: str | None = None
    line: str | None = None
    given: bool = False

    def limit(self, line: str, result: Result) -> float | None:
        """The bound in the unit of the line; None when what it refers to was not measured."""
        if self.peer is None:
            return self.factor
        cell = result.measured(self.line or line, self.peer)
        return None if cell is None else self.factor * cell.median

    def text(self, unit: str) -> str:
        """As people say it."""
        if self.peer is None:
            return f"≤ {self.factor:g} {unit}"
        if self.line is None:
            return f"≤ {self.factor:g} x {self.peer}"
        return f"≤ {self.factor:g} x {self.line}" + ("" if self.peer == OURSELVES else f" of {self.peer}")


@dataclass(frozen=True, slots=True)
class Budget:
    """What must be, and what is aimed at, the next aim first."""

    must: tuple[Bound, ...]
    aim: tuple[Bound, ...] = ()


BUDGETS: Final[dict[str, Budget]] = {
    "http": Budget((Bound(1.0, "envoy"),), (Bound(0.8, "envoy"), Bound(1.3, "nginx"))),
    "tcp": Budget((Bound(0.75, "stunnel"),), (Bound(1.0, "haproxy"), Bound(1.0, "ghostunnel", given=True))),
    "bulk": Budget((Bound(1.3, "nginx"),), (Bound(1.0, "envoy"),)),
    "bulk-tcp": Budget((Bound(1.3, "nginx"),), (Bound(1.0, "envoy"),)),
    "handshake": Budget((Bound(1.4, "nginx"),), (Bound(1.1, "nginx"),)),
    "latency": Budget((Bound(1.0, "envoy"),), (Bound(1.3, "nginx"),)),
    "memory.idle": Budget((Bound(45),), (Bound(38),)),
    "memory.connection": Budget((Bound(60),), (Bound(30),)),
    "rules.10000": Budget((Bound(1.1, "sidecar", "rules.10"),)),
    "tokens.self-signed": Budget((Bound(1.0, "envoy", "http"),)),
    "tokens.issuer": Budget((Bound(1.0, "envoy", "http"),)),
    "connections.5000": Budget((Bound(1.1, "sidecar", "connections.10"),)),
    "soak.last": Budget((Bound(1.1, "sidecar", "soak.first"),)),
    "soak.memory-last": Budget((Bound(1.1, "sidecar", "soak.memory-first"),)),
}


@dataclass(frozen=True, slots=True)
class Verdict:
    """A bound held against our own figure. ``ratio`` is our figure over the limit: 1 or less is met."""

    bound: Bound
    limit: float | None
    ratio: float | None

    @property
    def met(self) -> bool | None:
        """None when it is not known, because one of the two was not measured."""
        return None if self.ratio is None else self.ratio <= 1

    def text(self, unit: str) -> str:
        """The bound, whether it is met, and how far we are from it."""
        bound = self.bound.text(unit)
        if self.ratio is None:
            return f"{bound}: not known"
        off = round(abs(self.ratio - 1), 3)
        distance = f"{off:.0%}" if off >= 0.1 else f"{off:.1%}"
        return f"{bound}: yes, {distance} below" if self.met else f"{bound}: no, {distance} above"


def verdicts(bounds: tuple[Bound, ...], line: str, result: Result, ourselves: str) -> list[Verdict]:
    """Holds bounds against what was measured. One that needs a peer that was not given is left out."""
    own = result.measured(line, ourselves)
    found = []
    for bound in bounds:
        limit = bound.limit(line, result)
        if limit is None and bound.given:
            continue
        ratio = own.median / limit if own is not None and limit else None
        found.append(Verdict(bound, limit, ratio))
    return found

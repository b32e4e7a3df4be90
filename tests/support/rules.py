"""Rules and proven peers as tests write them: in the configuration's words."""

from __future__ import annotations

from typing import TYPE_CHECKING

from sidecar.identity.pattern import IdPattern
from sidecar.identity.peer import Peer
from sidecar.identity.pins import Pin
from sidecar.identity.spiffe import SpiffeId
from sidecar.policy.paths import PathPattern
from sidecar.policy.rules import Rule

if TYPE_CHECKING:
    from collections.abc import Iterable

#: Within the validity of every peer made here.
NOW = 1_800_000_000.0
PLANNER = "spiffe://example.org/agent/planner/1"


def pin(number: int) -> Pin:
    return Pin(bytes([number]) * 32)


def proven(name: str = PLANNER, *, key: int = 1, not_before: float = NOW - 100, not_after: float = NOW + 100) -> Peer:
    return Peer(
        id=SpiffeId.parse(name),
        pin=pin(key),
        serial="01",
        leaf_sha256=b"\0" * 32,
        not_after=not_after,
        not_before=not_before,
    )


def rule(
    caller: str = PLANNER,
    *,
    id: str = "rule",  # noqa: A002 - the field's name
    pins: Iterable[int] = (),
    methods: Iterable[str] = (),
    paths: Iterable[str] = (),
) -> Rule:
    return Rule(
        id=id,
        caller=IdPattern.parse(caller),
        pins=frozenset(pin(number) for number in pins),
        methods=frozenset(method.encode() for method in methods),
        paths=tuple(PathPattern.parse(path) for path in paths),
    )

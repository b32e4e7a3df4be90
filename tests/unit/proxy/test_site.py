"""Ordinary HTTPS services as destinations: what a reload may carry a connection over to."""

from __future__ import annotations

from typing import Any

import pytest

from sidecar.identity.pins import Pin
from sidecar.proxy.public_target import PublicTarget
from sidecar.proxy.site import SiteDestination
from sidecar.tls.site import SiteContext

ROOTS, OTHER_ROOTS = object(), object()


def destination(
    host: str = "api.llm.example",
    *,
    name: str = "api.llm.example",
    pins: frozenset[Pin] = frozenset(),
    roots: Any = ROOTS,
    anywhere: bool = False,
) -> SiteDestination:
    hub: Any = None
    return SiteDestination(PublicTarget(host, 443, hub, anywhere=anywhere), name, SiteContext(roots, name, pins), hub)


def test_a_destination_takes_the_place_of_its_like() -> None:
    assert destination().replaces(destination())


@pytest.mark.parametrize(
    "changed",
    [
        {"host": "lb.example"},
        {"name": "other.example"},
        {"pins": frozenset({Pin(bytes(32))})},
        {"roots": OTHER_ROOTS},
        {"anywhere": True},
    ],
    ids=["place", "name", "pins", "roots", "addresses"],
)
def test_what_was_held_to_something_else_is_not_carried_over(changed: dict[str, Any]) -> None:
    assert not destination(**changed).replaces(destination())
    assert not destination().replaces(destination(**changed))

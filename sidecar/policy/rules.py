"""One line of an allow list, as a value."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from sidecar.identity.pattern import IdPattern
    from sidecar.identity.pins import Pin
    from sidecar.policy.paths import PathPattern
    from sidecar.tokens.requirement import Requirement


@dataclass(frozen=True, slots=True)
class Rule:
    """Allows one name, or pattern of names, to do something. An empty field means "any".

    ``id`` is what logs name. ``pins``: the peer's key is one of them, in addition to chain and name, so a second pin
    carries a peer through the change of its key. ``methods`` are compared byte for byte (RFC 9110 9.1: case counts).
    ``token``: what the token that comes with a request has to say.
    """

    id: str
    caller: IdPattern
    pins: frozenset[Pin] = frozenset()
    methods: frozenset[bytes] = frozenset()
    paths: tuple[PathPattern, ...] = ()
    token: Requirement | None = None

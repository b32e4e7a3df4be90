"""Makes what leads to ordinary HTTPS services: for configurations with such entries alone, since it loads their parts."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, NamedTuple

from sidecar.proxy.public_target import PublicTarget
from sidecar.proxy.site import CiphertextService, SiteDestination, SiteService
from sidecar.tls.site import SiteContext, roots_version, site_tls

if TYPE_CHECKING:
    from collections.abc import Callable, Hashable

    from sidecar.app.build import Generation
    from sidecar.config.values import Outbound
    from sidecar.proxy.hub import Hub
    from sidecar.proxy.outbound import OutboundService
    from sidecar.tls.contexts import BareContext


class Roots(NamedTuple):
    """The system's roots as one configuration found them, and OpenSSL's part of all connections that trust them."""

    version: Hashable
    tls: BareContext


def reach(
    hub: Hub, generation: Generation, entry: Outbound, kept: Generation
) -> tuple[Hashable, Callable[[], SiteDestination]]:
    """Returns all that connections of an entry depend on, our own identity not being a part of it, and who makes them."""
    roots = _roots(generation, kept)
    who = (entry.connect, entry.server_name, entry.pins, entry.unsafe_private_addresses)
    return ("public", entry.name, *who, roots.version), partial(_destination, hub, roots, entry)


def target(hub: Hub, entry: Outbound) -> PublicTarget:
    """Returns where an entry leads to."""
    return PublicTarget(entry.service.host, entry.service.port, hub, anywhere=entry.unsafe_private_addresses)


def service_kind(entry: Outbound) -> type[OutboundService]:
    """Returns what serves an entry's listener."""
    return CiphertextService if entry.passthrough else SiteService


def _destination(hub: Hub, roots: Roots, entry: Outbound) -> SiteDestination:
    name = entry.server_name or entry.service.host
    return SiteDestination(target(hub, entry), name, SiteContext(roots.tls, name, entry.pins), hub)


def _roots(generation: Generation, kept: Generation) -> Roots:
    """Returns the roots of this configuration: read once, and not again by a reload that finds them unchanged."""
    if not generation.roots:
        version = roots_version()
        known = [roots for roots in kept.roots if roots.version == version]
        generation.roots[:] = known or [Roots(version, site_tls())]
    return generation.roots[0]

"""Where a configuration listens, and for whom: the sockets that come and go with it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from sidecar.admin.server import AdminServer, HealthServer, HealthSocket
from sidecar.config.values import Address, UnixAddress
from sidecar.proxy.binding import Binding
from sidecar.proxy.listener import bind

if TYPE_CHECKING:
    from collections.abc import KeysView, Mapping

    from sidecar.admin.answers import StatusSource
    from sidecar.admin.server import Surroundings
    from sidecar.config.values import Config
    from sidecar.telemetry.messages import Messages

#: Which way a listener faces, and where it stands: what has to stay for its socket to stay.
Place = tuple[str, Address]
Console = AdminServer | HealthServer | HealthSocket


def places(config: Config) -> KeysView[Place]:
    """Where a configuration listens."""
    found: dict[Place, None] = {("inbound", each.listen): None for each in config.inbound}
    found |= {("outbound", each.listen): None for each in config.outbound}
    if config.agent is not None and config.outbound:
        found["outbound", config.agent] = None
    return found.keys()


def bind_at(place: Place) -> Binding:
    """Returns a bound socket for a listener; a UNIX socket is our own user's until `allow`. Raises BindError."""
    _, address = place
    return Binding.unix(address.path) if isinstance(address, UnixAddress) else Binding(bind(address.host, address.port))


def allow(bound: Mapping[Place, Binding], config: Config, messages: Messages) -> None:
    """Lets those connect to UNIX sockets whom the configuration names: for whoever has sockets without listeners."""
    for entry in config.outbound:
        try:
            bound["outbound", entry.listen].allow(entry.uids)
        except OSError as error:
            messages.error("a socket keeps its mode", address=entry.listen, error=error.strerror)


def consoles(config: Config, source: StatusSource, around: Surroundings) -> list[Console]:
    """Makes the admin socket, and the health listener where there is one; neither is open yet."""
    found: list[Console] = [AdminServer(config.admin.listen.path, config.admin.uids, source, around)]
    if config.health is not None:
        address = config.health.listen
        if isinstance(address, UnixAddress):
            found.append(HealthSocket(address.path, source, around))
        else:
            found.append(HealthServer(address.host, address.port, source, around))
    return found

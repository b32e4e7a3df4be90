"""Where a configuration listens, and for whom: the sockets that come and go with it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from sidecar.admin.server import AdminServer, HealthServer, HealthSocket
from sidecar.config.values import Address, UnixAddress
from sidecar.proxy.binding import Binding
from sidecar.proxy.failure import ProxyCode
from sidecar.proxy.listener import Listener, bind

if TYPE_CHECKING:
    from collections.abc import KeysView, Mapping, Sequence
    from typing import Self

    from sidecar.admin.answers import StatusSource
    from sidecar.admin.server import Surroundings
    from sidecar.config.values import Config
    from sidecar.proxy.connection import Entry
    from sidecar.proxy.hub import Hub
    from sidecar.proxy.listener import AnyListener
    from sidecar.telemetry.messages import Messages

#: Which way a listener faces, and where it stands: what has to stay for its socket to stay.
Place = tuple[str, Address]
Console = AdminServer | HealthServer | HealthSocket


def places(config: Config) -> KeysView[Place]:
    """Where a configuration listens."""
    found: dict[Place, None] = {("inbound", each.listen): None for each in config.inbound}
    found |= {("outbound", each.listen): None for each in config.outbound}
    if config.agent is not None:
        # Also while no entry is named: the agent was told of the address once and for all.
        found["outbound", config.agent] = None
    return found.keys()


def bind_at(place: Place) -> Binding:
    """Returns a bound socket for a listener; a UNIX socket is our own user's until `allow`. Raises BindError."""
    _, address = place
    return Binding.unix(address.path) if isinstance(address, UnixAddress) else Binding(bind(address.host, address.port))


async def open_listeners(
    hub: Hub, services: Mapping[Place, Entry], bound: Mapping[Place, Binding]
) -> dict[Place, AnyListener]:
    """Opens bound addresses for their services; all of them, or none. Raises BindError."""
    opened: dict[Place, AnyListener] = {}
    try:
        for place, binding in bound.items():
            listener = Listener(hub, services[place], binding)
            opened[place] = listener
            await listener.start()
    except BaseException:
        for listener in opened.values():
            listener.stop()
        for connection in list(hub.connections):
            if connection.listener in opened.values():
                # It came while the others were opened, by rules that will never be in force.
                connection.give_up(ProxyCode.ENTRY_REMOVED)
        raise
    return opened


def allow(bound: Mapping[Place, Binding], config: Config, messages: Messages) -> None:
    """Lets those connect to UNIX sockets whom the configuration names: for whoever has sockets without listeners."""
    for entry in config.outbound:
        try:
            bound["outbound", entry.listen].allow(entry.uids)
        except OSError as error:
            messages.error("a socket keeps its mode", address=entry.listen, error=error.strerror)


class Consoles:
    """The doors of operators: the admin socket, and the health listener where there is one. Open from `start` on."""

    def __init__(self, doors: Sequence[Console] = ()) -> None:
        self._doors = doors

    @classmethod
    def of(cls, config: Config, source: StatusSource, around: Surroundings) -> Self:
        """Makes those of a configuration."""
        doors: list[Console] = [AdminServer(config.admin.listen.path, config.admin.uids, source, around)]
        if config.health is not None:
            address = config.health.listen
            if isinstance(address, UnixAddress):
                doors.append(HealthSocket(address.path, source, around))
            else:
                doors.append(HealthServer(address.host, address.port, source, around))
        return cls(doors)

    async def start(self) -> None:
        """Opens all. Raises BindError or AddressError; those that are open by then are closed by `close`."""
        for door in self._doors:
            await door.start()

    async def close(self) -> None:
        """Closes all; answers that were given still leave."""
        for door in self._doors:
            await door.close()

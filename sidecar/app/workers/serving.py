"""The proxy inside a worker: serves on sockets that its parent bound, and leaves to the parent what is done once for all."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from sidecar.app.listening import Consoles
from sidecar.app.own_key import OwnKey
from sidecar.app.server import Server
from sidecar.proxy.binding import Binding

if TYPE_CHECKING:
    import asyncio
    import socket

    from sidecar.app.listening import Place
    from sidecar.app.workers.lent import LentKey
    from sidecar.clock import Clock
    from sidecar.config.load import Loaded
    from sidecar.telemetry.turns import Turns


def place_name(place: Place) -> str:
    """The name of a place for another process: equal for equal places, and different for others."""
    direction, address = place
    return f"{direction} {address}"


def share(loaded: Loaded) -> Loaded:
    """The same configuration with one worker's part of the limits."""
    config = loaded.config
    return replace(loaded, config=replace(config, limits=config.limits.share(config.workers)))


class WorkerServer(Server):
    """A server without a console, a look at files, or lines and messages about the process: the parent has these."""

    def __init__(
        self, loaded: Loaded, clock: Clock, loop: asyncio.AbstractEventLoop, key: OwnKey, turns: Turns
    ) -> None:
        self.turns = turns
        #: Our key, where another process has opened it for all workers.
        self.lent: LentKey | None = None
        #: Sockets that were handed to us and that nothing has taken yet, by `place_name`.
        self.handed: dict[str, socket.socket] = {}
        super().__init__(loaded, clock, loop, key)

    def bind(self, place: Place) -> Binding:
        """Takes a socket that the parent bound. Raises KeyError where it did not: the two of us do not agree."""
        return Binding(self.handed.pop(place_name(place)))

    async def open_key(self, loaded: Loaded, previous: OwnKey) -> OwnKey:
        """Opens the key of a new configuration, or gives ``previous`` back; as `OwnKey.open`."""
        return await OwnKey.open(loaded, previous, lent=self.lent)

    def forget_handed(self) -> None:
        """Closes the sockets that nothing has taken."""
        while self.handed:
            self.handed.popitem()[1].close()

    def _make_consoles(self, loaded: Loaded) -> Consoles:  # noqa: ARG002 - as in Server
        return Consoles()

    def _announce(self) -> None:
        """Does nothing: the parent speaks for all."""

    def _say_farewell(self) -> None:
        """Does nothing, likewise."""

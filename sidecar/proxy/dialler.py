"""The upstream connections of one tunnel entry: one for each tunnel, never shared, and only so many at once."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

from sidecar.proxy.dial import connect, demand, over_limit
from sidecar.proxy.stream import State

if TYPE_CHECKING:
    import asyncio

    from sidecar.policy.decision import Permit
    from sidecar.proxy.hub import Hub
    from sidecar.proxy.pool import Destination
    from sidecar.proxy.stream import Stream


class Dialled(Protocol):
    """Whose connection is made."""

    stream: Stream
    #: Resolved when the stream is ready, over TLS with its peer proven.
    ready: asyncio.Future[None]


class Dialler:
    """One for each entry, across reloads: so that a limit holds for the old connections and the new ones together."""

    def __init__(self, hub: Hub) -> None:
        self.hub = hub
        self._live: set[Dialled] = set()

    @property
    def size(self) -> int:
        """Connections that are open or being made."""
        return len(self._live)

    async def dial(self, permit: Permit, where: Destination, end: Dialled) -> None:
        """Makes the connection of one tunnel; it counts until `forget`. Whatever is raised, it is gone then.

        Raises:
            DialError: as `dial.connect`, and where ``upstream_connections`` is reached.

        """
        demand(permit)
        if self.size >= self.hub.limits.upstream_connections:
            raise over_limit()
        self._live.add(end)
        try:
            await connect(self.hub, where, end.stream, end.ready)
        except BaseException:
            self.forget(end)
            if end.stream.state is not State.LINGERING:  # an alert of ours may be on its way
                end.stream.reset()
            raise

    def forget(self, end: Dialled) -> None:
        """Drops a connection from the books: it is gone."""
        self._live.discard(end)

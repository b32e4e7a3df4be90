"""What the upstreams have in common that are reached over TLS, by whatever they are proven."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import TYPE_CHECKING

from sidecar.proxy.tls_stream import TlsStream

if TYPE_CHECKING:
    from sidecar.proxy.hub import Hub
    from sidecar.proxy.stream import Stream, StreamUser
    from sidecar.proxy.target import Target
    from sidecar.tls.contexts import Proving
    from sidecar.tls.engine import TlsEngine


class SecuredDestination(ABC):
    """A `sidecar.proxy.pool.Destination`, but for who is at the other end."""

    def __init__(self, target: Target, hub: Hub) -> None:
        self.text = target.text
        self._target = target
        self._hub = hub

    async def open(self, stream: Stream) -> None:
        """Connects to the one target."""
        await self._target.open(self._hub.loop, stream)

    def stream(self, user: StreamUser) -> Stream:
        """Makes a TLS stream, client side."""
        return TlsStream(user, self._hub, self._engine, self._hub.limits.connect_timeout)

    @abstractmethod
    def _engine(self) -> tuple[Proving, TlsEngine]:
        """Makes the client side of one connection, with the context that it is proven by."""

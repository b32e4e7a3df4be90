"""Outbound, to an ordinary HTTPS service: known by its host name, by the system's authorities, perhaps by a pin.

Neither our identity nor anything about the agent goes there: no certificate, no field that states who calls. ``Host`` is the
service's own name. The agent speaks HTTP to us and we do TLS, so `CONNECT`, by which an agent would do TLS itself, is
refused: its requests could not be seen.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

from sidecar.proxy.agent_service import OnConnect
from sidecar.proxy.exchange import Exchange
from sidecar.proxy.outbound import OutboundService
from sidecar.proxy.secured import SecuredDestination
from sidecar.proxy.stream import NEVER
from sidecar.proxy.tls_stream import TlsStream
from sidecar.telemetry.record import Context
from sidecar.tls.engine import TlsEngine

if TYPE_CHECKING:
    from sidecar.identity.peer import Peer
    from sidecar.policy.decision import Denial, Permit
    from sidecar.policy.routes import RouteTable
    from sidecar.proxy.hub import Hub
    from sidecar.proxy.lane import Lanes
    from sidecar.proxy.pool import Destination
    from sidecar.proxy.public_target import PublicTarget
    from sidecar.proxy.service import Self, Wait
    from sidecar.proxy.stream import Stream
    from sidecar.tls.contexts import Proving
    from sidecar.tls.site import SiteContext


class SiteDestination(SecuredDestination):
    """The service of an outbound entry. ``name``: what TLS begins with and OpenSSL verifies, a host name or an address."""

    def __init__(self, target: PublicTarget, name: str, context: SiteContext, hub: Hub) -> None:
        super().__init__(target, hub)
        self._anywhere = target.anywhere
        self._name = name
        self._context = context

    def _engine(self) -> tuple[Proving, TlsEngine]:
        return self._context, TlsEngine(self._context, server_name=self._name)

    def context(self, stream: Stream) -> Context | None:
        """Says which address answered, and with which certificate."""
        site = stream.engine.site if isinstance(stream, TlsStream) else None
        return None if site is None else Context.of(dst_addr=stream.remote or self.text, cert_serial=site.serial)

    def not_after(self, stream: Stream) -> float:
        """The end of the service's certificate."""
        site = stream.engine.site if isinstance(stream, TlsStream) else None
        return NEVER if site is None else site.not_after

    def replaces(self, before: Destination) -> bool:
        """The same place and name, held to the same roots and pins, and allowed the same addresses."""
        return isinstance(before, SiteDestination) and self.held_to == before.held_to

    @property
    def held_to(self) -> tuple[object, ...]:
        """All that connections of it depend on."""
        return (self.text, self._anywhere, self._name, self._context.pins, self._context.sslcontext)

    def check(self, peer: Peer | None) -> None:
        """A site is no peer: it was held to the pins that `replaces` compares."""

    def settled(self, stream: Stream) -> None:
        """Nothing is kept: each connection is verified anew."""


class SiteService(OutboundService):
    """The requests of an agent to one service. ``host`` is there: it is the service's own name."""

    connecting: ClassVar[type[Exchange]] = Exchange
    on_connect: ClassVar[OnConnect] = OnConnect.REFUSE

    def __init__(
        self,
        hub: Hub,
        name: str,
        own: Self,
        routes: RouteTable,
        lanes: Lanes,
        host: bytes | None,
        uids: frozenset[int] | None = None,
    ) -> None:
        super().__init__(hub, name, own, routes, lanes, host, uids)
        self.called = host

    def authorise(self, exchange: Exchange, decision_id: str) -> Permit | Denial | Wait:
        """Decides as for any entry; what a client that asked for a tunnel needs instead is told to the operator."""
        if exchange.head.method == b"CONNECT":
            self.hub.messages.warning(
                "CONNECT is refused: give the agent an http:// URL, the proxy does the TLS; or let it do TLS itself, "
                "unseen, with passthrough: true",
                listener=self.name,
                url=f"http://{(self.host or b'').decode('ascii')}/",
            )
        return super().authorise(exchange, decision_id)

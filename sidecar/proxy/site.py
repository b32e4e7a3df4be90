"""Outbound, to an ordinary HTTPS service: known by its host name, by the system's authorities, perhaps by a pin.

Neither our identity nor anything about the agent goes there: no certificate, no field that states who calls. ``Host`` is the
service's own name. The agent speaks HTTP to us and we do TLS, so `CONNECT`, by which an agent would do TLS itself, is
refused: its requests could not be seen.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

from sidecar.policy.decision import Denial, Permit, Reason
from sidecar.proxy.agent_service import OnConnect
from sidecar.proxy.outbound import OutboundService
from sidecar.proxy.stream import NEVER
from sidecar.proxy.tls_stream import TlsStream
from sidecar.telemetry.record import Context
from sidecar.tls.engine import TlsEngine

if TYPE_CHECKING:
    from sidecar.identity.peer import Peer
    from sidecar.proxy.exchange import Exchange
    from sidecar.proxy.hub import Hub
    from sidecar.proxy.pool import Destination
    from sidecar.proxy.service import Wait
    from sidecar.proxy.stream import Stream, StreamUser
    from sidecar.proxy.target import Target
    from sidecar.tls.contexts import Proving
    from sidecar.tls.site import SiteContext


class SiteDestination:
    """The service of an outbound entry. ``name``: what TLS begins with and OpenSSL verifies, a host name or an address."""

    def __init__(self, target: Target, name: str, context: SiteContext, hub: Hub) -> None:
        self.text = target.text
        self._target = target
        self._name = name
        self._context = context
        self._hub = hub

    async def open(self, stream: Stream) -> None:
        """Connects to the one target."""
        await self._target.open(self._hub.loop, stream)

    def stream(self, user: StreamUser) -> Stream:
        """Makes a TLS stream, client side."""
        return TlsStream(user, self._hub, self._engine, self._hub.limits.connect_timeout)

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
        """The same address and name, held to the same pins."""
        if not isinstance(before, SiteDestination):
            return False
        same = (self.text, self._name) == (before.text, before._name)  # noqa: SLF001 - one of its own kind
        return same and self._context.pins == before._context.pins  # noqa: SLF001 - as above

    def check(self, peer: Peer | None) -> None:
        """A site is no peer: it was held to the pins that `replaces` compares."""

    def settled(self, stream: Stream) -> None:
        """Nothing is kept: each connection is verified anew."""


class SiteService(OutboundService):
    """The requests of an agent to one service. ``host`` is there: it is the service's own name."""

    on_connect: ClassVar[OnConnect] = OnConnect.REFUSE

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


class CiphertextService(OutboundService):
    """The requests of an agent to an entry that passes only ciphertext on: none is served."""

    on_connect: ClassVar[OnConnect] = OnConnect.REFUSE

    def authorise(self, exchange: Exchange, decision_id: str) -> Permit | Denial | Wait:
        """Denies; what the table denies anyway has its own reason."""
        verdict = super().authorise(exchange, decision_id)
        if isinstance(verdict, Denial):
            return verdict
        return Denial(Reason.PASSTHROUGH_ONLY, decision_id, self.policy_version)

    def decide_again(self, exchange: Exchange, decision_id: str) -> Permit | Denial:  # noqa: ARG002 - as for all others
        """Denies: what went on as a request before would go on unseen now."""
        return Denial(Reason.PASSTHROUGH_ONLY, decision_id, self.policy_version)

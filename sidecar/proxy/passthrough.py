"""CONNECT to an ordinary HTTPS service whose TLS is the agent's own: nothing but ciphertext passes.

The service is dialled, the CONNECT answered 200, and then the agent's first bytes are held until they are a whole
ClientHello (`sidecar.tls.client_hello`) for the host that the CONNECT named. Only then does the service get a byte, the
hello first; anything else ends the connection. From there on it is a tunnel like any other, which rests on no certificate
of ours.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from sidecar.policy.decision import Denial, Permit, Reason
from sidecar.proxy.connect_tunnel import ConnectTunnel, TunnelDoor
from sidecar.proxy.failure import ProxyCode
from sidecar.proxy.pool import PlainDestination
from sidecar.proxy.stream import NEVER
from sidecar.telemetry.record import Context
from sidecar.tls.client_hello import ClientHello, HelloError

if TYPE_CHECKING:
    from sidecar.proxy.downstream import Downstream
    from sidecar.proxy.exchange import Exchange
    from sidecar.proxy.splice import Leg
    from sidecar.proxy.stream import Stream
    from sidecar.proxy.tunnel import UpLeg
    from sidecar.proxy.tunnel_service import OutboundTunnels


class CiphertextDestination(PlainDestination):
    """The service, as far as it is ours to know: an address."""

    def context(self, stream: Stream) -> Context | None:
        """Says which address was dialled."""
        return Context.of(dst_addr=stream.remote) if stream.remote else None


class CiphertextDoor(TunnelDoor):
    """The way into such tunnels: CONNECT, and no request."""

    def decide_again(self, exchange: Exchange, decision_id: str) -> Permit | Denial:
        """Denies every request, also one that was under way when the entry became this; what the table denies has its reason."""
        verdict = super().decide_again(exchange, decision_id)
        if isinstance(verdict, Permit):
            return Denial(Reason.PASSTHROUGH_ONLY, decision_id, self.policy_version)
        return verdict

    def tunnel(self, down: Downstream, authority: bytes, permit: Permit) -> ConnectTunnel:
        """Makes a tunnel that looks at how the agent begins."""
        return PassthroughTunnel(down, self.tunnels, authority, permit)


class PassthroughTunnel(ConnectTunnel):
    """A tunnel whose bytes have to begin TLS for the host of its CONNECT."""

    def __init__(self, down: Downstream, service: OutboundTunnels, authority: bytes, permit: Permit) -> None:
        super().__init__(down, service, authority, permit)
        self._host = _host_of(authority)
        #: What has to be seen before anything passes; None once it was.
        self._hello: ClientHello | None = ClientHello()
        self._seen: list[bytes] = []
        #: Monotonic time by which the hello has to be there, once it can be.
        self._hello_by = NEVER
        self.down.forward = self._heard

    def begin(self, ahead: bytes) -> None:
        """Takes the connection over. No certificate of ours is shown in it, so none ends it."""
        super().begin(ahead)
        self._not_after = NEVER

    def look(self) -> None:
        """Looks at the limits, that of the hello among them."""
        if self._hello is not None and self.hub.clock.monotonic() >= self._hello_by:
            self.give_up(ProxyCode.HEAD_TIMEOUT)
        else:
            super().look()

    def lost(self, leg: Leg) -> None:
        """Also ends where the service goes while the hello is awaited: there would be nobody to pass it on to."""
        super().lost(leg)
        if leg is self.up and self._answered and self._hello is not None and self.error is None:
            self.give_up(ProxyCode.UPSTREAM_RESET)

    def _joins(self, up: UpLeg) -> None:
        self._answer_established()
        if self._hello is None:
            self.down.join(up)
            return
        now = self.hub.clock.monotonic()
        self._hello_by = now + self.hub.limits.head_timeout
        self._arm(now)

    def _arm(self, now: float) -> None:
        super()._arm(now)
        if self._hello is not None:
            self.stream.read_deadline = min(self.stream.read_deadline, self._hello_by)

    def _heard(self, data: bytes) -> None:
        """Takes bytes of the agent's until they say for which host they begin TLS."""
        if self._hello is None:
            raise RuntimeError("what follows the hello goes another way")
        self._seen.append(data)
        try:
            if not self._hello.begins_for(self._host, data):
                return
        except HelloError as error:
            self._refuse(error)
            return
        self._hello, self._hello_by = None, NEVER
        self.down.hold(b"".join(self._seen))
        self._seen.clear()
        if self._answered and self.up is not None:
            self.down.join(self.up)
            self._arm(self.hub.clock.monotonic())

    def _refuse(self, error: HelloError) -> None:
        self.hub.messages.warning(f"{error}: nothing is passed on", listener=self.service.name, code=str(error.code))
        self.down.part()
        self.give_up(error.code)


def _host_of(authority: bytes) -> str:
    """Returns the host of the ``host:port`` that a CONNECT names, in lower case, as SNI has it."""
    return authority.rpartition(b":")[0].decode("ascii")

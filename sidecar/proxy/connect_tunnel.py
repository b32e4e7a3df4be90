"""A tunnel that begins with CONNECT: the connection of an agent that was read as HTTP until then.

It is dialled before it is answered, so that the agent hears of a failure by status and code. From the 200 on it is a
tunnel like any other. What came along with the CONNECT is the first that goes through it.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any, ClassVar

from sidecar.http.write import ESTABLISHED, error_response
from sidecar.proxy.agent_service import AgentService, OnConnect, nowhere
from sidecar.proxy.connect import Connect
from sidecar.proxy.failure import STATUS, ProxyCode
from sidecar.proxy.stream import NEVER, State
from sidecar.proxy.tunnel import Tunnel, break_with_us

if TYPE_CHECKING:
    from enum import StrEnum

    from sidecar.policy.decision import Permit
    from sidecar.policy.routes import RouteTable
    from sidecar.proxy.downstream import Downstream
    from sidecar.proxy.exchange import Exchange
    from sidecar.proxy.failure import DialError
    from sidecar.proxy.tunnel import UpLeg
    from sidecar.proxy.tunnel_service import OutboundTunnels, TunnelService


class TunnelDoor(AgentService):
    """How CONNECT gets into the tunnels of a tcp entry that shares its listener."""

    connecting: ClassVar[type[Exchange]] = Connect
    on_connect: ClassVar[OnConnect] = OnConnect.TUNNEL

    def __init__(self, routes: RouteTable, tunnels: OutboundTunnels) -> None:
        hub, leads_to = tunnels.hub, tunnels.way.destination.text
        super().__init__(hub, tunnels.name, tunnels.own, routes, nowhere(hub), leads_to=leads_to, uids=tunnels.uids)
        self.tunnels = tunnels

    def tunnel(self, down: Downstream, authority: bytes, permit: Permit) -> ConnectTunnel:
        """Makes what the connection of a CONNECT goes on as."""
        return ConnectTunnel(down, self.tunnels, authority, permit)

    def tunnels_at(self, authority: bytes) -> OutboundTunnels | None:
        """Returns its own, where ``authority`` names them."""
        return self.tunnels if authority in self.routes.connects else None


class ConnectTunnel(Tunnel):
    """``authority`` is what the CONNECT named: after a reload the tunnel goes on only where that still leads here."""

    def __init__(self, down: Downstream, service: OutboundTunnels, authority: bytes, permit: Permit) -> None:
        super().__init__(down.listener, service, down.stream)
        self.authority = authority
        self.dst_name = authority.decode("ascii")
        self.verdict = permit
        self._answered = False

    def begin(self, ahead: bytes) -> None:
        """Takes the connection over, with what was read of it already, and dials."""
        stream = self.stream
        stream.user = self.down
        stream.read_deadline = stream.write_deadline = stream.age_deadline = NEVER
        self.hub.connections.add(self)
        self._not_after = self.own.svid.not_after
        self.decided(self.hub.clock.monotonic())
        if ahead:
            self.down.received(ahead)
        if self.error is None:
            self.dial()

    def _joins(self, up: UpLeg) -> None:
        self._answer_established()
        super()._joins(up)

    def _answer_established(self) -> None:
        self._answered = True
        self.stream.write(ESTABLISHED)
        break_with_us(self.stream)

    def _not_reached(self, error: DialError) -> None:
        self._fail(error.cause)
        self._answer(error.code)

    def give_up(self, code: StrEnum) -> None:
        """Ends at once: before the 200 with an answer, behind it as any tunnel."""
        if self._answered or self.stream.state is not State.OPEN:
            super().give_up(code)
            return
        self._fail(code)
        if self.up is not None:
            self.up.stream.reset()
        self._answer(code if code in STATUS and isinstance(code, ProxyCode) else ProxyCode.UPSTREAM_GONE)

    def details(self) -> dict[str, Any]:
        """Says also what the agent called it."""
        return super().details() | {"dst.name": self.dst_name}

    def _in_force(self) -> TunnelService | ProxyCode:
        listener = self.listener
        if listener.stopped and not self.hub.draining:
            return ProxyCode.ENTRY_REMOVED
        tunnels: TunnelService | None = listener.service.tunnels_at(self.authority)
        return ProxyCode.ENTRY_REMOVED if tunnels is None else tunnels

    def _answer(self, code: ProxyCode) -> None:
        """Answers that there will be no tunnel, and closes."""
        self._answered = True
        self.down.part()
        body = json.dumps({"error": str(code), "decision_id": self.decision_id}, separators=(",", ":")).encode()
        self.stream.send(error_response(STATUS.get(code, 502), body))
        self.stream.close()

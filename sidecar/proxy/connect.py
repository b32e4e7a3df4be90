"""CONNECT: decided like any request, and answered with a connection instead of a response (RFC 9110 9.3.6).

What it becomes is the entry's: `OnConnect`. A 200 to it has neither a body nor a length; whatever follows its head belongs
to what comes then. Everything else is an answer like another, behind which the connection is closed: what an agent sent
without waiting for the 200 must not be taken for its next request.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, cast

from sidecar.http.write import ESTABLISHED
from sidecar.policy.decision import Denial
from sidecar.proxy.agent_service import AgentService, OnConnect
from sidecar.proxy.bound import Bound
from sidecar.proxy.exchange import Exchange

if TYPE_CHECKING:
    from sidecar.policy.decision import Permit
    from sidecar.proxy.connect_tunnel import TunnelDoor


class Connect(Exchange):
    """Lives from the head of a CONNECT to its answer, or to where a tunnel goes on with its connection."""

    __slots__ = ()

    def _decide(self, decision_id: str) -> None:
        service = self.service
        if not isinstance(service, AgentService):
            raise TypeError("a CONNECT came to a service that has none")
        self.verdict = verdict = service.connect(self, decision_id)
        if isinstance(verdict, Denial):
            self.deny(verdict)
        elif service.on_connect is OnConnect.TUNNEL:
            self._tunnel(cast("TunnelDoor", service), verdict)
        elif service.on_connect is OnConnect.BIND:
            self.status = 200
            self.response_started = self.response_done = True
            self.down.stream.send(ESTABLISHED)
        else:
            raise RuntimeError(f"nothing is done about CONNECT at {service.name}")

    def on_whole_end(self) -> None:
        """The head is complete, and has no body."""
        self.request_done = True
        if self.status == 200:
            self.down.go_inside(self, Bound(self.service.name, self.head.authority))
        elif self.response_done:
            self.down.exchange_over(self)

    def _tunnel(self, door: TunnelDoor, permit: Permit) -> None:
        """Hands the connection over; what was decided, and when, goes along."""
        tunnel = door.tunnel(self.down, self.head.authority, permit)
        tunnel.begin(self.down.let_go())

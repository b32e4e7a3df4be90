"""A connection that CONNECT has bound to an http entry: what it may ask for, and how it begins.

The agent asked for a tunnel and was answered 200, but what it sends is read as HTTP/1.1: each request inside is parsed,
decided and logged like any other, and may name nothing but what the CONNECT named (RFC 9110 9.3.6 lets a recipient of
CONNECT be the end of the tunnel itself). Node's fetch asks so for http:// URLs as well. An agent that was given an https://
URL begins TLS inside; that is told from HTTP by its first byte, and ends the connection.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from sidecar.proxy import account
from sidecar.proxy.agent_service import AgentService
from sidecar.proxy.failure import AgentTlsError

if TYPE_CHECKING:
    from sidecar.errors import SidecarError
    from sidecar.policy.routes import RouteTable
    from sidecar.proxy.connection import Entry
    from sidecar.proxy.downstream import Downstream
    from sidecar.proxy.stream import Expiry

#: RFC 8446 5.1: the content type of the record that a client begins with. No method of HTTP begins so.
TLS_HANDSHAKE = 0x16


class Bound:
    """To which entry, by its name, and by which authority; both as they were when CONNECT was permitted."""

    __slots__ = ("_routes", "_service", "authority", "entry")

    def __init__(self, entry: str, authority: bytes) -> None:
        self.entry = entry
        self.authority = authority
        self._service: AgentService | None = None
        self._routes: RouteTable | None = None

    def stands(self, service: Entry) -> bool:
        """Says whether its entry is still there, and still so called, at a listener with that service."""
        return isinstance(service, AgentService) and service.holds(self)

    def routes(self, service: AgentService) -> RouteTable:
        """Returns what requests inside are decided by: compiled once for each configuration."""
        if self._routes is None or self._service is not service:
            routes = service.routes.bound_to(self.authority if service.holds(self) else b"")
            self._service, self._routes = service, routes
        return self._routes

    def begins_tls(self, down: Downstream, ahead: bytes) -> bool:
        """Says whether what came along with the CONNECT begins TLS, which ends the connection; looks later at what did not."""
        if ahead:
            return is_tls(down, ahead)
        down.stream.user = FirstBytes(down)
        return False


class FirstBytes:
    """Stands in for a connection until its first bytes inside CONNECT are there, and looks whether they are TLS."""

    def __init__(self, down: Downstream) -> None:
        self._down = down
        self.connected, self.opened, self.ended = down.connected, down.opened, down.ended
        self.lost, self.writable = down.lost, down.writable

    def failed(self, error: SidecarError) -> None:
        """The stream will never be ready."""
        self._down.failed(error)

    def expired(self, which: Expiry) -> None:
        """A time limit has passed."""
        self._down.expired(which)

    def received(self, data: bytes) -> None:
        """Looks at the first byte, and gets out of the way."""
        down = self._down
        down.stream.user = down
        if not is_tls(down, data):
            down.received(data)


def is_tls(down: Downstream, data: bytes) -> bool:
    """Says whether the first bytes inside CONNECT begin TLS; then the connection is closed and the log says why."""
    bound = down.bound
    if bound is None or not data or data[0] != TLS_HANDSHAKE:
        return False
    service = down.service
    account.refused(down.hub, service, down.remote, AgentTlsError(), down.stream.client)
    url = service.routes.url_of(bound.authority) if isinstance(service, AgentService) else ""
    down.hub.messages.warning(
        "the agent began TLS by itself: give it an http:// URL, the proxy does the TLS; services outside need "
        "tls: public with passthrough: true",
        listener=service.name,
        url=url,
        code=str(AgentTlsError.CODE),
    )
    down.keep_alive = False
    down.stream.close()
    return True

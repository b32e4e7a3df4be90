"""Several outbound entries behind one listener: which of them serves a request.

As to a proxy, by the authority of an absolute-form target or of CONNECT, which is one of some entry's ``hosts``; http
entries take both, tcp entries CONNECT alone. Whatever else comes, origin-form included since it could mean any of them, is
answered here: 403, and nothing is resolved or dialled.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

from sidecar.http.messages import TargetForm
from sidecar.policy.routes import Route, RouteTable, alone, connects_of
from sidecar.proxy.agent_service import AgentService, OnConnect, nowhere
from sidecar.proxy.connect import Connect

if TYPE_CHECKING:
    from collections.abc import Sequence

    from sidecar.http.messages import RequestHead
    from sidecar.proxy.bound import Bound
    from sidecar.proxy.exchange import Exchange
    from sidecar.proxy.hub import Hub
    from sidecar.proxy.service import Self
    from sidecar.proxy.tunnel_service import OutboundTunnels

_ABSOLUTE, _AUTHORITY = TargetForm.ABSOLUTE, TargetForm.AUTHORITY


class Front(AgentService):
    """The entries of one listener as of one configuration. ``name`` is what the log calls requests that fit none."""

    #: A CONNECT that fits no entry is decided by the table below, which permits nothing: 403 and not 405.
    several: ClassVar[bool] = True
    connecting: ClassVar[type[Exchange]] = Connect
    on_connect: ClassVar[OnConnect] = OnConnect.BIND

    def __init__(
        self, hub: Hub, name: str, own: Self, version: str, entries: Sequence[AgentService], uids: frozenset[int] | None
    ) -> None:
        """What two of ``entries`` claim is neither's; a configuration says so before. Without any, nothing is served.

        ``version`` is that of the policy, ``uids`` are the users whose processes are served: our own where it is None.
        """
        table = RouteTable(Route(rule="", listen=frozenset()), version)
        super().__init__(hub, name, own, table, nowhere(hub), uids=uids)
        self._by_name = {entry.name: entry for entry in entries}
        takers = [entry for entry in entries if entry.on_connect is not OnConnect.TUNNEL]
        self._absolute = alone((entry, entry.routes.absolute) for entry in takers)
        self._connect = connects_of([(entry, entry.routes) for entry in entries])

    def pick(self, head: RequestHead | None, bound: Bound | None) -> AgentService:
        """Returns the service of a request: an entry's, or this one, which denies."""
        if bound is not None:
            return self._by_name.get(bound.entry, self)
        if head is None:
            return self
        if head.form is _ABSOLUTE:
            return self._absolute.get(head.authority, self)
        return self._connect.get(head.authority, self) if head.form is _AUTHORITY else self

    def holds(self, bound: Bound) -> bool:
        """Asks the entry of that name."""
        entry = self._by_name.get(bound.entry)
        return entry is not None and self._connect.get(bound.authority) is entry and entry.holds(bound)

    def tunnels_at(self, authority: bytes) -> OutboundTunnels | None:
        """Asks the entry that has the authority."""
        entry = self._connect.get(authority)
        return None if entry is None else entry.tunnels_at(authority)

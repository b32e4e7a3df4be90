"""What the two kinds of downstream connections share, and the two kinds of entries: HTTP and tunnels."""

from __future__ import annotations

from enum import StrEnum
from typing import TYPE_CHECKING, Any, ClassVar, Protocol

if TYPE_CHECKING:
    from collections.abc import Collection

    from sidecar.identity.peer import Peer
    from sidecar.identity.spiffe import TrustDomain
    from sidecar.proxy.failure import ProxyCode
    from sidecar.proxy.listener import Listener
    from sidecar.proxy.service import Self
    from sidecar.proxy.stream import Stream


class Kind(StrEnum):
    """What an entry carries."""

    HTTP = "http"
    TCP = "tcp"


class Entry(Protocol):
    """One entry of one configuration, as its listener needs it: the one thing that a reload replaces."""

    kind: ClassVar[Kind]
    direction: ClassVar[str]
    #: Whether what comes after the drain began is refused.
    closed_by_drain: ClassVar[bool]
    #: Whether connections arrive over TLS.
    secure: ClassVar[bool]
    #: Whether it is a `sidecar.proxy.front.Front`, which has an entry pick each request. Asked instead of its class, which is
    #: loaded only where there is one.
    several: ClassVar[bool]
    name: str
    own: Self
    policy_version: str

    @property
    def uids(self) -> frozenset[int] | None:
        """Whose processes on this machine are served; None where a connection proves itself otherwise."""

    def connection(self, listener: Listener[Any]) -> Connection:
        """Makes what a connection that was accepted is: of the kind that the entry is."""

    def stream(self, user: Any) -> Stream:
        """Makes the stream of a new connection; ``user`` is of the same kind."""


class Connection(Protocol):
    """One live downstream connection, in the registry from its first moment to its last (DESIGN 4, rule 3)."""

    kind: ClassVar[Kind]
    listener: Listener[Any]
    #: The proven caller of an inbound connection; None in a handshake, and on an outbound listener.
    peer: Peer | None
    #: Monotonic time since which what goes on goes on; infinite when there is nothing that an ``open`` line is due for.
    started: float

    @property
    def service(self) -> Entry:
        """The entry that serves it now: its listener's, or one of several there."""

    @property
    def stream(self) -> Stream:
        """The stream to the downstream peer."""

    def note_long_lived(self, now: float) -> None:
        """Acts on what has gone on for long, at a monotonic time: an ``open`` line is due, or it has been too long."""

    def retire(self) -> None:
        """Takes no new work; what is in flight is finished."""

    def review(self, distrusted: Collection[TrustDomain]) -> None:
        """Acts on a reload that has just happened; the bundles of ``distrusted`` have changed or are gone."""

    def give_up(self, code: ProxyCode) -> None:
        """Ends at once, so that neither peer can take it for the end of what was sent."""

    def details(self) -> dict[str, Any]:
        """Says for the admin socket what only this kind of connection has."""

"""When a connection that carries requests ends, however busy it is, and from when on it takes no further request.

It ends with the earliest certificate that it rests on, or after ``connection_lifetime``. In the last tenth of that time an
answer says that the connection closes, so that whoever uses it makes a new one while nothing is in the way.
"""

from __future__ import annotations

from enum import Enum, auto
from typing import TYPE_CHECKING

from sidecar.proxy.failure import ProxyCode
from sidecar.proxy.stream import NEVER

if TYPE_CHECKING:
    from sidecar.proxy.hub import Hub
    from sidecar.proxy.stream import Stream

#: The share of its time in which a connection takes no further request.
LAST_SHARE = 0.1


class Age(Enum):
    """How old a connection is."""

    YOUNG = auto()
    LAST = auto()  # in the last tenth of its time
    OVER = auto()


class Lifetime:
    """The life of one connection, which begins now. Looked at when `Stream.age_deadline` passes, and not by requests."""

    __slots__ = ("_began", "_expires", "_hub", "_not_after", "code")

    def __init__(self, hub: Hub, not_after: float = NEVER) -> None:
        """``not_after`` is the end of a certificate, in seconds since the epoch."""
        self._hub = hub
        self._began = hub.clock.monotonic()
        self._not_after = not_after
        self._expires = NEVER
        #: What it ends by, as it looks now.
        self.code = ProxyCode.CONNECTION_LIFETIME

    def rest_on(self, not_after: float) -> None:
        """Takes note of another certificate that the connection rests on."""
        self._not_after = min(self._not_after, not_after)

    def look(self, stream: Stream) -> Age:
        """Says how old the connection is, and when to look again (`Stream.age_deadline`)."""
        clock = self._hub.clock
        now = clock.monotonic()
        # The wall clock decides about certificates, and may have been set. Put back, it gives nobody more time.
        self._expires = min(self._expires, now + self._not_after - clock.wall())
        limit = self._began + self._hub.limits.connection_lifetime
        ends = min(limit, self._expires)
        self.code = ProxyCode.CONNECTION_LIFETIME if limit < self._expires else ProxyCode.CERTIFICATE_EXPIRED
        closes = ends - (ends - self._began) * LAST_SHARE
        if now < closes:
            stream.age_deadline = closes
            return Age.YOUNG
        if now < ends:
            stream.age_deadline = ends
            return Age.LAST
        return Age.OVER

    def hit(self) -> ProxyCode:
        """Says by what it is over; that of a limit is counted with its line, as all are."""
        if self.code is ProxyCode.CERTIFICATE_EXPIRED:
            self._hub.metrics.limit_hits_total.labels(self.code).inc()
        return self.code

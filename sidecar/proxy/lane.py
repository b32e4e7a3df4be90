"""Where an outbound entry's requests go, and with which token: the connections made with one certificate, and its tokens.

After our certificate was renewed there are two lanes for a while: requests go on over the old one until the new one has
its token, so that no request waits for a renewal. A token that is bound to one certificate never meets another one's
connection, since a request takes both from the same lane.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from sidecar.tasks import spawn

if TYPE_CHECKING:
    from sidecar.clock import Clock
    from sidecar.proxy.pool import Pool
    from sidecar.tokens.lease import Lease


class Lane:
    """``not_after`` is when the certificate of its connections ends, in seconds since the epoch."""

    __slots__ = ("lease", "not_after", "pool")

    def __init__(self, pool: Pool, lease: Lease | None, not_after: float) -> None:
        self.pool = pool
        self.lease = lease
        self.not_after = not_after

    @property
    def ready(self) -> bool:
        """Whether a request can be sent at once, as far as tokens go."""
        return self.lease is None or self.lease.current() is not None

    @property
    def held(self) -> bool:
        """The same, without renewing anything by looking."""
        return self.lease is None or self.lease.held

    def retire(self) -> None:
        """Takes no further request; its token is revoked where that can be done."""
        self.pool.retire()
        if self.lease is not None:
            spawn(self.lease.close(), name="token-revoke")


class Lanes:
    """The lane of the certificate in force, and the one before it as long as that serves."""

    __slots__ = ("_clock", "before", "present")

    def __init__(self, present: Lane, clock: Clock, before: Lane | None = None) -> None:
        self.present = present
        self.before = before
        self._clock = clock

    def choose(self) -> Lane:
        """Returns the lane for a request that comes now."""
        before = self.before
        if before is None:
            return self.present
        usable = not before.pool.retired and self._clock.wall() < before.not_after
        if usable and not self.present.ready and before.ready:
            if self.present.lease is not None:
                self.present.lease.begin()
            return before
        self.before = None
        before.retire()
        return self.present

    def serving(self) -> Lane:
        """Returns the lane that serves now, without changing anything: what a successor may go on with for a while."""
        return self.present if self.before is None or self.present.held else self.before

"""Connections to one upstream, kept for a short while between requests.

Nothing here can be reached without a ``Permit``: ``take`` and ``dial`` ask for one, so a request that was not decided
cannot leave (DESIGN 4, rule 1).
"""

from __future__ import annotations

import asyncio
from enum import Enum, auto
from typing import TYPE_CHECKING, Protocol

from sidecar.proxy.dial import connect, demand, over_limit
from sidecar.proxy.failure import DialError, ProxyCode
from sidecar.proxy.stream import NEVER, Stream
from sidecar.proxy.upstream import Upstream
from sidecar.proxy.waiting import Line

if TYPE_CHECKING:
    from sidecar.identity.peer import Peer
    from sidecar.policy.decision import Permit
    from sidecar.proxy.hub import Hub
    from sidecar.proxy.stream import StreamUser
    from sidecar.proxy.target import Target
    from sidecar.telemetry.record import Context

#: Retries: at most one in five requests, after a first few, so that they never double the load on an upstream that fails.
RETRY_SHARE = 0.2
RETRY_BURST = 10.0


class Destination(Protocol):
    """Where a pool's connections go, and what they are."""

    #: Where they go, for the log.
    text: str

    async def open(self, stream: Stream) -> None:
        """Makes the connection whose protocol is ``stream``; raises OSError. It may be cancelled."""

    def stream(self, user: StreamUser) -> Stream:
        """Makes the stream of a new connection."""

    def context(self, stream: Stream) -> Context | None:
        """Says who is at the other end of a connection, for the log; None where the service says it already."""

    def not_after(self, stream: Stream) -> float:
        """When a connection ends at the latest, by the certificates at its two ends, in seconds since the epoch."""

    def replaces(self, before: Destination) -> bool:
        """Says whether this leads where another one led."""

    def check(self, peer: Peer | None) -> None:
        """Raises SidecarError unless a peer that was proven is the one that is meant here."""

    def settled(self, stream: Stream) -> None:
        """Learns from a connection that has served a request, before it is used again."""


class PlainDestination:
    """An upstream in plaintext: the agent behind an inbound listener."""

    def __init__(self, target: Target, hub: Hub) -> None:
        self.text = target.text
        self._target = target
        self._hub = hub

    async def open(self, stream: Stream) -> None:
        """Connects to the one target."""
        await self._target.open(self._hub.loop, stream)

    def stream(self, user: StreamUser) -> Stream:
        """Makes a plaintext stream."""
        return Stream(user, self._hub)

    def context(self, stream: Stream) -> Context | None:  # noqa: ARG002 - nothing is proven in plaintext
        """An agent has no identity of its own to show."""
        return None

    def not_after(self, stream: Stream) -> float:  # noqa: ARG002 - as in context
        """Plaintext has no certificates."""
        return NEVER

    def replaces(self, before: Destination) -> bool:
        """The address is all there is."""
        return isinstance(before, PlainDestination) and self.text == before.text

    def check(self, peer: Peer | None) -> None:
        """Nobody is proven in plaintext."""

    def settled(self, stream: Stream) -> None:
        """Plaintext has nothing to keep."""


class Found(Enum):
    """What somebody who waited gets where it is no connection."""

    PLACE = auto()  # for a new one; it is counted as being dialled already
    RETIRED = auto()  # nothing, and never any more


class Pool:
    """The connections to one destination. Idle ones are used last-in first-out, so that surplus ones age and go."""

    def __init__(self, destination: Destination, hub: Hub) -> None:
        self.destination = destination
        self.hub = hub
        self.retired = False
        self._idle: list[Upstream] = []
        self._live: set[Upstream] = set()
        self._dialling = 0
        self._retries = RETRY_BURST
        #: Requests that wait, where there are as many connections as may be.
        self._line = Line()

    @property
    def size(self) -> int:
        """Connections that are open or being made."""
        return len(self._live) + self._dialling

    def take(self, permit: Permit) -> Upstream | None:
        """Returns an idle connection that is still good, or None: then ``dial``."""
        demand(permit)
        if self._retries < RETRY_BURST:
            self._retries += RETRY_SHARE
        if self._line.turns:
            return None  # what is idle is for those who were here first
        return self._take_idle()

    def _take_idle(self) -> Upstream | None:
        idle = self._idle
        while idle:
            upstream = idle.pop()
            if upstream.usable():
                return upstream
            upstream.drop()
        return None

    async def dial(self, permit: Permit) -> Upstream | None:
        """Makes a new connection; over TLS the peer is proven when this returns.

        Where there are as many as may be, it waits in line for one that is given back, or for a place for a new one. None:
        a reload has retired the pool meanwhile.

        Raises:
            DialError: the upstream refuses, does not answer in time, is not who it should be, or the limit
                ``upstream_connections`` is reached and nothing became free, or ``upstream_waiting`` is.

        """
        demand(permit)
        if self._line.turns or self.size >= self.hub.limits.upstream_connections:
            found = await self._wait()
            if found is not Found.PLACE:
                return found if isinstance(found, Upstream) else None
        else:
            self._dialling += 1
        try:
            return await self._connect()
        finally:
            self._dialling -= 1
            self.freed()

    async def _wait(self) -> Upstream | Found:
        limits = self.hub.limits
        if self.retired:
            return Found.RETIRED
        if len(self._line.turns) >= limits.upstream_waiting:
            text = "too many requests wait for a connection to this upstream"
            raise DialError(ProxyCode.LIMIT_UPSTREAM_WAITING, text)
        try:
            async with asyncio.timeout(limits.connect_timeout):
                return await self._line.wait(self._find)
        except TimeoutError:
            raise over_limit() from None
        finally:
            self.freed()  # whoever leaves, with or without anything, may have been called for more than one

    def _find(self) -> Upstream | Found | None:
        """What there is for the first in line."""
        if self.retired:
            return Found.RETIRED
        upstream = self._take_idle()
        if upstream is None and self.size < self.hub.limits.upstream_connections:
            self._dialling += 1
            return Found.PLACE
        return upstream

    def freed(self) -> None:
        """Something may have become free, or a reload allows for more: calls whoever has waited longest."""
        if self._line.turns and (self._idle or self.size < self.hub.limits.upstream_connections):
            self._line.call()

    def may_retry(self) -> bool:
        """Says whether a request may be sent a second time, and takes note that it will be."""
        if self.retired or self._retries < 1:
            return False
        self._retries -= 1
        return True

    def release(self, upstream: Upstream) -> None:
        """Takes a connection back for the next request."""
        if self.retired or upstream not in self._live:
            self.forget(upstream)
            upstream.stream.close()
            return
        if not upstream.settled:
            upstream.settled = True
            self.destination.settled(upstream.stream)
        stream = upstream.stream
        if stream.reading_paused:
            stream.resume_reading()  # the last client was a slow one; what comes now must be seen
        stream.read_deadline = self.hub.clock.monotonic() + self.hub.limits.upstream_idle_timeout
        self._idle.append(upstream)
        if self._line.turns:
            self._line.call()

    def forget(self, upstream: Upstream) -> None:
        """Drops a connection from the books; it is closed by whoever calls this."""
        self._live.discard(upstream)
        if upstream in self._idle:
            self._idle.remove(upstream)
        self.freed()

    def retire(self) -> None:
        """Takes no new request: idle connections close now, busy ones when their response is complete."""
        self.retired = True
        idle, self._idle = self._idle, []
        for upstream in idle:
            self._live.discard(upstream)
            upstream.stream.close()
        self._line.call_all()

    async def _connect(self) -> Upstream:
        ready: asyncio.Future[None] = self.hub.loop.create_future()
        upstream = Upstream(self, ready)
        where = self.destination
        try:
            await connect(self.hub, where, upstream.stream, ready)
        except BaseException:
            upstream.drop()
            raise
        if upstream.stream.closed:
            raise DialError(ProxyCode.UPSTREAM_RESET, f"{where.text} closed the connection at once")
        self._live.add(upstream)
        return upstream

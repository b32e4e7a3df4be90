"""What every connection of this process shares: clock, limits, log, metrics, and the registry of what is alive."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from sidecar.identity.peer import Role
from sidecar.proxy.ids import Ids
from sidecar.proxy.rate import Rates
from sidecar.proxy.stream import NEVER
from sidecar.threads import Workers

if TYPE_CHECKING:
    import asyncio
    from collections.abc import Collection

    from sidecar.clock import Clock
    from sidecar.http.limits import HttpLimits
    from sidecar.identity.spiffe import SpiffeId
    from sidecar.limits import Limits
    from sidecar.proxy.clients import Clients
    from sidecar.proxy.connection import Connection
    from sidecar.proxy.stream import Stream
    from sidecar.proxy.tls_stream import TlsStream
    from sidecar.telemetry.access_log import AccessLog
    from sidecar.telemetry.messages import Messages
    from sidecar.telemetry.metrics import Metrics

#: How often deadlines are looked at, in seconds: what a limit may be late by.
SWEEP_SECONDS = 0.25
#: By how much the wall clock may have run apart from the other before everybody looks at it again, in seconds.
JUMP_SECONDS = 1.0
#: A request that lives longer than this writes an ``open`` line, in seconds.
OPEN_SECONDS = 10.0
#: Threads of each direction that make handshake steps, where a device with our key may take its time. The device does one
#: thing at a time; the others do what is left of a handshake meanwhile, and one may be lost to a device that hangs.
STEP_THREADS = 4
#: Those that end handshakes, for which the device has nothing left to do.
LAST_STEP_THREADS = 2
#: Threads that talk to one issuer for one purpose, as many that sign tokens and read them from files, and how much may
#: wait for them.
TOKEN_THREADS = 4
TOKEN_QUEUE = 128
#: After so many seconds without work a thread that talks to issuers ends: there may be many of them, and they rest most of
#: the time.
ISSUER_PATIENCE = 60.0


@dataclass(slots=True)
class Hub:
    """One per process. ``limits`` is replaced by a reload; everything else stays."""

    loop: asyncio.AbstractEventLoop
    clock: Clock
    limits: Limits
    http_limits: HttpLimits
    access_log: AccessLog
    metrics: Metrics
    messages: Messages
    ids: Ids = field(default_factory=Ids)
    #: Every live connection from a downstream peer; the registry of DESIGN 4, rule 3.
    connections: set[Connection] = field(default_factory=set)
    #: Every live stream in either direction, for the deadlines.
    streams: set[Stream] = field(default_factory=set)
    #: Inbound TLS handshakes under way, the oldest first.
    handshaking: dict[TlsStream, None] = field(default_factory=dict)
    #: Makes the steps of handshakes with a key that is in a device, by our role: neither keeps the other waiting.
    steps: dict[Role, Workers] = field(init=False)
    #: The steps behind our own flight as a server: they need no signature.
    last_steps: Workers = field(init=False)
    #: Signatures of tokens, and files with tokens: what may take its time, off the path of what needs none of it.
    token_local: Workers = field(init=False)
    #: Those that talk to issuers, by `issuer_workers`.
    _issuers: dict[tuple[str, str], Workers] = field(default_factory=dict)
    #: Open downstream connections by direction, and those of each proven caller.
    open: Counter[str] = field(default_factory=Counter)
    callers: dict[SpiffeId, int] = field(default_factory=dict)
    #: What callers, and the agent at each of its entries, have left of ``request_rate``.
    rates: Rates = field(default_factory=Rates)
    draining: bool = False
    _clients: Clients | None = None
    _timer: asyncio.TimerHandle | None = None
    #: The wall clock less the monotonic one, when it was last acted on.
    _offset: float = 0.0

    def __post_init__(self) -> None:
        """Makes the workers; they have no threads until there is work."""
        self._offset = self.clock.wall() - self.clock.monotonic()
        self.steps = {role: Workers(f"handshake-{role}", STEP_THREADS, self.limits.handshake_queue) for role in Role}

        self.last_steps = Workers("handshake-end", LAST_STEP_THREADS, self.limits.handshake_queue)
        self.token_local = Workers("tokens", TOKEN_THREADS, TOKEN_QUEUE)

    def issuer_workers(self, purpose: str, issuer: str) -> Workers:
        """Returns the threads that talk to an issuer: it has its own, so that one that hangs holds up no other.

        ``purpose`` is ``tokens`` or ``keys``: what the agent asks for does not hold up what its callers need.
        """
        place = (purpose, issuer)
        if place not in self._issuers:
            name = f"issuer-{purpose}"
            self._issuers[place] = Workers(name, TOKEN_THREADS, TOKEN_QUEUE, patience=ISSUER_PATIENCE)
        return self._issuers[place]

    def keep_issuers(self, places: Collection[tuple[str, str]]) -> None:
        """Forgets the threads of all other issuers: a reload has removed them. What they are at goes on."""
        self._issuers = {place: workers for place, workers in self._issuers.items() if place in places}

    @property
    def clients(self) -> Clients:
        """Says which process a client on this machine is; made when the first listener is that has to know."""
        if self._clients is None:
            from sidecar.proxy.clients import Clients, shared_uid  # noqa: PLC0415 - for such listeners alone

            self._clients = Clients(shared=shared_uid())
        return self._clients

    @property
    def handshakes(self) -> int:
        """Inbound TLS handshakes under way."""
        return len(self.handshaking)

    def start(self) -> None:
        """Begins to look at deadlines."""
        self._timer = self.loop.call_later(SWEEP_SECONDS, self._sweep)

    def stop(self) -> None:
        """Stops looking."""
        if self._clients is not None:
            self._clients.close()
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def started_long_ago(self, since: float) -> float:
        """What `Connection.started` becomes behind the ``open`` line: nobody has to look before ``total_timeout`` is over."""
        total = self.limits.total_timeout
        return since + total - min(OPEN_SECONDS, total)

    def look_at_ages(self) -> None:
        """Lets every connection look anew at when it ends: the wall clock was set, or a limit is another one."""
        for stream in self.streams:
            if stream.age_deadline < NEVER:
                stream.age_deadline = -NEVER

    def _look_at_clock(self, now: float) -> None:
        """Notices a wall clock that was set, or a machine that has slept: certificates end by it."""
        offset = self.clock.wall() - now
        if abs(offset - self._offset) > JUMP_SECONDS:
            self._offset = offset
            self.look_at_ages()

    def _sweep(self) -> None:
        self._timer = self.loop.call_later(SWEEP_SECONDS, self._sweep)
        now = self.clock.monotonic()
        self._look_at_clock(now)
        # Deadlines live as plain attributes and are looked at together: no timer is made or cancelled in a request.
        due = [s for s in self.streams if s.read_deadline <= now or s.write_deadline <= now or s.age_deadline <= now]
        for stream in due:
            stream.expire(now)
        for workers in (*self.steps.values(), self.last_steps):
            workers.limit = self.limits.handshake_queue
            for job in workers.late(self.limits.sign_timeout):
                job.tell_late()
        patience = min(OPEN_SECONDS, self.limits.total_timeout)
        long_lived = [c for c in self.connections if c.started + patience <= now]
        for connection in long_lived:
            connection.note_long_lived(now)

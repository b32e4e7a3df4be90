"""One TCP connection as the HTTP layer sees it, in plaintext; ``tls_stream`` has the same face over TLS.

Writes are gathered by ``send`` and leave with ``flush``, once per turn of the loop, so that a head and its body are one
segment and one TLS record. Every orderly end is the lingering close of RFC 9112 9.6: flush, shut down writing, read and
discard for a bounded time and size, close. Without it the kernel answers unread bytes with a reset, and the reset
destroys the answer (or the TLS alert) that was sent just before.
"""

from __future__ import annotations

import asyncio
import math
import socket
import struct
from enum import Enum, auto
from typing import TYPE_CHECKING, Protocol, cast

from sidecar.proxy.failure import ProxyCode

if TYPE_CHECKING:
    from sidecar import sockets
    from sidecar.errors import SidecarError
    from sidecar.identity.peer import Peer
    from sidecar.proxy.hub import Hub

#: Lingering close: how long (seconds) and how much (bytes) is read and thrown away before the socket is closed.
LINGER_SECONDS = 1.0
LINGER_BYTES = 1024 * 1024
#: What may lie unsent towards one peer before the other side is told to wait: two TLS records' worth of slack.
HIGH_WATER = 64 * 1024

NEVER = math.inf
#: SO_LINGER with no time: closing the socket sends a reset instead of an orderly end.
_RESET = struct.pack("ii", 1, 0)
_ORDERLY = struct.pack("ii", 0, 0)


class State(Enum):
    """Where a stream stands."""

    OPENING = auto()  # connected; a TLS handshake may be under way
    OPEN = auto()
    LINGERING = auto()  # our side has ended; what arrives is thrown away
    CLOSED = auto()


# Looking a member up on its Enum is dear where it happens for every read and write.
_OPENING, _OPEN, _LINGERING, _CLOSED = State.OPENING, State.OPEN, State.LINGERING, State.CLOSED


class Expiry(Enum):
    """Which deadline of a stream has passed."""

    READ = auto()
    WRITE = auto()
    AGE = auto()


class StreamUser(Protocol):
    """The layer above a stream. The stream calls, always from the event loop."""

    def connected(self) -> None:
        """There is a connection; over TLS its handshake is still to come. May abort it."""

    def opened(self) -> None:
        """The stream is ready for data; a TLS peer is proven."""

    def failed(self, error: SidecarError) -> None:
        """The stream will never be ready: the handshake was refused or ran out of time. ``lost`` follows."""

    def received(self, data: bytes) -> None:
        """Takes plaintext as it arrived."""

    def ended(self, *, clean: bool) -> None:
        """The peer will send no more; ``clean`` is False when TLS ended without close_notify."""

    def lost(self) -> None:
        """The connection is gone. Called exactly once after ``connected``, whatever happened in between."""

    def writable(self, *, yes: bool) -> None:
        """Says that the peer reads too slowly (``yes`` False), or again fast enough."""

    def expired(self, which: Expiry) -> None:
        """A deadline that the user set has passed; the stream has cleared it."""


class _Nobody:
    """The user of a stream that is gone."""

    def _hear(self, *_: object, **__: object) -> None:
        """There is nobody to tell."""

    connected = opened = failed = received = ended = lost = writable = expired = _hear


_NOBODY: StreamUser = _Nobody()


class Stream(asyncio.Protocol):
    """A plaintext connection. Its three deadlines are monotonic times, looked at by the sweeper."""

    def __init__(self, user: StreamUser, hub: Hub) -> None:
        self.user = user
        self.hub = hub
        self.state = State.OPENING
        self.read_deadline = NEVER
        self.write_deadline = NEVER
        #: When its user looks at how old it is.
        self.age_deadline = NEVER
        self.reading_paused = False
        self.writing_paused = False
        #: Bytes handed to the transport so far.
        self.written = 0
        #: Why it did not end as its user wanted, where nobody else knows.
        self.cause: ProxyCode | None = None
        #: Our sending side has ended by `finish`; the peer's may go on.
        self.finished = False
        #: Who the other end proved to be; None in plaintext.
        self.peer: Peer | None = None
        #: The process at the other end, where the listener looks who that is and the kernel says.
        self.client: sockets.Peer | None = None
        #: The peer's address as ``host:port`` (IPv6 in brackets); empty before there is a connection.
        self.remote = ""
        self._transport: asyncio.Transport | None = None
        #: What ``send`` has taken since the last ``flush``.
        self.gathered: list[bytes] = []
        self._discarded = 0
        self._owing = False  # when our side ended, not everything had been taken
        self._peer_done = False  # the peer's end of the connection was seen
        self._mark = 0  # what was delivered when the last window of a lingering peer began

    # -- what the event loop calls ------------------------------------------------------------------------------

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Takes the transport; a plaintext stream is open at once."""
        self._transport = cast("asyncio.Transport", transport)
        self._transport.set_write_buffer_limits(high=HIGH_WATER)
        self.remote = format_address(transport.get_extra_info("peername"))
        if self.state is _CLOSED:
            self._transport.abort()  # given up while it was being made
            return
        self.hub.streams.add(self)
        try:
            self.user.connected()
            if self.state is not _CLOSED:
                self._begin()
        except Exception:
            self.abort()  # a defect of ours: told by the loop, which on uvloop would leave the connection open
            raise

    def data_received(self, data: bytes) -> None:
        """Hands data to the user, or throws it away while lingering."""
        if self.state is _OPEN:
            self.user.received(data)
        elif self.state is _LINGERING:
            self._discard(len(data))

    def eof_received(self) -> bool:
        """Notes the peer's end and keeps our own side open."""
        self._peer_done = True
        if self.state is _OPEN:
            self.user.ended(clean=True)
        elif self.state is _LINGERING:
            self._close_transport()
        return True

    def connection_lost(self, exc: BaseException | None) -> None:
        """Passes the end on, once."""
        if self.state is _CLOSED and self._transport is None:
            self.user = _NOBODY  # there never was a connection, or this was said before
            return
        if exc is not None and self._owing and self.cause is None:
            self.cause = ProxyCode.CLIENT_RESET
        self.state = _CLOSED
        self._transport = None
        self.gathered.clear()
        self.hub.streams.discard(self)
        self.read_deadline = self.write_deadline = self.age_deadline = NEVER
        self.user.lost()
        # What a connection used is freed now, and not when the garbage collector finds that two things hold each other.
        self.user = _NOBODY

    def pause_writing(self) -> None:
        """The peer reads too slowly."""
        self.writing_paused = True
        self.user.writable(yes=False)

    def resume_writing(self) -> None:
        """The peer has caught up."""
        self.writing_paused = False
        self.user.writable(yes=True)

    # -- what the user calls ------------------------------------------------------------------------------------

    @property
    def closed(self) -> bool:
        """Says whether nothing can be sent any more."""
        transport = self._transport
        return (self.state is not _OPEN and self.state is not _OPENING) or transport is None or transport.is_closing()

    @property
    def unsent(self) -> int:
        """Bytes handed over but not yet taken by the kernel."""
        return self._transport.get_write_buffer_size() if self._transport is not None else 0

    @property
    def delivered(self) -> int:
        """Bytes that the kernel has taken so far."""
        return self.written - self.unsent

    def send(self, data: bytes) -> None:
        """Gathers data for the next flush; silently nothing once the stream is closed."""
        self.gathered.append(data)

    def flush(self) -> None:
        """Writes what was gathered, in one piece."""
        gathered = self.gathered
        if not gathered:
            return
        data = gathered[0] if len(gathered) == 1 else b"".join(gathered)
        gathered.clear()
        self.write(data)

    def write(self, data: bytes) -> None:
        """Writes at once, for whoever has nothing gathered; not for after ``finish``."""
        transport = self._transport
        if self.state is _OPEN and transport is not None:
            self.written += len(data)
            transport.write(data)

    def finish(self) -> None:
        """Ends our sending side and nothing else (half-close): the peer sees a clean end, and may go on sending."""
        if self.state is _OPEN and self._transport is not None and not self.finished:
            self.flush()
            self._finish()
            self.finished = True

    def pause_reading(self) -> None:
        """Stops reading, so that the peer is slowed down by TCP."""
        if not self.reading_paused and self._transport is not None:
            self.reading_paused = True
            self._transport.pause_reading()

    def resume_reading(self) -> None:
        """Reads again."""
        if self.reading_paused and self._transport is not None:
            self.reading_paused = False
            self._transport.resume_reading()

    def close(self) -> None:
        """Ends in order: everything sent is flushed, then the lingering close."""
        if self.state is not _OPEN:
            if self.state is State.OPENING:
                self.abort()
            return
        self.flush()
        self._farewell()
        self._linger()

    def cut(self) -> None:
        """Ends so that the peer can tell that the message was not whole: flushed, but nothing that says "complete"."""
        if self.state is _OPEN:
            self.flush()
            self._linger()

    def abort(self) -> None:
        """Ends at once; what was not sent is lost."""
        self.gathered.clear()
        self.state = _CLOSED
        if self._transport is not None:
            self._transport.abort()

    def reset(self) -> None:
        """Ends with a TCP reset: the only sign of truncation on a body that is delimited by the connection's end."""
        self.abortive(yes=True)
        self.abort()

    def abortive(self, *, yes: bool) -> None:
        """Says how the kernel ends the connection when we, or the process, let go of it: by a reset, or in order."""
        if self._transport is not None and self.state is not _CLOSED:
            sock = self._transport.get_extra_info("socket")
            if sock is None or sock.fileno() < 0:
                return  # the loop has let go of it already
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET if yes else _ORDERLY)

    def cut_off(self, cause: ProxyCode) -> None:
        """Ends a connection whose peer has met a limit that the user does not know of; `lost` finds the cause."""
        self.cause = cause
        self.reset()

    def disown(self) -> None:
        """Ends a stream whose dial was cancelled: uvloop closes its transport without ever saying that it is lost."""
        self.reset()
        self.hub.loop.call_soon(self.connection_lost, None)

    def expire(self, now: float) -> None:
        """Acts on the deadlines that have passed by the monotonic time ``now``."""
        if self.read_deadline <= now:
            self.read_deadline = NEVER
            self._expired(Expiry.READ)
        if self.write_deadline <= now:
            self.write_deadline = NEVER
            self._expired(Expiry.WRITE)
        if self.age_deadline <= now:
            self.age_deadline = NEVER
            if self.state is _OPEN:  # one that ends already has its own time for that
                self._expired(Expiry.AGE)

    @property
    def ends(self) -> tuple[object, object]:
        """The socket addresses of the peer and of ourselves, in asyncio's form; None for what is not known (any more)."""
        transport = self._transport
        if transport is None:
            return None, None
        return transport.get_extra_info("peername"), transport.get_extra_info("sockname")

    @property
    def fileno(self) -> int:
        """The socket's descriptor, or -1."""
        sock = self._transport.get_extra_info("socket") if self._transport else None
        return int(sock.fileno()) if sock is not None else -1

    # -- what a TLS stream does differently -----------------------------------------------------------------------

    def _begin(self) -> None:
        self.state = State.OPEN
        self.user.opened()

    def _finish(self) -> None:
        assert self._transport is not None  # noqa: S101 - finish has looked
        try:
            self._transport.write_eof()
        except OSError:
            self.abort()  # as in `_linger`

    def _farewell(self) -> None:
        """Says goodbye in the protocol of the stream; plain TCP has no word for it."""

    def _expired(self, which: Expiry) -> None:
        if self.state is _OPEN:
            self.user.expired(which)
        elif self.state is _LINGERING and self.unsent:
            self._linger_on(which)
        else:
            self.abort()

    # -- the lingering close ---------------------------------------------------------------------------------------

    def _linger(self) -> None:
        self.state = _LINGERING
        transport = self._transport
        if transport is None or transport.is_closing():
            return
        now = self.hub.clock.monotonic()
        self.read_deadline = now + LINGER_SECONDS
        self.write_deadline = now + self.hub.limits.stall_timeout
        self._mark = self.delivered
        self._owing = self.unsent > 0
        try:
            transport.write_eof()
        except OSError:
            self.abort()  # the peer has reset the connection, and the loop does not know it yet
            return
        if self._peer_done:
            transport.close()  # once what lies unsent is gone
        elif self.reading_paused:
            self.reading_paused = False
            transport.resume_reading()

    def _linger_on(self, which: Expiry) -> None:
        """A peer that still reads a long answer gets the time that any slow reader gets."""
        now = self.hub.clock.monotonic()
        if which is Expiry.READ:
            self.read_deadline = now + LINGER_SECONDS
            return
        limits = self.hub.limits
        if self.delivered - self._mark < limits.min_rate * limits.stall_timeout:
            # Not in order: a part of what was sent would look like the whole of it.
            self.cut_off(ProxyCode.CLIENT_STALLED)
            return
        self._mark = self.delivered
        self.write_deadline = now + limits.stall_timeout

    def _discard(self, size: int) -> None:
        self._discarded += size
        if self._discarded > LINGER_BYTES:
            self._close_transport()

    def _close_transport(self) -> None:
        if self._transport is not None:
            self._transport.close()


def format_address(address: object) -> str:
    """Writes a socket address as ``host:port`` or ``[v6]:port``; a UNIX path as ``unix:PATH``; unknown as ``""``."""
    if isinstance(address, tuple) and len(address) >= 2:
        host, port = address[0], address[1]
        return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
    return f"unix:{address}" if isinstance(address, str) and address else ""

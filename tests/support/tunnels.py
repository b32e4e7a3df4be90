"""One tunnel between two peers, on wires that a test moves by hand: as many bytes at a time as it likes, in any order.

    caller ==TLS== down [tunnel] up --plain-- server        (an inbound entry)
    agent --plain-- down [tunnel] up ==TLS== server         (an outbound entry)

Nothing here has a socket. A wire behaves as TCP does: what was written arrives in order, then the end or the reset that
came behind it; a reset loses what was on its way.
"""

from __future__ import annotations

import asyncio
import socket
import struct
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any, ClassVar

from sidecar.clock import Clock
from sidecar.http.limits import HttpLimits
from sidecar.limits import Limits
from sidecar.policy.decision import Denial, Permit, Reason
from sidecar.proxy.connection import Kind
from sidecar.proxy.dialler import Dialler
from sidecar.proxy.hub import Hub
from sidecar.proxy.stream import Stream
from sidecar.proxy.tls_stream import TlsStream
from sidecar.proxy.tunnel import Tunnel
from sidecar.proxy.tunnel_account import TunnelCounters
from sidecar.proxy.tunnel_service import Way
from sidecar.telemetry.metrics import Metrics
from sidecar.tls.contexts import NO_ALPN
from sidecar.tls.engine import TlsEngine
from tests.support.tls import CA, PLANNER, TOOLS, Foreign, foreign_context, planner_context, tools_context

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterable
    from enum import StrEnum

#: Contexts are dear to make, and nothing here depends on which connection is the first of one.
SERVER, CLIENT = tools_context(alpn=NO_ALPN), planner_context(alpn=NO_ALPN)
FOREIGN_CLIENT, FOREIGN_SERVER = foreign_context(PLANNER, CA.certificate), foreign_context(TOOLS, CA.certificate)


class Wire(asyncio.Transport):
    """Our end of a connection: the transport that a stream is given."""

    def __init__(self, protocol: asyncio.Protocol) -> None:
        super().__init__()
        self.protocol = protocol
        self.buffer = bytearray()
        self.most = 0
        self.high = 1
        self.eof = self.closing = self.aborted = self.lost = False
        self.linger = True
        self.reading = True
        self.writing_paused = False

    # -- what the stream calls ------------------------------------------------------------------------------------

    def get_extra_info(self, name: str, default: Any = None) -> Any:
        ends = {"peername": ("192.0.2.1", 4711), "sockname": ("192.0.2.2", 8443)}
        return {**ends, "socket": self}.get(name, default)

    def fileno(self) -> int:
        return -1 if self.lost else 3

    def setsockopt(self, level: int, option: int, value: bytes) -> None:
        assert (level, option) == (socket.SOL_SOCKET, socket.SO_LINGER)
        on, seconds = struct.unpack("ii", value)
        self.linger = not on or seconds > 0

    def set_write_buffer_limits(self, high: int | None = None, low: int | None = None) -> None:
        assert high is not None
        self.high = high

    def get_write_buffer_size(self) -> int:
        return len(self.buffer)

    def write(self, data: Any) -> None:
        assert not self.eof, "written behind the end"
        if self.closing or self.lost:
            return
        self.buffer += data
        self.most = max(self.most, len(self.buffer))
        if len(self.buffer) > self.high and not self.writing_paused:
            self.writing_paused = True
            self.protocol.pause_writing()

    def write_eof(self) -> None:
        self.eof = True

    def close(self) -> None:
        if not self.linger:
            self.abort()
        self.closing = True

    def abort(self) -> None:
        self.closing = self.aborted = True
        self.buffer.clear()

    def is_closing(self) -> bool:
        return self.closing

    def pause_reading(self) -> None:
        self.reading = False

    def resume_reading(self) -> None:
        self.reading = True

    # -- what the wire does ---------------------------------------------------------------------------------------

    def drain(self, most: int) -> bytes:
        """Takes bytes off towards the peer."""
        data = bytes(self.buffer[:most])
        del self.buffer[:most]
        if self.writing_paused and len(self.buffer) <= self.high // 4:
            self.writing_paused = False
            self.protocol.resume_writing()
        return data

    def settle(self, error: Exception | None = None) -> bool:
        """Lets the loop notice that the connection is gone."""
        if self.lost or not (error or self.aborted or (self.closing and not self.buffer)):
            return False
        self.lost = self.closing = True
        self.protocol.connection_lost(error)
        return True


class Peer:
    """The other end of a wire, in plaintext. ``seen`` says how the tunnel's end looked to it."""

    def __init__(self) -> None:
        self.wire: Wire | None = None
        self.queue = bytearray()
        self.sent = b""
        self.received = b""
        #: What it has done: said that it sends no more, cleanly; ended without that; been reset.
        self.finished = self.torn = self.reset = False
        self._told_end = False
        self.seen = "open"

    # -- what it does ---------------------------------------------------------------------------------------------

    def send(self, data: bytes) -> None:
        if not (self.finished or self.torn or self.reset):
            self.sent += data
            self._send(data)

    def finish(self) -> None:
        """Half-close."""
        if not (self.torn or self.reset):
            self.finished = True

    def tear(self) -> None:
        """Ends by what is no clean end in this peer's protocol: in plaintext a reset is all there is."""
        self.break_off()

    def break_off(self) -> None:
        """Is reset: what was on its way is lost."""
        self.reset = True
        self.queue.clear()

    # -- what the wire does ---------------------------------------------------------------------------------------

    def push(self, most: int) -> bool:
        """Brings bytes, or the end behind them, to the tunnel; says whether there was anything to bring."""
        wire = self.wire
        if wire is None or wire.lost or wire.closing:
            return False
        if self.reset:
            return wire.settle(ConnectionResetError())
        if not wire.reading:
            return False
        if self.queue:
            data = bytes(self.queue[:most])
            del self.queue[:most]
            wire.protocol.data_received(data)
            return True
        if self._fin and not self._told_end:
            self._told_end = True
            wire.protocol.eof_received()
            return True
        return False

    def pull(self, most: int) -> bool:
        """Brings bytes, or the end behind them, to the peer."""
        wire = self.wire
        if wire is None or self.reset:
            return False
        before = self.seen
        data = wire.drain(most)
        if data:
            self._receive(data)
        if wire.aborted and not wire.linger:
            self._see("reset")
        elif not wire.buffer and (wire.eof or wire.closing):
            self._see("end")
        return bool(data) or self.seen != before

    # -- what differs over TLS ------------------------------------------------------------------------------------

    @property
    def _fin(self) -> bool:
        return self.finished

    def _send(self, data: bytes) -> None:
        self.queue += data

    def _receive(self, data: bytes) -> None:
        self.received += data

    def _see(self, what: str) -> None:
        if self.seen == "open":
            self.seen = "clean" if what == "end" else "broken"


class TlsPeer(Peer):
    """The other end over TLS: pyOpenSSL, which says on its own whether it saw close_notify."""

    def __init__(self, *, server: bool) -> None:
        super().__init__()
        self.end = Foreign(FOREIGN_SERVER if server else FOREIGN_CLIENT, server=server)
        self._closes = False  # the TCP connection too, behind close_notify
        self._unsaid = b""  # what has to wait for the handshake
        self._said_end = False
        self.turn()

    def turn(self) -> None:
        if self.end.error is None:
            self.end.turn()
        if self.end.done and not self._said_end:
            self.end.write(self._unsaid)
            self._unsaid = b""
            if self.finished:
                self._said_end = True
                self.end.connection.shutdown()
        if not self.reset:
            self.queue += self.end.to_send()

    def finish(self) -> None:
        if not (self.finished or self.torn or self.reset):
            self.finished = True
            self.turn()

    def close(self) -> None:
        """The TCP connection ends as well."""
        self.finish()
        self._closes = True

    def tear(self) -> None:
        """The TCP connection ends without close_notify."""
        if not self.finished:
            self.torn = True

    @property
    def _fin(self) -> bool:
        return self.torn or self._closes

    def _send(self, data: bytes) -> None:
        self._unsaid += data
        self.turn()

    def _receive(self, data: bytes) -> None:
        self.end.receive(data)
        self.turn()
        self.received = self.end.plain
        if self.end.eof and self.seen == "open":
            self.seen = "clean"
        assert self.end.error is None, self.end.error

    def _see(self, what: str) -> None:
        # What came behind close_notify changes nothing about what it said.
        if self.seen == "open":
            self.seen = "broken"


class Destination:
    """Where the tunnel leads."""

    place = ("192.0.2.2", 1)
    text = "192.0.2.2:1"

    def __init__(self, bench: Bench) -> None:
        self.bench = bench

    async def open(self, stream: Stream) -> None:
        await self.bench.hub.loop.create_connection(lambda: stream, *self.place)

    def stream(self, user: Any) -> Stream:
        return self.bench.ends(user, tls=self.bench.direction == "outbound", server=False)

    def context(self, stream: Stream) -> None:
        return None

    def settled(self, stream: Stream) -> None:
        self.bench.told.append("settled")


class Loop:
    """The running loop, but for connections: those are made when a test says so."""

    def __init__(self, bench: Bench) -> None:
        self._loop = asyncio.get_running_loop()
        self._bench = bench
        self.go: asyncio.Future[None] = self._loop.create_future()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._loop, name)

    async def create_connection(self, factory: Callable[[], Stream], host: str, port: int) -> None:
        assert (host, port) == Destination.place
        await self.go
        self._bench.connect(self._bench.up, factory())


class Service:
    """An entry of either direction, for one tunnel."""

    kind: ClassVar[Kind] = Kind.TCP

    def __init__(self, hub: Hub, bench: Bench) -> None:
        self.hub = hub
        self.bench = bench
        self.direction = bench.direction
        self.name = "tools"
        self.closed_by_drain = self.secure = bench.direction == "inbound"
        self.own = SimpleNamespace(svid=SimpleNamespace(not_after=bench.not_after), name="", pin="", protection="")
        self.policy_version = "v1"
        self.counters = TunnelCounters(hub.metrics, self.direction, self.name)
        self.way = Way(Destination(bench), bench.dialler, "place")
        self.verdict: Permit | Denial | StrEnum = Permit("rule", "id", "v1")

    def stream(self, user: Any) -> Stream:
        return self.bench.ends(user, tls=self.secure, server=True)

    def decide(self, tunnel: Tunnel, decision_id: str) -> Permit | Denial:
        assert isinstance(self.verdict, (Permit, Denial))
        return self.verdict

    def review(self, tunnel: Tunnel, distrusted: Collection[object], decision_id: str) -> Permit | StrEnum:
        assert not isinstance(self.verdict, Denial)
        return self.verdict

    def contexts(self, tunnel: Tunnel) -> tuple[Any, ...]:
        return ()


@dataclass
class Bench:
    """One tunnel with its two peers; `down` is connected, `up` when `answer` is called. Use within a running loop."""

    direction: str
    not_after: float = float("inf")
    limits: Limits = field(default_factory=Limits)
    clock: Clock = field(default_factory=Clock)
    denied: bool = False
    records: list[Any] = field(default_factory=list)
    refusals: list[object] = field(default_factory=list)
    told: list[str] = field(default_factory=list)
    over: int = 0

    def __post_init__(self) -> None:
        log = SimpleNamespace(write=lambda record, urgent: self.records.append(record), full=False)
        messages = SimpleNamespace(warning=lambda text, **_: self.told.append(text))
        self.loop = Loop(self)
        parts: Any = (HttpLimits(), log, Metrics(), messages)
        self.hub = Hub(self.loop, self.clock, self.limits, *parts)  # type: ignore[arg-type]
        self.dialler = Dialler(self.hub)
        self.service = Service(self.hub, self)
        if self.denied:
            self.service.verdict = Denial(Reason.CALLER_NOT_NAMED, "id", "v1")
        self.stopped = False
        inbound = self.direction == "inbound"
        self.down: Peer = TlsPeer(server=False) if inbound else Peer()
        self.up: Peer = Peer() if inbound else TlsPeer(server=True)
        self.tunnel = Tunnel(self)  # type: ignore[arg-type]  # the bench is the listener too
        self.connect(self.down, self.tunnel.stream)

    # -- the listener ---------------------------------------------------------------------------------------------

    def stream(self, user: Any) -> Stream:
        return self.service.stream(user)

    def connected(self, tunnel: Tunnel) -> None:
        self.hub.connections.add(tunnel)

    def opened(self, tunnel: Tunnel) -> None:
        tunnel.peer = tunnel.stream.peer

    def refused(self, tunnel: Tunnel, error: object) -> None:
        self.refusals.append(error)

    def lost(self, tunnel: Tunnel) -> None:
        self.hub.connections.discard(tunnel)
        self.over += 1

    # -- the upstream ---------------------------------------------------------------------------------------------

    def ends(self, user: Any, *, tls: bool, server: bool) -> Stream:
        if not tls:
            return Stream(user, self.hub)
        context = SERVER if server else CLIENT
        return TlsStream(user, self.hub, lambda: (context, TlsEngine(context)), 10)

    # -- what tests call ------------------------------------------------------------------------------------------

    @property
    def peers(self) -> tuple[Peer, Peer]:
        return self.down, self.up

    def answer(self) -> None:
        """The upstream answers."""
        if not self.loop.go.done():
            self.loop.go.set_result(None)

    def refuse(self) -> None:
        """The upstream does not."""
        self.loop.go.set_exception(ConnectionRefusedError())

    async def settle(self) -> None:
        """Lets the loop turn, and notice which connections are gone."""
        for _ in range(3):
            await asyncio.sleep(0)
        for peer in self.peers:
            if peer.wire is not None:
                peer.wire.settle()
        await asyncio.sleep(0)

    async def pump(self, most: int = 1_000_000, peers: Iterable[Peer] | None = None) -> None:
        """Brings everything everywhere, so many bytes at a time."""
        moved = True
        while moved:
            moved = any(peer.push(most) | peer.pull(most) for peer in peers or self.peers)
            await self.settle()

    async def stands(self) -> Bench:
        """Shakes hands, dials, and shakes hands again."""
        await self.pump()
        self.answer()
        await self.settle()
        await self.pump()
        assert self.tunnel.down.other is not None
        return self

    def connect(self, peer: Peer, stream: Stream) -> None:
        """Gives a peer and a stream the wire between them."""
        peer.wire = Wire(stream)
        stream.connection_made(peer.wire)

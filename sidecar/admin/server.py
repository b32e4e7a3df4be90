"""A small HTTP/1.1 server for operators: one request a connection, a fixed set of answers, everything bounded.

Used twice: on the administration socket, where the kernel says who asks, and on the health listener, where anybody may.
It is not on the path of any request that is proxied, but shares the event loop with them.
"""

from __future__ import annotations

import asyncio
import time
from abc import abstractmethod
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, cast

from sidecar.accept import Acceptor
from sidecar.admin.address import AdminAddress
from sidecar.admin.answers import Answer, Later, admin_routes, answer, health_routes
from sidecar.admin.credentials import allowed_uids
from sidecar.http.errors import HttpError
from sidecar.http.limits import HttpLimits
from sidecar.http.messages import Framing
from sidecar.http.receiver import RequestReceiver
from sidecar.http.write import error_response
from sidecar.proxy.binding import ANYBODY, bind_unix
from sidecar.proxy.failure import BindError
from sidecar.proxy.listener import bind, listen
from sidecar.proxy.stream import format_address
from sidecar.sockets import peer_uid
from sidecar.tasks import spawn

if TYPE_CHECKING:
    import socket
    from collections.abc import Callable, Iterable

    from sidecar.admin.answers import Routes, StatusSource
    from sidecar.clock import Clock
    from sidecar.http.messages import Field, RequestHead
    from sidecar.sockets import SocketFile
    from sidecar.telemetry.messages import Messages

_DAYS = ("Mon", "Tue", "Wed", "Thu", "Fri", "Sat", "Sun")
_MONTHS = ("Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec")


@dataclass(frozen=True, slots=True)
class AdminLimits:
    """Bounds of one such server. Times are seconds, sizes bytes."""

    #: Open at once; one more is closed unanswered.
    connections: int = 64
    #: From accept to the end of the answer: closed.
    timeout: float = 5.0
    #: For an answer that somebody else is asked for, such as a token: 503. It has ``timeout`` to leave.
    answer_seconds: float = 30.0
    #: After the answer, for the client to close: closed.
    linger_seconds: float = 1.0
    #: What a client may send that nobody asked for, after its head: closed.
    linger_bytes: int = 64 * 1024
    #: The head of a request: 431 or 414.
    http: HttpLimits = field(default_factory=lambda: HttpLimits(head_bytes=8 * 1024, target_bytes=1024, fields=64))


@dataclass(frozen=True, slots=True)
class Surroundings:
    """What such a server has of its process. ``failed`` counts a failure to accept by the name of its errno."""

    messages: Messages
    clock: Clock
    failed: Callable[[str], None]
    limits: AdminLimits = AdminLimits()


class _Server:
    """Serves a table of answers on one socket."""

    def __init__(self, routes: Routes, uids: frozenset[int] | None, around: Surroundings) -> None:
        self.routes = routes
        self.uids = uids
        self.messages = around.messages
        self.clock = around.clock
        self.limits = around.limits
        #: Oldest first.
        self.open: dict[_Connection, None] = {}
        self.closed = False
        self._failed = around.failed
        self._acceptor: Acceptor | None = None

    async def close(self) -> None:
        """Stops accepting; answers that were given still leave, as far as the loop runs on. May be called twice."""
        self.closed = True
        if self._acceptor is not None:
            self._acceptor.close()
            self._acceptor = None
        for connection in list(self.open):
            connection.close()

    def _accept_from(self, sock: socket.socket) -> None:
        """Begins to accept from a listening socket, which is its own from now on."""
        self._acceptor = Acceptor(
            asyncio.get_running_loop(),
            sock,
            self._take,
            messages=self.messages,
            failed=self._failed,
            address=format_address(sock.getsockname()),
        )
        self._acceptor.start()

    def _take(self, sock: socket.socket, _: object) -> _Connection | None:
        """Makes what serves the next connection; None for somebody who is not served, before a byte is read."""
        if self.uids is not None:
            uid = peer_uid(sock)
            if uid not in self.uids:
                self.messages.warning("the admin socket refused a connection", uid=uid)
                return None
        return _Connection(self)


class _UnixServer(_Server):
    """One on a UNIX socket."""

    _file: SocketFile | None = None

    async def start(self) -> None:
        """Makes the socket and begins to accept. Raises what `_make` raises."""
        self._file = self._make()
        sock = self._file.sock
        sock.listen(self.limits.connections)
        self._accept_from(sock)

    async def close(self) -> None:
        """Removes the socket's file, then stops accepting."""
        file, self._file = self._file, None
        if file is not None:
            file.remove()
        await super().close()
        if file is not None:
            file.close()

    @abstractmethod
    def _make(self) -> SocketFile:
        """Makes the socket."""


class AdminServer(_UnixServer):
    """The administration socket: a UNIX socket that serves our own uid, root and ``uids``."""

    def __init__(self, path: Path | str, uids: Iterable[int], source: StatusSource, around: Surroundings) -> None:
        super().__init__(admin_routes(source), allowed_uids(uids), around)
        self._path = Path(path)

    def _make(self) -> SocketFile:
        """Makes it, or raises `AddressError`."""
        return AdminAddress.open(self._path)


class HealthSocket(_UnixServer):
    """The health listener on a UNIX socket: what the one on TCP is, for whoever may walk to its folder."""

    def __init__(self, path: Path | str, source: StatusSource, around: Surroundings) -> None:
        super().__init__(health_routes(source), None, around)
        self._path = Path(path)

    def _make(self) -> SocketFile:
        """Makes it, or raises BindError."""
        return bind_unix(self._path, "health.listen", ANYBODY)


class HealthServer(_Server):
    """The health listener: TCP, anybody, and nothing but /live, /ready and /metrics."""

    def __init__(self, host: str, port: int, source: StatusSource, around: Surroundings) -> None:
        super().__init__(health_routes(source), None, around)
        self._host = host
        self._port = port

    async def start(self) -> None:
        """Binds and begins to accept. Raises `BindError`."""
        sock = bind(self._host, self._port)
        try:
            listen(sock, self.limits.connections)
        except BindError:
            sock.close()
            raise
        self._host, self._port, *_ = sock.getsockname()
        self._accept_from(sock)

    @property
    def address(self) -> tuple[str, int]:
        """Where it listens: once it does, with the port that was found where 0 was asked for."""
        return self._host, self._port


class _Connection(asyncio.Protocol):
    """One client: a request, its answer, and the lingering close of RFC 9112 9.6."""

    def __init__(self, server: _Server) -> None:
        self._server = server
        self._receiver = RequestReceiver(self, server.limits.http)
        self._loop = asyncio.get_running_loop()
        self._deadline = self._loop.time() + server.limits.timeout
        self._making: asyncio.Task[None] | None = None
        self._answered = False
        self._discarded = 0

    # -- what the event loop calls ------------------------------------------------------------------------------------

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Is one of those that are open, in the place of the oldest where there are too many."""
        self._transport = cast("asyncio.Transport", transport)
        self._timer = self._loop.call_at(self._deadline, self._expire)
        server = self._server
        if server.closed:  # after it was accepted
            self._transport.abort()
            return
        if len(server.open) >= server.limits.connections:
            # Probes ask and go. Whoever has been here longest is not one, and must not keep them out.
            server.messages.warning("an admin or health connection was one too many: the oldest is closed")
            next(iter(server.open)).give_way()
        server.open[self] = None

    def give_way(self) -> None:
        """Ends at once, for another connection."""
        self._server.open.pop(self, None)
        self._transport.abort()

    def data_received(self, data: bytes) -> None:
        """Reads the request; what follows it is thrown away."""
        if self._answered or self._making is not None:
            self._discard(len(data))
            return
        try:
            self._receiver.feed(data)
        except HttpError as error:
            self._answer(Answer.of({"error": str(error.code)}, error.status))

    def eof_received(self) -> None:
        """The client has closed its side: the loop flushes what is unsent and closes ours. It waits for nothing more."""

    def connection_lost(self, exc: Exception | None) -> None:  # noqa: ARG002 - asyncio's signature; why does not matter
        """The connection is gone."""
        self._server.open.pop(self, None)
        self._receiver.stop()
        self._timer.cancel()
        if self._making is not None:
            self._making.cancel()

    # -- what the receiver calls --------------------------------------------------------------------------------------

    def on_request(self, head: RequestHead) -> None:
        """Answers; nothing after the head is looked at."""
        self._receiver.stop()
        if head.framing is Framing.CHUNKED or head.length:
            self._answer(Answer.of({"error": "content_not_expected"}, 413))
            return
        try:
            found, allow = answer(self._server.routes, head.method, head.path)
        except Exception as error:  # noqa: BLE001 - a question that cannot be answered must not end the connection unheard
            found, allow = self._failed(error), b""
        if isinstance(found, Later):
            self._begin(found, head_only=head.method == b"HEAD")
        else:
            self._answer(found, allow, head_only=head.method == b"HEAD")

    def on_data(self, data: bytes) -> None:
        """Never called: the receiver is stopped at the head."""

    def on_end(self, trailers: list[Field]) -> None:
        """Never called: the receiver is stopped at the head."""

    # -- the answer and the end ---------------------------------------------------------------------------------------

    def close(self) -> None:
        """Ends the connection; an answer that was given still leaves."""
        if self._answered:
            self._transport.close()
        else:
            self._transport.abort()

    def _begin(self, later: Later, *, head_only: bool) -> None:
        """Has an answer made; should that hang, the connection ends all the same."""
        limits = self._server.limits
        self._deadline = self._loop.time() + limits.answer_seconds + limits.timeout
        self._timer.cancel()
        self._timer = self._loop.call_at(self._deadline, self._expire)
        self._making = spawn(self._make(later, head_only=head_only), name="admin-answer")

    async def _make(self, later: Later, *, head_only: bool) -> None:
        limit = asyncio.timeout(self._server.limits.answer_seconds)
        try:
            async with limit:
                found = await later.make()
        except Exception as error:  # noqa: BLE001 - as in on_request
            late = isinstance(error, TimeoutError) and limit.expired()
            found = Answer.of({"error": "timeout"}, 503) if late else self._failed(error)
        if not self._transport.is_closing():
            self._answer(found, head_only=head_only)

    def _failed(self, error: Exception) -> Answer:
        self._loop.call_exception_handler({"message": "an admin request failed", "exception": error, "where": "admin"})
        return Answer.of({"error": "internal"}, 500)

    def _answer(self, found: Answer, allow: bytes = b"", *, head_only: bool = False) -> None:
        self._answered = True
        extra = b"Date: %b\r\nCache-Control: no-store\r\nX-Content-Type-Options: nosniff\r\n" % self._date()
        if allow:
            extra += b"Allow: %b\r\n" % allow
        self._transport.write(
            error_response(
                found.status, found.body, found.content_type.encode("ascii"), head_only=head_only, extra=extra
            )
        )
        self._transport.write_eof()
        self._timer.cancel()
        self._timer = self._loop.call_later(self._server.limits.linger_seconds, self._expire)

    def _discard(self, size: int) -> None:
        self._discarded += size
        if self._discarded > self._server.limits.linger_bytes:
            self._transport.abort()

    def _expire(self) -> None:
        if self._transport.get_write_buffer_size() and self._loop.time() < self._deadline:
            # A long answer to a slow reader: it has what is left of the time.
            self._timer = self._loop.call_at(self._deadline, self._expire)
        else:
            self._transport.abort()

    def _date(self) -> bytes:
        """RFC 9110 5.6.7; not by strftime, whose names follow the locale."""
        t = time.gmtime(self._server.clock.wall())
        day = f"{_DAYS[t.tm_wday]}, {t.tm_mday:02d} {_MONTHS[t.tm_mon - 1]} {t.tm_year:04d}"
        return f"{day} {t.tm_hour:02d}:{t.tm_min:02d}:{t.tm_sec:02d} GMT".encode("ascii")

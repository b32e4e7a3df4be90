"""A bound address: accepts connections for whichever service holds it now, and refuses more than the limits allow."""

from __future__ import annotations

import socket
from typing import TYPE_CHECKING, Any, Generic, TypeAlias, TypeVar

from sidecar.accept import Acceptor
from sidecar.proxy import account
from sidecar.proxy.binding import Binding
from sidecar.proxy.connection import Connection, Entry
from sidecar.proxy.failure import BindCode, BindError, ProxyCode, StrangerError
from sidecar.proxy.stream import format_address

if TYPE_CHECKING:
    import asyncio

    from sidecar.errors import SidecarError
    from sidecar.identity.spiffe import SpiffeId
    from sidecar.proxy.downstream import Downstream
    from sidecar.proxy.hub import Hub
    from sidecar.proxy.stream import Stream

S = TypeVar("S", bound=Entry)

#: Connections that the kernel may complete before we accept them.
BACKLOG = 1024


def bind(host: str, port: int) -> socket.socket:
    """Binds an address without listening on it yet, so that all addresses can be tried before one opens.

    Raises:
        BindError: the address is in use, not ours, or not allowed; the message says what to change.

    """
    text = format_address((host, port))
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    sock: socket.socket | None = None
    try:
        # Named, or asyncio does not see that what it accepts is TCP, and leaves the delay of small writes on.
        sock = socket.socket(family, socket.SOCK_STREAM, socket.IPPROTO_TCP)
        sock.setblocking(False)
        # A restart need not wait for the old connections' TIME_WAIT; on Linux a live listener still refuses this.
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if family == socket.AF_INET6:
            sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        sock.bind((host, port))
    except OSError as error:
        if sock is not None:
            sock.close()
        code = BindCode.of(error)
        raise BindError(code, f"cannot listen on {text}: {error.strerror or error}", hint=code.hint) from error
    return sock


def listen(sock: socket.socket, backlog: int = BACKLOG) -> None:
    """Lets the kernel complete connections to a bound address. Raises BindError where another process listens there."""
    try:
        sock.listen(backlog)
    except OSError as error:
        code = BindCode.of(error)
        text = format_address(sock.getsockname())
        raise BindError(code, f"cannot listen on {text}: {error.strerror}", hint=code.hint) from error


class Listener(Generic[S]):
    """One bound address. A reload replaces ``service``, perhaps by one of another kind; the socket stays."""

    def __init__(self, hub: Hub, service: S, bound: Binding | socket.socket) -> None:
        """Takes a bound socket, which is its own from now on."""
        self.hub = hub
        self.service = service
        self._bound = bound if isinstance(bound, Binding) else Binding(bound)
        self._sock = self._bound.sock
        self.address = format_address(self._sock.getsockname())
        self._acceptor: Acceptor | None = None
        #: No longer accepts: the configuration has no such entry any more, or the process is ending.
        self.stopped = False

    async def start(self) -> None:
        """Begins to accept.

        Raises:
            BindError: another process listens on the address all the same, or the kernel would not tell whose clients come.

        """
        hub = self.hub
        try:
            self._bound.allow(self.service.uids or ())
            self._sock.listen(BACKLOG)
            self._try_out()
        except OSError as error:
            self._bound.close()
            code = BindCode.of(error)
            raise BindError(code, f"cannot listen on {self.address}: {error.strerror}", hint=code.hint) from error
        self._acceptor = Acceptor(
            hub.loop,
            self._sock,
            self._take,
            messages=hub.messages,
            failed=hub.metrics.accept_failed,
            address=self.address,
        )
        self._acceptor.start()

    def _try_out(self) -> None:
        """Raises BindError where the service has to know whose its clients are, and the kernel would not tell."""
        if self.service.uids is None:
            return
        try:
            self.hub.clients.try_out(self._sock, self.service.uids)
        except BindError:
            self._bound.close()
            raise
        except OSError as error:
            self._bound.close()
            code = BindCode.UIDS_UNKNOWN
            text = f"the kernel does not say whose the clients of {self.address} are: {error.strerror or error}"
            raise BindError(code, text, hint=code.hint) from error

    def stop(self) -> None:
        """Stops accepting; open connections go on."""
        self.stopped = True
        self._bound.remove()
        if self._acceptor is not None:
            self._acceptor.close()
        else:
            self._bound.close()

    def replace(self, service: S) -> None:
        """Serves by another configuration from now on; connections that are open are reviewed by whoever calls."""
        self.service = service
        try:
            self._bound.allow(service.uids or ())
        except OSError as error:
            # Whoever may connect now, `admit` looks at who it is.
            self.hub.messages.error("a socket keeps its mode", address=self.address, error=error.strerror)

    # -- what connections call ----------------------------------------------------------------------------------------

    def stream(self, user: object) -> Stream:
        """Makes the stream of a new connection."""
        return self.service.stream(user)

    def connected(self, connection: Connection) -> None:
        """Enters a connection into the registry. Many are accepted in one turn, so the limits are looked at again.

        A reload between accepting and this can have made the entry one of another kind: such a connection is let go.
        """
        hub = self.hub
        hub.connections.add(connection)
        hub.open[self.service.direction] += 1
        hub.metrics.connections.labels(self.service.direction).inc()
        code = self._excess()
        if self.stopped or connection.kind is not self.service.kind:
            connection.stream.abort()
        elif code is not None:
            self.limited(connection.stream.remote, code)
            connection.stream.abort()
        elif not self.serves(connection):  # a reload came after it was accepted
            self.refused(connection, StrangerError(ProxyCode.UID_NOT_ALLOWED, connection.stream.client))
            connection.stream.abort()

    def serves(self, connection: Connection) -> bool:
        """Whether whoever is at the other end of an open connection is somebody that the service serves by now."""
        client, uids = connection.stream.client, self.service.uids
        return client is None or uids is None or client.uid in uids

    def opened(self, connection: Connection) -> ProxyCode | None:
        """A connection is ready; its peer is proven where the service asks for one. Returns why it cannot stay."""
        connection.peer = peer = connection.stream.peer
        if peer is None:
            return None
        callers = self.hub.callers
        callers[peer.id] = count = callers.get(peer.id, 0) + 1
        return ProxyCode.LIMIT_CONNECTIONS_PER_CALLER if count > self.hub.limits.connections_per_caller else None

    def refused(self, connection: Connection, error: SidecarError) -> None:
        """A handshake failed, or a reload came between accepting and this."""
        account.refused(self.hub, self.service, connection.stream.remote, error, connection.stream.client)

    def rejected(self, connection: Downstream, status: int, code: str) -> None:
        """Bytes that are no acceptable request were answered and the connection closes."""
        account.rejected(self.hub, connection.service, connection, status, code)

    def limited(self, remote: str, code: ProxyCode) -> None:
        """A connection was one too many."""
        account.limited(self.hub, self.service, remote, code)

    def one_too_many(self, connection: Downstream, code: ProxyCode) -> None:
        """A connection of a proven caller was."""
        account.one_too_many(self.hub, connection.listener.service, connection, code)

    def lost(self, connection: Connection) -> None:
        """A connection is gone."""
        if connection.peer is not None:
            self._leave(connection.peer.id)
        self.hub.connections.discard(connection)
        self.hub.open[self.service.direction] -= 1
        self.hub.metrics.connections.labels(self.service.direction).dec()

    # -- inside -------------------------------------------------------------------------------------------------------

    def _take(self, sock: socket.socket, address: object) -> asyncio.Protocol | None:
        """Makes what serves a connection; None for one too many, or of a stranger, which costs no more than this."""
        code = self._excess(one_more=1)
        if code is not None:
            self.limited(format_address(address), code)
            return None
        uids = self.service.uids
        try:
            # Before anything is made for it, and a byte of it read.
            client = None if uids is None else self.hub.clients.admit(sock, uids)
        except StrangerError as error:
            account.refused(self.hub, self.service, format_address(address), error, error.client)
            return None
        stream = self._accept()
        stream.client = client
        return stream

    def _accept(self) -> Stream:
        return self.service.connection(self).stream

    def _leave(self, caller: SpiffeId) -> None:
        callers = self.hub.callers
        callers[caller] -= 1
        if not callers[caller]:
            del callers[caller]

    def _excess(self, *, one_more: int = 0) -> ProxyCode | None:
        hub = self.hub
        # Each direction has its own, so that callers cannot keep the agent from its own listener.
        if hub.open[self.service.direction] + one_more > hub.limits.connections:
            return ProxyCode.LIMIT_CONNECTIONS
        return None


#: A listener of whichever kind its entry is at the moment.
AnyListener: TypeAlias = Listener[Any]

"""A server of bytes in threads, and tunnels of whole processes in front of it.

The server is also for interpreters that lack what whole processes need.
"""

from __future__ import annotations

import contextlib
import hashlib
import socket
import socketserver
import struct
import threading
from typing import TYPE_CHECKING, Any, Self

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.support.processes import Sidecar, Site

    Conversation = Callable[[socket.socket], None]

LOOPBACK = "127.0.0.1"
#: What SO_LINGER takes to make the end of a socket a reset.
RESET = struct.pack("ii", 1, 0)
SECONDS = 20


def echo(sock: socket.socket) -> None:
    """Sends back what comes, and ends when the other side has."""
    while data := sock.recv(65536):
        sock.sendall(data)
    sock.shutdown(socket.SHUT_WR)


def digest(sock: socket.socket) -> None:
    """Reads to the end, and answers with the SHA-256 of it all."""
    found = hashlib.sha256()
    while data := sock.recv(65536):
        found.update(data)
    sock.sendall(found.hexdigest().encode())
    sock.shutdown(socket.SHUT_WR)


def farewell(sock: socket.socket) -> None:
    """Speaks first, ends first, and then reads what the other side has to say."""
    sock.sendall(b"welcome and goodbye")
    sock.shutdown(socket.SHUT_WR)
    data = b""
    while piece := sock.recv(65536):
        data += piece
    assert data


def vanish(sock: socket.socket) -> None:
    """Says half of something, waits for a word, and is gone."""
    sock.sendall(b"half of someth")
    sock.recv(1)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET)
    sock.close()


class Raw:
    """Use as a context manager. Every connection has its conversation in a thread of its own."""

    def __init__(self, conversation: Conversation = echo) -> None:
        self.conversation = conversation
        self.connections = 0
        #: How conversations have ended: "ok", or the name of what they raised.
        self.ends: list[str] = []
        self._sockets: set[socket.socket] = set()

    def __enter__(self) -> Self:
        raw = self

        class Handler(socketserver.BaseRequestHandler):
            def handle(self) -> None:
                raw._connection(self.request)

        class Server(socketserver.ThreadingTCPServer):
            allow_reuse_address = True
            daemon_threads = True
            request_queue_size = 256

        self._server = Server((LOOPBACK, 0), Handler)
        self.port: int = self._server.server_address[1]
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.02,), daemon=True)
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        for sock in list(self._sockets):
            with contextlib.suppress(OSError):
                sock.shutdown(socket.SHUT_RDWR)
        self._server.server_close()
        self._thread.join()

    def _connection(self, sock: socket.socket) -> None:
        self.connections += 1
        self._sockets.add(sock)
        try:
            self.conversation(sock)
        except (OSError, AssertionError) as error:
            self.ends.append(type(error).__name__)
        else:
            self.ends.append("ok")
        finally:
            self._sockets.discard(sock)


def connect(port: int) -> socket.socket:
    """Connects as an agent does."""
    return socket.create_connection((LOOPBACK, port), timeout=SECONDS)


def agent(site: Site, planner: Sidecar) -> socket.socket:
    """The agent behind an outbound listener; closed when the site ends."""
    sock = connect(planner.port("outbound"))
    site.owns(sock.close)
    return sock


def read_all(sock: socket.socket) -> bytes:
    """Reads to the end; a reset raises ConnectionResetError."""
    data = b""
    while piece := sock.recv(65536):
        data += piece
    return data


def exactly(sock: socket.socket, size: int) -> bytes:
    """Reads so many bytes."""
    data = b""
    while len(data) < size:
        piece = sock.recv(size - len(data))
        assert piece, f"the connection ended after {data!r}"
        data += piece
    return data


def talks(sock: socket.socket, word: bytes = b"hello") -> None:
    """Says a word to an echo and hears it."""
    sock.sendall(word)
    assert exactly(sock, len(word)) == word


def was_reset(sock: socket.socket) -> bool:
    """Says whether a connection ends by a reset, whatever came before it."""
    try:
        read_all(sock)
    except ConnectionResetError:
        return True
    return False


def turned_away(planner: Sidecar) -> bool:
    """Says whether a new connection of the agent ends by a reset, perhaps before it knows that it is one."""
    try:
        with connect(planner.port("outbound")) as sock:
            return was_reset(sock)
    except ConnectionResetError:
        return True


def tunnels(sidecar: Sidecar) -> list[dict[str, Any]]:
    """What the admin socket shows of the live connections."""
    shown: list[dict[str, Any]] = sidecar.ask("/connections").json["connections"]
    return shown


def server(site: Site, conversation: Conversation = echo) -> Raw:
    """A server of bytes that ends with the site."""
    raw = Raw(conversation).__enter__()
    site.owns(raw.__exit__)
    return raw


def into(name: str, port: int, caller: str) -> dict[str, Any]:
    """An inbound entry that carries connections of that caller to a local port."""
    from tests.support.processes import inbound

    return inbound(name, port, [{"caller": caller}]) | {"forward": f"tcp://{LOOPBACK}:{port}"}


def out_to(name: str, port: int) -> dict[str, Any]:
    """An outbound entry that carries connections to the tools' sidecar at that port."""
    from tests.support.processes import outbound

    entry = outbound(name, port, protocol="tcp")
    del entry["hosts"]
    return entry


def tools(site: Site, raw: Raw | int, **parts: Any) -> Sidecar:
    """The sidecar of the agent that is called; its entry is a tunnel, for the planner."""
    from tests.support.processes import PLANNER

    port = raw if isinstance(raw, int) else raw.port
    return site.sidecar("tools", **{"inbound": [into("tools", port, PLANNER)]} | parts)


def planner(site: Site, to: Sidecar | int, **parts: Any) -> Sidecar:
    """The sidecar of the agent that calls; its entry is a tunnel."""
    port = to if isinstance(to, int) else to.port()
    return site.sidecar("planner", **{"outbound": [out_to("tools", port)]} | parts)


def pair(site: Site, raw: Raw, **parts: Any) -> tuple[Sidecar, Sidecar]:
    """Both of them, started: (planner, tools). ``parts`` are of both."""
    called = tools(site, raw, **parts).launch()
    calling = planner(site, called, **parts).start()
    called.await_ready()
    return calling, called

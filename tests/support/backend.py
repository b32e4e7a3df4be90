"""A plaintext server in threads: stands where an agent or its tools stand, and keeps every byte of what it was asked.

What it answers is in the path, so that one backend can serve a whole module:

    /bytes/<n>  that many bytes             /sink   a JSON object with size and SHA-256 of the body
    /hold/...   answers when `release` is called   /events  server-sent events, one for each `emit`
    /early      hangs up after half a body         /hints/<n>  that many interim responses, then ``hello``
    anything else  ``hello``
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import queue
import socket
import socketserver
import threading
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, BinaryIO, Self

from tests.support.eventually import eventually

if TYPE_CHECKING:
    from collections.abc import Iterator

LOOPBACK = "127.0.0.1"
#: How long a held request waits for its test, in seconds.
PATIENCE = 30.0
EVENTS = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n"


@dataclass(frozen=True)
class Received:
    """One request as it came."""

    head: bytes
    size: int
    digest: str
    trailers: bytes = b""

    @property
    def line(self) -> str:
        return self.head.split(b"\r\n", 1)[0].decode("latin-1")

    @property
    def method(self) -> str:
        return self.line.split(" ")[0]

    @property
    def path(self) -> str:
        return self.line.split(" ")[1]

    def fields(self, name: str) -> list[str]:
        """The values of every field of that name, in order; names are compared without case."""
        lines = self.head.decode("latin-1").split("\r\n")[1:]
        pairs = (line.partition(":") for line in lines if line)
        return [value.strip() for key, _, value in pairs if key.lower() == name.lower()]


@dataclass
class Backend:
    """Use as a context manager. `port` is where it listens: at ``fixed_port``, where one is given."""

    fixed_port: int = 0
    requests: list[Received] = field(default_factory=list)
    #: Requests that wait for `release` at this moment.
    waiting: int = 0
    #: Connections of `/events` whose client has gone away.
    abandoned: int = 0
    #: Connections that are open at this moment, and those there ever were.
    open: int = 0
    connections: int = 0

    def __enter__(self) -> Self:
        self._lock = threading.Lock()
        self._gate = threading.Event()
        self._ended = threading.Event()
        self._streams: list[queue.SimpleQueue[bytes | None]] = []
        self._sockets: set[socket.socket] = set()
        backend = self

        class Handler(socketserver.StreamRequestHandler):
            def handle(self) -> None:
                backend._connection(self.request, self.rfile)

        class Server(socketserver.ThreadingTCPServer):
            allow_reuse_address = True
            daemon_threads = True
            request_queue_size = 256

        self._server = Server((LOOPBACK, self.fixed_port), Handler)
        self.port: int = self._server.server_address[1]
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.02,), daemon=True)
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ended.set()
        self._gate.set()
        for stream in self._streams:
            stream.put(None)
        self._server.shutdown()
        with self._lock:
            for sock in self._sockets:
                with contextlib.suppress(OSError):
                    sock.shutdown(socket.SHUT_RDWR)
        self._server.server_close()
        self._thread.join()

    # -- what tests call ------------------------------------------------------------------------------------------

    def of(self, path: str) -> list[Received]:
        """The requests of that path, without its query."""
        return [request for request in self.requests if request.path.partition("?")[0] == path]

    def await_held(self, count: int = 1) -> None:
        """Returns when that many requests are being held."""
        eventually(lambda: self.waiting >= count, f"{count} requests to be held")

    def release(self) -> None:
        """Lets everything go that is held now; later requests are held again."""
        gate, self._gate = self._gate, threading.Event()
        gate.set()

    def emit(self, data: str) -> None:
        """Sends one event to every stream."""
        for stream in self._streams:
            stream.put(f"data: {data}\n\n".encode())

    def end_streams(self) -> None:
        """Ends every stream of events in order."""
        for stream in self._streams:
            stream.put(None)

    @property
    def streams(self) -> int:
        return len(self._streams)

    # -- inside ---------------------------------------------------------------------------------------------------

    def _connection(self, sock: socket.socket, source: BinaryIO) -> None:
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        with self._lock:
            self._sockets.add(sock)
            self.connections += 1
            self.open += 1
        try:
            while (head := _read_head(source)) is not None:
                self._answer(sock, source, head)
        except (OSError, ValueError):
            return  # the proxy hung up, or the test is over: what arrived is kept
        finally:
            with self._lock:
                self._sockets.discard(sock)
                self.open -= 1

    def _answer(self, sock: socket.socket, source: BinaryIO, head: bytes) -> None:
        if b"\r\nexpect: 100-continue" in head.lower():
            sock.sendall(b"HTTP/1.1 100 Continue\r\n\r\n")
        digest, size = hashlib.sha256(), 0
        trailers: list[bytes] = []
        for piece in _body(head, source, trailers):
            digest.update(piece)
            size += len(piece)
        request = Received(head, size, digest.hexdigest(), b"".join(trailers))
        with self._lock:
            self.requests.append(request)
        path = request.path.partition("?")[0]
        if path.startswith("/hold"):
            self._hold()
        if path == "/events":
            self._events(sock)
        elif path == "/early":
            sock.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nhalf")
            raise OSError("as asked")
        elif path.startswith("/hints/"):
            sock.sendall(b"HTTP/1.1 103 Early Hints\r\n\r\n" * int(path.removeprefix("/hints/")))
            _respond(sock, request.method, b"hello\n", "text/plain")
        elif path.startswith("/bytes/"):
            _respond(sock, request.method, b"x" * int(path.removeprefix("/bytes/")), "application/octet-stream")
        elif path == "/sink":
            said = json.dumps({"size": size, "sha256": request.digest}).encode()
            _respond(sock, request.method, said, "application/json")
        else:
            _respond(sock, request.method, b"hello\n", "text/plain")

    def _hold(self) -> None:
        with self._lock:
            gate = self._gate
            self.waiting += 1
        gate.wait(PATIENCE)
        with self._lock:
            self.waiting -= 1
        if self._ended.is_set():
            raise OSError("the test is over")

    def _events(self, sock: socket.socket) -> None:
        stream: queue.SimpleQueue[bytes | None] = queue.SimpleQueue()
        stream.put(b"")  # before anybody can emit: the head
        watch = threading.Thread(target=self._watch, args=(sock, stream), daemon=True)
        watch.start()
        self._streams.append(stream)
        try:
            while (event := stream.get()) is not None:
                sock.sendall(b"%x\r\n%b\r\n" % (len(event), event) if event else EVENTS)
            sock.sendall(b"0\r\n\r\n")
        finally:
            self._streams.remove(stream)

    def _watch(self, sock: socket.socket, stream: queue.SimpleQueue[bytes | None]) -> None:
        """Notices that nobody reads the events any more."""
        with contextlib.suppress(OSError):
            if sock.recv(1, socket.MSG_PEEK):
                return
        with self._lock:
            self.abandoned += 1
        stream.put(None)


def _read_head(source: BinaryIO) -> bytes | None:
    head = b""
    while not head.endswith(b"\r\n\r\n"):
        line = source.readline(65536)
        if not line:
            return None
        head += line
    return head


def _body(head: bytes, source: BinaryIO, trailers: list[bytes]) -> Iterator[bytes]:
    """The request's body in pieces, chunks undone; its trailers are appended."""
    fields = head.lower()
    if b"\r\ntransfer-encoding: chunked" in fields:
        while size := int(source.readline().split(b";")[0], 16):
            yield from _exactly(source, size)
            source.readline()
        while (line := source.readline()) not in {b"\r\n", b""}:
            trailers.append(line)
    elif b"\r\ncontent-length: " in fields:
        yield from _exactly(source, int(fields.split(b"\r\ncontent-length: ")[1].split(b"\r\n")[0]))


def _exactly(source: BinaryIO, size: int) -> Iterator[bytes]:
    while size:
        piece = source.read(min(size, 65536))
        if not piece:
            raise OSError("the body was cut")
        size -= len(piece)
        yield piece


def _respond(sock: socket.socket, method: str, body: bytes, kind: str) -> None:
    head = f"HTTP/1.1 200 OK\r\nContent-Type: {kind}\r\nContent-Length: {len(body)}\r\n\r\n".encode()
    sock.sendall(head if method == "HEAD" else head + body)

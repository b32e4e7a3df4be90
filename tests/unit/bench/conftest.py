"""What the benchmark's tests share: a place to start things in, and servers to talk to."""

from __future__ import annotations

import os
import socketserver
import ssl
import threading
from contextlib import suppress
from typing import TYPE_CHECKING, Any

import pytest

from bench.certificates import PEER, Certificates
from bench.load.tls import SSLContext
from bench.processes import Crew
from bench.site import Site

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

HELLO = b"HTTP/1.1 200 OK\r\ncontent-length: 13\r\n\r\nhello, world\n"


class Handler(socketserver.StreamRequestHandler):
    """Answers every request with what the server was told to answer, then closes if it was told to."""

    def handle(self) -> None:
        server: Any = self.server
        while self.rfile.readline().strip():
            head = b"".join(iter(self.rfile.readline, b"\r\n"))
            self.wfile.write(server.answer)
            if server.closes or b"close" in head:
                return


class Server(socketserver.ThreadingTCPServer):
    """On a port of its own; with a context over TLS. Handshakes are done in the threads."""

    allow_reuse_address = True
    daemon_threads = True

    def __init__(self, answer: bytes, *, closes: bool, context: SSLContext | None) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.answer, self.closes, self.context = answer, closes, context

    @property
    def port(self) -> int:
        return int(self.server_address[1])

    def finish_request(self, request: Any, client_address: Any) -> None:
        if self.context is None:
            super().finish_request(request, client_address)
            return
        with suppress(OSError), self.context.wrap_socket(request, server_side=True) as secured:
            super().finish_request(secured, client_address)
            secured.unwrap()


@pytest.fixture
def serve() -> Iterator[Callable[..., Server]]:
    """Starts servers that end with the test."""
    servers: list[Server] = []

    def start(answer: bytes = HELLO, *, closes: bool = False, context: SSLContext | None = None) -> Server:
        server = Server(answer, closes=closes, context=context)
        servers.append(server)
        threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
        return server

    yield start
    for server in servers:
        server.shutdown()
        server.server_close()


@pytest.fixture(scope="session")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> Certificates:
    return Certificates.make(tmp_path_factory.mktemp("certificates") / "made")


@pytest.fixture
def accepting(certificates: Certificates) -> SSLContext:
    """The accepting side: demands a certificate of our authority."""
    context = SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificates.certificate(PEER), certificates.key(PEER))
    context.load_verify_locations(certificates.authority)
    context.verify_mode = ssl.CERT_REQUIRED
    return context


@pytest.fixture
def crew(tmp_path: Path) -> Iterator[Crew]:
    """Processes of one test, all on one core, ended with it."""
    core = min(os.sched_getaffinity(0))
    with Crew(tmp_path, core, core) as made:
        yield made


@pytest.fixture
def site(crew: Crew, certificates: Certificates) -> Site:
    return Site(crew, certificates)

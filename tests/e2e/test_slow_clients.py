"""Ensures that a caller who sends or reads a byte at a time is closed by a limit, and that the others do not feel it.

Slow heads and bodies are answered 408; whoever does not read what it asked for is reset, and its upstream was paused long
before. What the proxy holds for all of them stays small.
"""

from __future__ import annotations

import os
import select
import socket
import ssl
import statistics
import threading
import time
from typing import TYPE_CHECKING, Self

import pytest

from tests.support.eventually import eventually
from tests.support.processes import LOOPBACK, ask
from tests.support.resources import MIB, resident

if TYPE_CHECKING:
    import http.client
    from collections.abc import Iterable

    from tests.support.backend import Backend
    from tests.support.processes import Sidecar, Site

#: Slow callers at once.
CROWD = 500 if os.environ.get("SIDECAR_SOAK") else 40
#: Seconds between two bytes of theirs.
PAUSE = 0.2
HEAD = b"GET /slow HTTP/1.1\r\nHost: localhost\r\n" + b"X: " + b"a" * 4000
BODY = b"POST /sink HTTP/1.1\r\nHost: localhost\r\nContent-Length: 100000\r\n\r\n"


class Drip(threading.Thread):
    """Sends a byte on each of many connections now and then, and keeps what comes back. Use as a context manager."""

    def __init__(self, sockets: Iterable[ssl.SSLSocket], first: bytes, then: bytes) -> None:
        super().__init__(daemon=True)
        self.open = list(sockets)
        self.answers: list[bytes] = []
        self._then = then
        self._over = threading.Event()
        for sock in self.open:
            sock.sendall(first)

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self.join()
        for sock in self.open:
            sock.close()

    def run(self) -> None:
        sent = 0
        while not self._over.wait(PAUSE) and self.open:
            ready, _, _ = select.select(self.open, [], [], 0)
            for sock in ready:
                self.open.remove(sock)
                self.answers.append(_rest(sock))
                sock.close()
            for sock in self.open:
                try:
                    sock.sendall(self._then[sent : sent + 1])
                except OSError:
                    continue  # its answer is there, and is read in the next round
            sent += 1


def _rest(sock: ssl.SSLSocket) -> bytes:
    found = b""
    try:
        while data := sock.recv(65536):
            found += data
    except OSError:
        pass  # closed without more
    return found


def crowd(site: Site, tools: Sidecar, count: int = CROWD) -> list[ssl.SSLSocket]:
    return [connected(site, tools) for _ in range(count)]


def connected(site: Site, tools: Sidecar) -> ssl.SSLSocket:
    connection = site.caller(tools.port())
    connection.connect()
    assert isinstance(connection.sock, ssl.SSLSocket)
    return connection.sock


def seconds_of(connection: http.client.HTTPConnection, count: int) -> list[float]:
    """How long each of so many requests took, one after the other."""
    found = []
    for _ in range(count):
        began = time.perf_counter()
        assert ask(connection, "GET", "/quick").status == 200
        found.append(time.perf_counter() - began)
    return found


@pytest.mark.soak
@pytest.mark.threat(45)
@pytest.mark.parametrize(
    ("first", "then", "limit"),
    [(HEAD[:1], HEAD[1:], "head_timeout"), (BODY, b"x" * 1000, "stall_timeout")],
    ids=["heads", "bodies"],
)
def test_threat_45_slow_senders_are_answered_408_and_the_others_are_as_quick_as_before(
    site: Site, backend: Backend, first: bytes, then: bytes, limit: str
) -> None:
    limits = {"head_timeout": "1500ms", "stall_timeout": "1500ms", "min_rate": "100B"}
    tools = site.tools(backend, limits=limits).start()
    quick = site.caller(tools.port())
    before = statistics.median(seconds_of(quick, 200))
    began = time.monotonic()
    with Drip(crowd(site, tools), first, then) as drip:
        meanwhile = statistics.median(seconds_of(quick, 200))
        eventually(lambda: not drip.open, "the slow ones to be closed", 60)
        took = time.monotonic() - began
        answers = drip.answers
    assert len(answers) == CROWD
    assert {answer.split(b"\r\n")[0] for answer in answers} == {b"HTTP/1.1 408 Request Timeout"}
    assert all(f"limit_{limit}".encode() in answer for answer in answers)
    assert took < 30
    assert meanwhile < 2 * before + 0.02, (before, meanwhile)
    tools.await_log(CROWD, event="request", http_status=408, error=f"limit_{limit}")
    assert tools.metric("limit_hits_total", limit=limit) == CROWD
    assert not backend.of("/slow"), "half a head is no request"
    assert not backend.of("/sink"), "half a body is no request"


@pytest.mark.soak
@pytest.mark.threat(45, 48)
def test_threats_45_48_whoever_does_not_read_is_reset_and_costs_little_memory(site: Site, backend: Backend) -> None:
    """The answer is 16 MiB for each of them; the backend gets rid of a small part of that, and waits."""
    tools = site.tools(backend, limits={"stall_timeout": "1500ms", "min_rate": "1KiB"}).start()
    quick = site.caller(tools.port())
    seconds_of(quick, 50)
    before = resident(tools)
    readers = crowd(site, tools, 20)
    for sock in readers:
        sock.sendall(b"GET /bytes/%d HTTP/1.1\r\nHost: localhost\r\n\r\n" % (16 * MIB))
    eventually(lambda: len(backend.of(f"/bytes/{16 * MIB}")) == len(readers), "all of them to be asked for")
    seconds_of(quick, 50)
    # Of each: what lies unsent towards it, and one read of the upstream.
    assert resident(tools, "VmHWM") - before < 20 * 512 * 1024 + 8 * MIB
    lines = tools.await_log(len(readers), event="request", error="limit_stall_timeout")
    assert all(line["bytes_sent"] < 8 * MIB for line in lines)
    assert tools.metric("limit_hits_total", limit="stall_timeout") == len(readers)
    eventually(lambda: backend.open <= 1, "the backend's connections to be let go")
    assert ask(quick, "GET", "/after").status == 200


@pytest.mark.threat(48)
def test_threat_48_a_stream_whose_client_is_gone_or_dead_ends_at_the_backend_too(site: Site, backend: Backend) -> None:
    """One closes its connection, the other stops reading: events are small, so it is noticed when buffers are full."""
    tools = site.tools(backend, limits={"stall_timeout": "1s", "min_rate": "1KiB"}).start()
    gone, dead = connected(site, tools), connected(site, tools)
    for sock in (gone, dead):
        sock.sendall(b"GET /events HTTP/1.1\r\nHost: localhost\r\n\r\n")
    eventually(lambda: backend.streams == 2, "both streams")
    before = resident(tools)
    gone.close()
    eventually(lambda: backend.abandoned == 1, "the backend to hear of it")

    def ended() -> bool:
        backend.emit("x" * 65536)
        return backend.abandoned == 2

    eventually(ended, "the dead one to be found out")
    tools.await_log(event="request", error="client_closed")
    tools.await_log(event="request", error="limit_stall_timeout")
    assert resident(tools, "VmHWM") - before < 16 * MIB
    with socket.create_connection((LOOPBACK, tools.port()), timeout=5):
        assert ask(site.caller(tools.port()), "GET", "/after").status == 200

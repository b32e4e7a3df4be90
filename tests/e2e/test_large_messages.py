"""Ensures that what is too large is refused by name and what is merely much costs time in proportion, and no memory.

Bodies that are larger than memory is meant for pass through in `test_bodies.py`.
"""

from __future__ import annotations

import os
import threading
from contextlib import suppress
from typing import TYPE_CHECKING

import pytest

from tests.support.eventually import eventually
from tests.support.processes import ask
from tests.support.raw import connect, server
from tests.support.resources import MIB, cpu_seconds, resident

if TYPE_CHECKING:
    import socket

    from tests.support.backend import Backend
    from tests.support.processes import Site

SOAK = bool(os.environ.get("SIDECAR_SOAK"))
CHUNKS = 1_000_000 if SOAK else 100_000
#: Bytes to a backend that takes its time.
LARGE = (1024 if SOAK else 64) * MIB
START = b"GET /large HTTP/1.1\r\nHost: localhost\r\n"


def answer_to(sock: socket.socket, request: bytes) -> bytes:
    """Sends what it can and returns what comes back before the connection ends."""
    with suppress(ConnectionError):  # it may have heard enough: the answer is there
        sock.sendall(request)
    found = b""
    while data := sock.recv(65536):
        found += data
    return found


@pytest.mark.threat(47)
@pytest.mark.parametrize(
    ("request_head", "status", "limit"),
    [
        (START + b"X: " + b"a" * 200_000 + b"\r\n\r\n", b"431", "head_bytes"),
        (START + b"X: a\r\n" * 5_000 + b"\r\n", b"431", "fields"),
        (b"GET /" + b"a" * 100_000 + b" HTTP/1.1\r\nHost: localhost\r\n\r\n", b"414", "target_bytes"),
    ],
    ids=["a field of 200 kB", "5000 fields", "a target of 100 kB"],
)
def test_threat_47_what_is_too_large_is_refused_counted_and_logged(
    site: Site, backend: Backend, request_head: bytes, status: bytes, limit: str
) -> None:
    tools = site.tools(backend).start()
    caller = site.caller(tools.port())
    caller.connect()
    answer = answer_to(caller.sock, request_head)
    assert answer.startswith(b"HTTP/1.1 " + status)
    (line,) = tools.await_log(event="request", http_status=int(status))
    assert line["error"] in answer.decode()
    assert tools.metric("limit_hits_total", limit=limit) == 1
    assert not backend.requests
    assert ask(site.caller(tools.port()), "GET", "/next").status == 200


@pytest.mark.soak
@pytest.mark.threat(47)
def test_threat_47_a_body_in_chunks_of_one_byte_costs_time_in_proportion_and_no_memory(
    site: Site, backend: Backend
) -> None:
    tools = site.tools(backend).start()
    caller = site.caller(tools.port())

    def cost(chunks: int) -> float:
        """CPU seconds of a body of so many chunks."""
        began = cpu_seconds(tools)
        caller.request(
            "POST", "/sink", body=b"1\r\nx\r\n" * chunks + b"0\r\n\r\n", headers={"Transfer-Encoding": "chunked"}
        )
        answer = caller.getresponse()
        assert answer.status == 200
        assert b'"size": %d' % chunks in answer.read()
        return cpu_seconds(tools) - began

    cost(CHUNKS // 10)
    before = resident(tools)
    small = cost(CHUNKS // 4)
    large = cost(CHUNKS)
    assert large < 4 * small * 2 + 0.2, (small, large)
    assert resident(tools, "VmHWM") - before < 16 * MIB


@pytest.mark.soak
@pytest.mark.threat(47)
def test_threat_47_a_large_body_to_a_slow_backend_waits_with_its_sender(site: Site) -> None:
    """The backend reads nothing for a while: the sender is held up after a few buffers, and memory stays as it was."""
    gate = threading.Event()
    site.owns(gate.set)

    def slow(sock: socket.socket) -> None:
        got = 0
        gate.wait(30)
        while got < LARGE:
            piece = sock.recv(65536)
            assert piece
            got += len(piece)
        sock.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok")
        sock.recv(1)

    tools = site.tools(server(site, slow).port).start()
    planner = site.planner(tools).start()
    before = [(sidecar, resident(sidecar)) for sidecar in (tools, planner)]
    sent = 0
    with connect(planner.port("outbound")) as agent:

        def send() -> None:
            nonlocal sent
            agent.sendall(b"POST /large HTTP/1.1\r\nHost: localhost\r\nContent-Length: %d\r\n\r\n" % LARGE)
            piece = b"x" * MIB
            while sent < LARGE:
                agent.sendall(piece)
                sent += len(piece)

        sender = threading.Thread(target=send, daemon=True)
        sender.start()
        last = -1

        def held_up() -> bool:
            nonlocal last
            same, last = sent == last, sent
            threading.Event().wait(0.2)
            return same

        eventually(held_up, "the sender to be held up")
        assert 0 < sent < 32 * MIB, "kernels hold some of it"
        gate.set()
        answer = agent.recv(100)
        assert answer.startswith(b"HTTP/1.1 200 OK")
        sender.join()
    for sidecar, least in before:
        assert resident(sidecar, "VmHWM") - least < 24 * MIB

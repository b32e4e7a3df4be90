"""Ensures that an upstream which is down, silent, hanging up or slow costs a caller an answer within the limits, and no more.

502 where it refuses or resets, 504 where it does not answer in time, each logged by its code; and two seconds after it is
back at the latest requests are served again.
"""

from __future__ import annotations

import socket
import threading
import time
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING

import pytest

from tests.support.backend import Backend
from tests.support.eventually import eventually
from tests.support.processes import LOOPBACK, Pending, ask, free_port, outbound
from tests.support.raw import RESET

if TYPE_CHECKING:
    import http.client
    from collections.abc import Iterator

    from tests.support.processes import Answer, Sidecar, Site

LIMITS = {"connect_timeout": "1s", "upstream_timeout": "1s"}


def start(site: Site, port: int, **limits: str) -> Sidecar:
    return site.tools(port, limits=LIMITS | limits).start()


def asked(site: Site, tools: Sidecar, path: str) -> tuple[Answer, float]:
    """An answer and how long it took."""
    began = time.monotonic()
    return ask(site.caller(tools.port()), "GET", path), time.monotonic() - began


def is_answered(site: Site, tools: Sidecar, status: int, code: str, limit: str = "", *, within: float = 4) -> None:
    answer, seconds = asked(site, tools, "/trouble")
    assert (answer.status, answer.json["error"]) == (status, code)
    assert seconds < within
    tools.await_log(event="request", http_status=status, error=code)
    if limit:
        assert tools.metric("limit_hits_total", limit=limit) == 1


def is_back(site: Site, tools: Sidecar, backend: Backend) -> None:
    answer, seconds = asked(site, tools, "/back")
    assert answer.status == 200
    assert seconds < 2
    assert len(backend.of("/back")) == 1


@contextmanager
def listening(port: int, backlog: int = 16) -> Iterator[socket.socket]:
    with socket.socket() as sock:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        sock.bind((LOOPBACK, port))
        sock.listen(backlog)
        yield sock


@pytest.mark.threat(52)
def test_threat_52_an_upstream_that_flaps_is_served_as_soon_as_it_is_there(site: Site) -> None:
    port = free_port()
    tools = start(site, port)
    for round_ in range(5):
        answer, seconds = asked(site, tools, f"/down/{round_}")
        assert (answer.status, answer.json["error"]) == (502, "upstream_refused")
        assert seconds < 2
        with Backend(fixed_port=port) as backend:
            is_back(site, tools, backend)
    tools.await_log(5, event="request", http_status=502, error="upstream_refused")


@pytest.mark.threat(52)
def test_threat_52_an_upstream_that_dies_in_the_middle_is_502_and_the_next_request_is_served(site: Site) -> None:
    """Under load, with connections in the pool: no caller waits for long, and none hears anything but 200, 502 or a cut."""
    port = free_port()
    tools = start(site, port)
    statuses: list[int] = []
    stop = threading.Event()

    def load(caller: http.client.HTTPConnection) -> None:
        while not stop.is_set():
            statuses.append(ask(caller, "GET", "/load").status)

    callers = [site.caller(tools.port()) for _ in range(4)]
    threads = [threading.Thread(target=load, args=(caller,), daemon=True) for caller in callers]
    with Backend(fixed_port=port):
        for thread in threads:
            thread.start()
        eventually(lambda: statuses.count(200) > 50, "some load")
    eventually(lambda: 502 in statuses, "the upstream to be missed")
    with Backend(fixed_port=port):
        before = len(statuses)
        eventually(lambda: 200 in statuses[before:], "requests to be served again", 2)
        stop.set()
        for thread in threads:
            thread.join(10)
    assert set(statuses) == {200, 502}


@pytest.mark.threat(52)
def test_threat_52_an_upstream_whose_queue_is_full_is_504_within_connect_timeout(site: Site, backend: Backend) -> None:
    """As a black hole: what is sent to it gets no answer, not even a refusal."""
    port = free_port()
    with listening(port, backlog=0) as hole:
        waiting = [filler(hole.getsockname()) for _ in range(4)]
        tools = start(site, port)
        is_answered(site, tools, 504, "upstream_connect_timeout", "connect_timeout")
        for sock in waiting:
            sock.close()
    with Backend(fixed_port=port) as found:
        is_back(site, tools, found)


HUNG = """
import socket
import threading

look_up = socket.getaddrinfo


def hang(host, *more, **kind):
    if b"hung" in (host if isinstance(host, bytes) else host.encode()):
        threading.Event().wait()
    return look_up(host, *more, **kind)


socket.getaddrinfo = hang
"""


@pytest.mark.threat(52)
def test_threat_52_a_name_whose_servers_are_silent_holds_up_no_other_and_not_the_end(
    site: Site, backend: Backend
) -> None:
    """More such requests than an event loop has threads to look names up with; each ends by `connect_timeout`."""
    site.path("sitecustomize.py").write_text(HUNG)
    tools = site.tools(backend).launch()
    planner = site.planner(tools, {"connect": f"localhost:{tools.port()}"}, limits=LIMITS)
    planner.config["outbound"].append(outbound("hung", 1) | {"connect": "hung.example:8443"})
    planner.environ = {"PYTHONPATH": str(site.folder)}
    planner.start("--loop", "asyncio")
    tools.await_ready()
    at_hung = f"{LOOPBACK}:{planner.port('outbound', 1)}"
    hanging = [Pending(site.at(at_hung), "GET", "/") for _ in range(40)]
    assert {each.answer().status for each in hanging} == {504}
    assert ask(site.agent(planner), "GET", "/other").status == 200
    assert planner.stop() == 0


def filler(address: tuple[str, int]) -> socket.socket:
    sock = socket.socket()
    sock.setblocking(False)
    with suppress(BlockingIOError):
        sock.connect(address)
    return sock


@pytest.mark.threat(52)
def test_threat_52_an_upstream_that_is_slow_to_accept_is_waited_for(site: Site) -> None:
    """Within `connect_timeout`: the queue is full at first, and somebody comes to empty it."""
    port = free_port()
    with listening(port, backlog=0) as slow:
        waiting = [filler(slow.getsockname()) for _ in range(2)]
        tools = start(site, port, connect_timeout="20s", upstream_timeout="20s")

        def serve() -> None:
            time.sleep(1.2)  # what a test of slowness needs
            while True:
                try:
                    sock, _ = slow.accept()
                except OSError:  # it was closed: the test is over
                    return
                sock.settimeout(0.5)
                with suppress(OSError), sock:
                    if sock.recv(65536):
                        sock.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok")
                        sock.recv(1)

        threading.Thread(target=serve, daemon=True).start()
        answer, _ = asked(site, tools, "/slow")
        assert answer.status == 200
        for sock in waiting:
            sock.close()


@pytest.mark.threat(52)
def test_threat_52_an_upstream_that_says_nothing_is_504_within_upstream_timeout(site: Site) -> None:
    port = free_port()
    with listening(port):
        tools = start(site, port)
        is_answered(site, tools, 504, "upstream_timeout", "upstream_timeout")
    with Backend(fixed_port=port) as backend:
        is_back(site, tools, backend)


@pytest.mark.threat(52)
def test_threat_52_an_upstream_that_resets_what_it_accepts_is_502(site: Site) -> None:
    port = free_port()
    with listening(port) as cruel:

        def serve() -> None:
            with suppress(OSError):
                while True:
                    sock, _ = cruel.accept()
                    sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET)
                    sock.close()

        threading.Thread(target=serve, daemon=True).start()
        tools = start(site, port)
        is_answered(site, tools, 502, "upstream_reset", within=2)
        cruel.shutdown(socket.SHUT_RDWR)
    with Backend(fixed_port=port) as backend:
        is_back(site, tools, backend)

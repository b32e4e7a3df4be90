"""Ensures that what CONNECT has opened lives and ends alike in every one of several workers, at a reload and at a drain."""

from __future__ import annotations

import signal
import socket
from typing import TYPE_CHECKING

import pytest

from tests.support.eventually import eventually
from tests.support.processes import PLANNER, outbound
from tests.support.raw import connect, exactly, into, server, talks, was_reset
from tests.support.workers import connected, worker_pids

if TYPE_CHECKING:
    from tests.support.backend import Backend
    from tests.support.processes import Sidecar, Site
    from tests.support.raw import Raw

DB, TOOLS = "db.internal:5432", "tools.internal:80"
ESTABLISHED = b"HTTP/1.1 200 Connection established\r\n\r\n"
MOST = 200


def world(site: Site, backend: Backend) -> tuple[Sidecar, Raw]:
    """Starts the pair; returns the planner's sidecar, with two workers, and what is behind the tcp entry."""
    raw = server(site)
    tools = site.tools(backend)
    tools.config["inbound"].append(into("db", raw.port, PLANNER))
    tools.launch()
    planner = site.planner(tools, workers=2)
    first = planner.config["outbound"][0]
    second = outbound("db", tools.port(entry=1), hosts=[DB], protocol="tcp") | {"listen": first["listen"]}
    planner.config["outbound"].append(second)
    planner.start()
    tools.await_ready()
    return planner, raw


def opened(site: Site, planner: Sidecar, authority: str) -> socket.socket:
    sock = connect(planner.port("outbound"))
    site.owns(sock.close)
    sock.sendall(f"CONNECT {authority} HTTP/1.1\r\nHost: {authority}\r\n\r\n".encode())
    assert exactly(sock, len(ESTABLISHED)) == ESTABLISHED
    return sock


def in_all(site: Site, planner: Sidecar, authority: str) -> list[socket.socket]:
    """Opens connections until each worker has one."""
    found: list[socket.socket] = []
    while set(connected(planner)) != worker_pids(planner):
        assert len(found) < MOST, "one worker takes all connections"
        found.append(opened(site, planner, authority))
    return found


def request(sock: socket.socket, path: str) -> bytes:
    """Asks inside, and returns the status line."""
    sock.sendall(f"GET {path} HTTP/1.1\r\nHost: tools.internal\r\n\r\n".encode())
    answer = b""
    while b"\r\n\r\n" not in answer:
        data = sock.recv(4096)
        if not data:
            break
        answer += data
    return answer.partition(b"\r\n")[0]


def test_tunnels_go_on_and_end_in_all_workers_by_one_reload(site: Site, backend: Backend) -> None:
    planner, _ = world(site, backend)
    socks = in_all(site, planner, DB)
    planner.config["outbound"][0]["origins"] = ["http://page.example"]
    planner.reload()
    for sock in socks:
        talks(sock)  # another entry has changed
    planner.config["outbound"][1]["hosts"] = ["other.internal:5432"]
    planner.reload()
    assert all(was_reset(sock) for sock in socks)
    lines = planner.await_log(len(socks), event="tunnel", error="entry_removed")
    assert {line["dst.name"] for line in lines} == {DB}


def test_bound_connections_take_no_request_in_any_worker_once_their_entry_is_gone(site: Site, backend: Backend) -> None:
    planner, _ = world(site, backend)
    socks = in_all(site, planner, TOOLS)
    assert {request(sock, "/before") for sock in socks} == {b"HTTP/1.1 200 OK"}
    planner.config["outbound"][0] |= {"name": "usurper"}
    planner.reload()
    before = len(backend.requests)
    for sock in socks:
        assert sock.recv(1) == b"", "closed, although another entry has its name now"
    assert len(backend.requests) == before
    assert request(opened(site, planner, TOOLS), "/after") == b"HTTP/1.1 200 OK"


@pytest.mark.threat(54)
def test_threat_54_tunnels_of_connect_have_the_time_of_the_drain_in_all_workers(site: Site, backend: Backend) -> None:
    planner, _ = world(site, backend)
    socks = in_all(site, planner, DB)
    planner.signal(signal.SIGTERM)
    planner.await_stderr("draining")
    for sock in socks:
        talks(sock)
        sock.shutdown(socket.SHUT_WR)
        assert sock.recv(1) == b"", "the echo has ended as well"
        sock.close()
    assert planner.exit_code() == 0
    eventually(lambda: len(planner.log(event="tunnel")) == len(socks), "each tunnel's line")
    assert all("error" not in line for line in planner.log(event="tunnel"))

"""Ensures what HTTP/1.1 has beside the usual, through two sidecars of their own processes.

Bodies larger than memory is meant for, peers that speak HTTP/1.0, requests one behind the other, `Expect`, trailers.
"""

from __future__ import annotations

import hashlib
import json
import os
import socket
from typing import TYPE_CHECKING

import pytest

from tests.support.processes import LOOPBACK, ask
from tests.support.resources import MIB, resident

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.support.backend import Backend
    from tests.support.processes import Pair, Site

#: Bytes of a large body: 64 MiB, or what SIDECAR_SOAK asks for (1: 1 GiB).
LARGE = (1024 if os.environ.get("SIDECAR_SOAK") else 64) * MIB
#: By how much a process may grow while it passes: buffers, and not the body.
GROWTH = 24 * MIB


@pytest.mark.soak
@pytest.mark.threat(47)
def test_threat_47_a_large_upload_passes_whole_and_memory_stays_flat(site: Site, backend: Backend) -> None:
    planner, tools = site.pair(backend)
    agent = site.agent(planner)
    assert ask(agent, "POST", "/sink", body=b"x" * MIB).status == 200
    before = [(sidecar, resident(sidecar)) for sidecar in (planner, tools)]
    digest = hashlib.sha256()

    def pieces() -> Iterator[bytes]:
        for number in range(LARGE // MIB):
            piece = number.to_bytes(4, "big") * (MIB // 4)
            digest.update(piece)
            yield piece

    answer = ask(agent, "PUT", "/sink", body=pieces(), headers={"Content-Length": str(LARGE)})
    assert json.loads(answer.body) == {"size": LARGE, "sha256": digest.hexdigest()}
    for sidecar, least in before:
        assert resident(sidecar, "VmHWM") - least < GROWTH
        sidecar.await_log(event="request", bytes_received=LARGE)


@pytest.mark.soak
@pytest.mark.threat(47, 48)
def test_threats_47_48_a_large_answer_passes_whole_and_memory_stays_flat(site: Site, backend: Backend) -> None:
    planner, tools = site.pair(backend)
    agent = site.agent(planner)
    assert ask(agent, "GET", "/bytes/1000000").status == 200
    before = [(sidecar, resident(sidecar)) for sidecar in (planner, tools)]
    agent.request("GET", f"/bytes/{LARGE}")
    response = agent.getresponse()
    got = 0
    while piece := response.read(MIB):
        got += len(piece)
    assert got == LARGE
    for sidecar, least in before:
        assert resident(sidecar, "VmHWM") - least < GROWTH
        sidecar.await_log(event="request", bytes_sent=LARGE)


def raw(pair: Pair, request: bytes) -> bytes:
    """Sends bytes as the agent and returns everything up to the end."""
    with socket.create_connection((LOOPBACK, pair.planner.port("outbound")), timeout=20) as sock:
        sock.sendall(request)
        found = b""
        while data := sock.recv(65536):
            found += data
    return found


def test_a_client_of_http_1_0_is_served_and_closed(shared: Pair) -> None:
    answer = raw(shared, b"GET /old HTTP/1.0\r\nHost: localhost\r\n\r\n")
    assert answer.startswith(b"HTTP/1.1 200 OK\r\n")
    assert b"\r\nConnection: close\r\n" in answer
    assert answer.endswith(b"\r\n\r\nhello\n")


def test_a_client_of_http_1_0_that_asks_for_it_keeps_its_connection(shared: Pair) -> None:
    kept = b"GET /old HTTP/1.0\r\nHost: localhost\r\nConnection: keep-alive\r\n\r\n"
    answer = raw(shared, kept * 3 + b"GET /last HTTP/1.0\r\nHost: localhost\r\n\r\n")
    assert answer.count(b"\r\nConnection: keep-alive\r\n") == 3
    assert answer.count(b"hello\n") == 4


def test_requests_one_behind_the_other_are_answered_in_order(shared: Pair) -> None:
    count = 200
    requests = [b"GET /bytes/%d HTTP/1.1\r\nHost: localhost\r\n\r\n" % number for number in range(count)]
    answer = raw(shared, b"".join(requests) + b"GET /end HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")
    lengths = [int(each.split(b"\r\n")[0]) for each in answer.split(b"Content-Length: ")[1:]]
    assert lengths == [*range(count), 6]


def test_a_body_that_is_announced_comes_when_the_upstream_asks_for_it(shared: Pair) -> None:
    with socket.create_connection((LOOPBACK, shared.planner.port("outbound")), timeout=20) as sock:
        head = b"POST /sink HTTP/1.1\r\nHost: localhost\r\nContent-Length: 5\r\nExpect: 100-continue\r\n"
        sock.sendall(head + b"Connection: close\r\n\r\n")
        assert sock.recv(65536) == b"HTTP/1.1 100 Continue\r\n\r\n"
        sock.sendall(b"hello")
        answer = b""
        while data := sock.recv(65536):
            answer += data
    assert answer.startswith(b"HTTP/1.1 200 OK\r\n")
    assert b'"size": 5' in answer


@pytest.mark.threat(40)
def test_threat_40_trailers_reach_the_agent_without_what_they_must_not_carry(shared: Pair) -> None:
    forged = (
        b"Host",
        b"Content-Length",
        b"Transfer_Encoding",
        b"Authorization",
        b"X-Sidecar-Caller",
        b"x_forwarded_client_cert",
    )
    trailers = b"".join(b"%b: forged\r\n" % name for name in forged)
    head = b"POST /trailers HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\nConnection: close\r\n\r\n"
    answer = raw(shared, head + b"5\r\nhello\r\n0\r\nX-Checksum: 1\r\n" + trailers + b"\r\n")
    assert answer.startswith(b"HTTP/1.1 200 OK\r\n")
    (request,) = shared.backend.of("/trailers")
    assert request.trailers == b"X-Checksum: 1\r\n"
    assert b"forged" not in request.head

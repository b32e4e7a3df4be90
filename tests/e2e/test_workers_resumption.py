"""Ensures that a session ticket is good in the worker that gave it, and that any other worker makes a full handshake of it.

Each worker has ticket keys of its own, so none has to be kept in step; no caller is refused for having come to another one.
"""

from __future__ import annotations

import os
import signal
import socket
import ssl
from contextlib import contextmanager
from typing import TYPE_CHECKING

from tests.support.eventually import eventually
from tests.support.processes import LOOPBACK, SSLContext
from tests.support.workers import worker_pids

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.support.backend import Backend
    from tests.support.processes import Sidecar, Site

REQUEST = b"GET /resumed HTTP/1.1\r\nHost: tools.internal\r\nConnection: close\r\n\r\n"


def caller(site: Site) -> SSLContext:
    context = SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.load_verify_locations(cadata=site.ca.pem.decode())
    context.load_cert_chain(site.path("planner.crt"), site.path("planner.key"))
    return context


def call(context: SSLContext, port: int, session: ssl.SSLSession | None) -> tuple[bool, ssl.SSLSession | None]:
    """One request on a connection of its own; says whether it was resumed, and gives the session that it left."""
    with (
        socket.create_connection((LOOPBACK, port), timeout=20) as plain,
        context.wrap_socket(plain, session=session) as tls,
    ):
        tls.sendall(REQUEST)
        answer = b""
        while data := tls.recv(65536):
            answer += data
        assert answer.startswith(b"HTTP/1.1 200 ")
        return bool(tls.session_reused), tls.session


@contextmanager
def alone(worker: int, others: list[int]) -> Iterator[None]:
    """Lets one worker take every connection: the others are stopped, for less time than their parent is patient."""
    for other in others:
        os.kill(other, signal.SIGSTOP)
    try:
        yield
    finally:
        for other in others:
            os.kill(other, signal.SIGCONT)


def resumed(tools: Sidecar, *, yes: bool) -> float:
    return tools.metric("handshakes_total", role="server", result="ok", resumed="true" if yes else "false")


def test_a_ticket_is_good_in_one_worker_and_costs_a_full_handshake_in_another(site: Site, backend: Backend) -> None:
    site.identity("planner")
    tools = site.tools(backend, workers=2).start()
    first, second = worker_pids(tools)
    context, port = caller(site), tools.port()
    with alone(first, [second]):
        fresh, session = call(context, port, None)
        assert not fresh
        again, session = call(context, port, session)
        assert again, "the worker that gave the ticket resumes it"
    with alone(second, [first]):
        elsewhere, other = call(context, port, session)
        assert not elsewhere, "another worker's ticket is no session here, and no reason to refuse"
        assert call(context, port, other)[0]
    eventually(lambda: (resumed(tools, yes=True), resumed(tools, yes=False)) == (2, 2), "both to be counted")
    assert tools.metric("worker_restarts_total") == 0

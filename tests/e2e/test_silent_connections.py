"""Ensures that connections which say nothing, or half a hello, keep nobody out and leave nothing behind."""

from __future__ import annotations

import os
import socket
import time
from typing import TYPE_CHECKING

import pytest

from tests.support.eventually import eventually
from tests.support.processes import LOOPBACK, ask
from tests.support.resources import descriptors

if TYPE_CHECKING:
    from tests.support.backend import Backend
    from tests.support.processes import Site

#: More than `limits.handshakes` has places.
SILENT = 1000 if os.environ.get("SIDECAR_SOAK") else 300
#: A record of a ClientHello of 512 bytes that never comes to its end.
HALF_A_HELLO = bytes.fromhex("1603010200010001fc0303") + b"\x42" * 32


@pytest.mark.soak
@pytest.mark.needs("root")
@pytest.mark.threat(46)
@pytest.mark.parametrize("sent", [b"", HALF_A_HELLO], ids=["nothing", "half a hello"])
def test_threat_46_silent_connections_are_closed_and_newcomers_are_served(
    site: Site, backend: Backend, sent: bytes
) -> None:
    tools = site.tools(backend, limits={"handshake_timeout": "2s"}).start()
    assert ask(site.caller(tools.port()), "GET", "/before").status == 200
    eventually(lambda: tools.ready, "the last look to be over")
    base = len(descriptors(tools))
    began = time.monotonic()
    sockets = [socket.create_connection((LOOPBACK, tools.port()), timeout=20) for _ in range(SILENT)]
    for sock in sockets:
        sock.sendall(sent)
    newcomer = site.caller(tools.port())
    assert ask(newcomer, "GET", "/meanwhile").status == 200
    for sock in sockets:
        try:
            assert sock.recv(100) == b""
        except ConnectionResetError:
            continue  # it was closed with what it had sent unread
        finally:
            sock.close()
    assert time.monotonic() - began < 20
    codes = ("limit_handshake_timeout", "limit_handshakes", "handshake_truncated", "closed_before_hello")

    def refused() -> int:
        return sum(len(tools.log(event="refused", error=code)) for code in codes)

    eventually(lambda: refused() == SILENT, "a line for each")
    for limit in ("handshake_timeout", "handshakes"):
        found = len(tools.log(event="refused", error=f"limit_{limit}"))
        assert found > 0
        assert tools.metric("limit_hits_total", limit=limit) == found
    newcomer.close()
    eventually(lambda: len(descriptors(tools)) <= base, "the descriptors to come back")
    assert ask(site.caller(tools.port()), "GET", "/after").status == 200

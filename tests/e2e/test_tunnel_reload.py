"""Ensures that a permit is not for ever: a reload ends the live tunnels that it no longer permits, and no others."""

from __future__ import annotations

import ssl
import time
from typing import TYPE_CHECKING

import pytest

from tests.support.ca import DAY, Ca
from tests.support.eventually import eventually
from tests.support.processes import LOOPBACK, PLANNER, ask, now, replace_file
from tests.support.raw import agent, pair, server, talks, tools, was_reset

if TYPE_CHECKING:
    import socket

    from tests.support.backend import Backend
    from tests.support.processes import Site

OTHER = "spiffe://example.org/agent/other/1"


def caller(site: Site, port: int, name: str) -> ssl.SSLSocket:
    """A caller with the identity of that name, straight at an inbound port."""
    connection = site.caller(port, name)
    connection.connect()
    assert isinstance(connection.sock, ssl.SSLSocket)
    connection.sock.suppress_ragged_eofs = False  # an end without close_notify is an error to this one
    return connection.sock


def cut(sock: socket.socket) -> bool:
    """Says whether a connection ends without close_notify."""
    try:
        return was_reset(sock)
    except ssl.SSLError:
        return True


@pytest.mark.threat(12)
def test_threat_12_a_removed_callers_live_tunnel_is_cut_within_a_second_of_the_reload(site: Site) -> None:
    """Whoever is still named does not notice."""
    raw = server(site)
    called = tools(site, raw)
    called.config["inbound"][0]["allow"] = [{"caller": PLANNER}, {"caller": OTHER}]
    called.start()
    removed, kept = caller(site, called.port(), "planner"), caller(site, called.port(), "other")
    for sock in (removed, kept):
        talks(sock)
    called.config["inbound"][0]["allow"] = [{"caller": OTHER}]
    called.reload()
    begun = time.monotonic()
    assert cut(removed)
    assert time.monotonic() - begun < 1
    talks(kept, b"still here")
    (line,) = called.await_log(event="tunnel")
    assert (line["src.identity"], line["error"]) == (PLANNER, "caller_not_named")
    assert line["bytes_received"] == 5
    assert cut(caller(site, called.port(), "planner"))
    eventually(lambda: called.log(event="refused", src_identity=PLANNER), "the next one to be refused")
    assert raw.connections == 2


def test_a_renewed_certificate_of_our_own_leaves_tunnels_alone(site: Site) -> None:
    calling, called = pair(site, server(site))
    sock = agent(site, calling)
    talks(sock)
    for sidecar in (calling, called):
        renewed = site.ca.leaf(f"/agent/{sidecar.name}/1", now=now(), lifetime=2 * DAY)
        replace_file(site.path(f"{sidecar.name}.crt"), renewed.chain_pem)
        sidecar.reload()
        talks(sock, b"after")


@pytest.mark.threat(11)
def test_threat_11_another_bundle_cuts_the_tunnels_of_its_domain(site: Site) -> None:
    calling, called = pair(site, server(site))
    sock = agent(site, calling)
    talks(sock)
    replace_file(site.path("ca.crt"), site.ca.pem + Ca(key="another", now=now()).pem)
    called.reload()
    assert was_reset(sock)
    assert called.await_log(event="tunnel")[0]["error"] == "trust_changed"


def test_a_broken_reload_leaves_tunnels_alone(site: Site) -> None:
    calling, called = pair(site, server(site))
    sock = agent(site, calling)
    talks(sock)
    called.config["inbound"][0]["allow"] = []
    called.reload(result="failed")
    talks(sock, b"after")


def test_an_entry_turns_from_bytes_to_requests_and_back(site: Site, backend: Backend) -> None:
    """On the same listen address: the old kind's connections go, new ones are of the new kind."""
    called = tools(site, backend.port).start()
    raw_connection = caller(site, called.port(), "planner")
    raw_connection.sendall(b"GET /through-a-tunnel HTTP/1.1\r\nHost: a\r\n\r\n")
    assert raw_connection.recv(15) == b"HTTP/1.1 200 OK"
    entry = called.config["inbound"][0]
    entry["forward"] = f"http://{LOOPBACK}:{backend.port}"
    called.reload()
    assert cut(raw_connection)
    assert called.await_log(event="tunnel")[0]["error"] == "entry_changed"
    connection = site.caller(called.port())
    assert ask(connection, "GET", "/a-request").status == 200
    assert backend.of("/a-request")[0].fields("x-sidecar-caller") == [PLANNER]
    assert backend.of("/through-a-tunnel")[0].fields("x-sidecar-caller") == []
    entry["forward"] = f"tcp://{LOOPBACK}:{backend.port}"
    called.reload()
    assert connection.sock is not None
    assert connection.sock.recv(1) == b"", "an idle connection is closed"
    again = caller(site, called.port(), "planner")
    again.sendall(b"TRACE /whatever HTTP/1.1\r\nHost: a\r\n\r\n")
    assert again.recv(15) == b"HTTP/1.1 200 OK", "nobody looks into it"
    assert called.log(event="request", http_path="/a-request")

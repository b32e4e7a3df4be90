"""Ensures that a drain lets live tunnels go on, as far as `drain_timeout` allows, and never ends one as if it were over."""

from __future__ import annotations

import signal
import socket
from typing import TYPE_CHECKING

import pytest

from tests.support.eventually import eventually
from tests.support.processes import TOOLS, listens
from tests.support.raw import agent, connect, into, out_to, pair, read_all, server, talks, tools, was_reset

if TYPE_CHECKING:
    from tests.support.processes import Site


@pytest.mark.threat(54)
def test_threat_54_a_tunnel_in_flight_is_finished(site: Site) -> None:
    calling, called = pair(site, server(site))
    sock = agent(site, calling)
    talks(sock)
    called.signal(signal.SIGTERM)
    eventually(lambda: not listens(called.port()), "inbound to stop accepting")
    talks(sock, b"during the drain")
    assert called.running.poll() is None
    sock.sendall(b"last words")
    sock.shutdown(socket.SHUT_WR)
    assert read_all(sock) == b"last words"
    assert called.exit_code() == 0
    (line,) = called.log(event="tunnel")
    assert "error" not in line
    assert called.log()[-1]["event"] == "stop"


@pytest.mark.threat(54)
def test_threat_54_drain_timeout_cuts_a_tunnel_and_nobody_takes_that_for_its_end(site: Site) -> None:
    raw = server(site)
    calling, called = pair(site, raw, drain_timeout="300ms")
    sock = agent(site, calling)
    talks(sock)
    called.signal(signal.SIGTERM)
    assert called.exit_code() == 0
    assert was_reset(sock)
    eventually(lambda: raw.ends == ["ConnectionResetError"], "the server to notice")
    (line,) = called.log(event="tunnel")
    assert line["error"] == "draining"
    assert "drain_timeout is over: what was still in flight is cut" in called.stderr


@pytest.mark.threat(54)
def test_threat_54_the_agents_own_tunnel_is_cut_in_the_same_way(site: Site) -> None:
    calling, called = pair(site, server(site), drain_timeout="300ms")
    sock = agent(site, calling)
    talks(sock)
    calling.signal(signal.SIGTERM)
    assert calling.exit_code() == 0
    assert was_reset(sock)
    assert calling.log(event="tunnel")[0]["error"] == "draining"
    assert called.await_log(event="tunnel")[0]["error"] == "client_reset"


def test_outbound_serves_until_the_inbound_tunnels_have_ended(site: Site) -> None:
    """The planner is called itself, and needs the tools until it has answered."""
    raw = server(site)
    called = tools(site, raw).start()
    front, entry = into("front", raw.port, TOOLS), out_to("tools", called.port())
    calling = site.sidecar("planner", inbound=[front], outbound=[entry]).start()
    caller = site.caller(calling.port(), "tools")
    caller.connect()
    assert caller.sock is not None
    talks(caller.sock)
    calling.signal(signal.SIGTERM)
    eventually(lambda: not listens(calling.port()), "inbound to stop accepting")
    new = connect(calling.port("outbound"))
    site.owns(new.close)
    talks(new, b"new, during the drain")
    new.shutdown(socket.SHUT_WR)
    assert read_all(new) == b""
    assert calling.running.poll() is None
    caller.sock.unwrap().close()
    assert calling.exit_code() == 0


def test_a_second_signal_ends_at_once(site: Site) -> None:
    calling, called = pair(site, server(site))
    sock = agent(site, calling)
    talks(sock)
    called.signal(signal.SIGTERM)
    called.await_log(event="drain")
    called.signal(signal.SIGTERM)
    assert called.exit_code() == 1
    assert was_reset(sock)

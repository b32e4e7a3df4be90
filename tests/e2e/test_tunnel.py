"""Ensures that a pair of real processes carries a connection as it is: every byte, each direction's end, and no more.

The agent speaks plain TCP to its sidecar, the server hears plain TCP from its own, and between them is mutual TLS.
"""

from __future__ import annotations

import hashlib
import socket
import threading
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests.support.eventually import eventually
from tests.support.processes import PLANNER, TOOLS, free_port
from tests.support.raw import (
    agent,
    connect,
    digest,
    exactly,
    farewell,
    pair,
    planner,
    read_all,
    server,
    talks,
    tools,
    tunnels,
    turned_away,
    vanish,
)

if TYPE_CHECKING:
    from tests.support.processes import Sidecar, Site

MEGABYTE = 1024 * 1024


def test_a_conversation_is_carried_and_written_down_on_both_sides(site: Site) -> None:
    raw = server(site)
    calling, called = pair(site, raw)
    sock = agent(site, calling)
    talks(sock, b"\x00 anything \xff\r\n\r\n")
    for sidecar in (calling, called):
        (shown,) = tunnels(sidecar)
        assert (shown["protocol"], shown["bytes_sent"], shown["bytes_received"]) == ("tcp", 16, 16)
        assert sidecar.metric("connections") == 1
    sock.shutdown(socket.SHUT_WR)
    assert read_all(sock) == b""
    for sidecar, direction, rule in (
        (calling, "outbound", "outbound.tools"),
        (called, "inbound", "inbound.tools.allow[0]"),
    ):
        (line,) = sidecar.await_log(event="tunnel")
        assert (line["direction"], line["decision"], line["decision.rule"]) == (direction, "allow", rule)
        assert (line["src.identity"], line["dst.identity"]) == (PLANNER, TOOLS)
        assert (line["bytes_sent"], line["bytes_received"]) == (16, 16)
        assert "error" not in line
        assert sidecar.metric("tunnels_total", direction=direction, listener="tools", decision="allow") == 1
        assert sidecar.metric("tunnel_bytes_total", flow="sent") == 16
        assert sidecar.metric("tunnel_bytes_total", flow="received") == 16
        eventually(lambda s=sidecar: tunnels(s) == [], "the connection to be gone")  # type: ignore[misc]


def test_the_agent_may_end_first_and_hears_the_answer(site: Site) -> None:
    """The answer is only known when the request has ended: without half-close there would be none."""
    calling, _ = pair(site, server(site, digest))
    sock = agent(site, calling)
    data = bytes(range(256)) * 4096
    sock.sendall(data)
    sock.shutdown(socket.SHUT_WR)
    assert read_all(sock).decode() == hashlib.sha256(data).hexdigest()


def test_the_server_may_end_first_and_hears_the_rest(site: Site) -> None:
    raw = server(site, farewell)
    calling, _ = pair(site, raw)
    sock = agent(site, calling)
    assert read_all(sock) == b"welcome and goodbye"
    assert raw.ends == []
    sock.sendall(b"still there?")
    sock.shutdown(socket.SHUT_WR)
    eventually(lambda: raw.ends == ["ok"], "the server to have heard it")


@pytest.mark.threat(43)
def test_threat_43_what_breaks_off_at_the_server_breaks_off_at_the_agent(site: Site) -> None:
    calling, called = pair(site, server(site, vanish))
    sock = agent(site, calling)
    assert exactly(sock, 14) == b"half of someth"
    sock.sendall(b"?")
    with pytest.raises(ConnectionResetError):
        read_all(sock)
    assert called.await_log(event="tunnel")[0]["error"] == "upstream_reset"
    assert calling.await_log(event="tunnel")[0]["error"] == "upstream_reset"


@pytest.mark.threat(43)
def test_threat_43_an_agent_that_breaks_off_is_no_end_for_the_server(site: Site) -> None:
    raw = server(site, digest)
    calling, called = pair(site, raw)
    sock = connect(calling.port("outbound"))
    sock.sendall(b"half of someth")
    eventually(lambda: raw.connections == 1, "the tunnel to stand")
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
    sock.close()
    eventually(lambda: raw.ends == ["ConnectionResetError"], "the server to notice")
    assert calling.await_log(event="tunnel")[0]["error"] == "client_reset"
    assert called.await_log(event="tunnel")[0]["error"] == "client_reset"


@pytest.mark.threat(52)
def test_threat_52_a_server_that_is_not_there_is_a_reset_and_never_an_empty_answer(site: Site) -> None:
    called = tools(site, free_port()).start()
    calling = planner(site, called).start()
    assert turned_away(calling)
    assert called.await_log(event="tunnel")[0]["error"] == "upstream_refused"
    called.stop()
    assert turned_away(calling)
    assert calling.await_log(2, event="tunnel")[1]["error"] == "upstream_refused"


def test_a_caller_that_is_not_named_reaches_nobody(site: Site) -> None:
    raw = server(site)
    called = tools(site, raw)
    called.config["inbound"][0]["allow"] = [{"caller": "spiffe://example.org/agent/other/1"}]
    called.start()
    calling = planner(site, called).start()
    assert turned_away(calling)
    (line,) = called.await_log(event="refused")
    assert (line["src.identity"], line["decision.reason"]) == (PLANNER, "caller_not_named")
    assert called.metric("denied_total", reason="caller_not_named") == 1
    assert raw.connections == 0


def send_all(sock: socket.socket, data: bytes) -> None:
    with suppress(OSError):  # the test has failed, and says so itself
        sock.sendall(data)
        sock.shutdown(socket.SHUT_WR)


def memory(sidecar: Sidecar) -> int:
    """Resident memory of a process, in bytes."""
    pages = int(Path(f"/proc/{sidecar.running.pid}/statm").read_text().split()[1])
    return pages * 4096


@pytest.mark.soak
@pytest.mark.threat(48)
def test_threat_48_much_in_both_directions_past_a_slow_reader_holds_memory_constant(site: Site) -> None:
    """The agent sends without reading until everything in between is full; then it reads, and all of it is there."""
    calling, called = pair(site, server(site))
    sock = agent(site, calling)
    talks(sock)
    before = [memory(sidecar) for sidecar in (calling, called)]
    # More than the kernel can hold in the six sockets of this way, each with a receive buffer of up to 32 MiB.
    data = bytes(range(256)) * 4096 * 256
    sender = threading.Thread(target=send_all, args=(sock, data), daemon=True)
    sender.start()

    def moved() -> int:
        return sum(shown["bytes_received"] for shown in tunnels(calling))

    last = [-1]

    def stalled() -> bool:
        last.append(moved())
        return len(last) > 5 and len(set(last[-5:])) == 1

    eventually(stalled, "everything in between to be full")
    assert last[-1] < len(data)
    assert sender.is_alive()
    found = hashlib.sha256()
    while piece := sock.recv(65536):
        found.update(piece)
    assert found.hexdigest() == hashlib.sha256(data).hexdigest()
    sender.join()
    for sidecar, earlier in zip((calling, called), before, strict=True):
        assert memory(sidecar) - earlier < 8 * MEGABYTE
        assert sidecar.await_log(event="tunnel")[0]["bytes_sent"] == len(data) + 5


def test_many_at_once(site: Site) -> None:
    calling, called = pair(site, server(site))
    socks = [agent(site, calling) for _ in range(100)]
    for number, sock in enumerate(socks):
        sock.sendall(b"%d" % number * 1000)
    for number, sock in enumerate(socks):
        sock.shutdown(socket.SHUT_WR)
        assert read_all(sock) == b"%d" % number * 1000
    for sidecar in (calling, called):
        assert not [line for line in sidecar.await_log(100, event="tunnel") if "error" in line]
        assert "Traceback" not in sidecar.stderr
        assert "unexpected" not in sidecar.stderr

"""stunnel at the other end of a tunnel, in both roles: the same bytes, the same ends, the same refusals."""

from __future__ import annotations

import hashlib
import socket
from typing import TYPE_CHECKING

import pytest

from tests.support.ca import Ca
from tests.support.eventually import eventually
from tests.support.processes import LOOPBACK, PLANNER, TOOLS, free_port, listens, now
from tests.support.raw import agent, connect, digest, farewell, planner, read_all, server, talks, tools, turned_away

if TYPE_CHECKING:
    from tests.support.processes import Site

pytestmark = pytest.mark.needs("stunnel")

DATA = bytes(range(256)) * 8192


def stunnel(site: Site, name: str, to: int, *, client: bool, options: str = "") -> int:
    """Starts stunnel with that identity; returns the port where it accepts."""
    port = free_port()
    lines = f"""
        foreground = yes
        pid =
        syslog = no
        {"client = yes" if client else ""}
        cert = {name}.crt
        key = {name}.key
        CAfile = ca.crt
        verifyChain = yes
        {"" if client else "requireCert = yes"}
        {options}
        [tunnel]
        accept = {LOOPBACK}:{port}
        connect = {LOOPBACK}:{to}
    """
    site.path(f"{name}.conf").write_text("\n".join(line.strip() for line in lines.splitlines()))
    with site.path(f"{name}.stunnel").open("wb") as out:
        site.process("stunnel", str(site.path(f"{name}.conf")), stdout=out, stderr=out)
    eventually(lambda: listens(port), "stunnel to accept")
    return port


def dial(site: Site, port: int) -> socket.socket:
    sock = connect(port)
    site.owns(sock.close)
    return sock


# -- stunnel calls us ---------------------------------------------------------------------------------------------------


def test_stunnel_as_a_caller_is_carried(site: Site) -> None:
    called = tools(site, server(site)).start()
    site.identity("planner")
    sock = dial(site, stunnel(site, "planner", called.port(), client=True))
    talks(sock)
    sock.sendall(DATA)
    sock.shutdown(socket.SHUT_WR)
    assert read_all(sock) == DATA
    eventually(lambda: [line for line in called.log(event="tunnel") if line["bytes_sent"]], "the line")
    (line,) = [line for line in called.log(event="tunnel") if line["bytes_sent"]]
    assert (line["src.identity"], line["bytes_sent"], line["bytes_received"]) == (PLANNER, *[len(DATA) + 5] * 2)
    assert "error" not in line


@pytest.mark.parametrize("first", ["caller", "server"])
def test_either_side_may_end_first_where_stunnel_calls(site: Site, first: str) -> None:
    raw = server(site, digest if first == "caller" else farewell)
    called = tools(site, raw).start()
    site.identity("planner")
    sock = dial(site, stunnel(site, "planner", called.port(), client=True))
    if first == "server":
        assert read_all(sock) == b"welcome and goodbye"
    sock.sendall(DATA)
    sock.shutdown(socket.SHUT_WR)
    if first == "caller":
        assert read_all(sock).decode() == hashlib.sha256(DATA).hexdigest()
    eventually(lambda: "ok" in raw.ends, "the server to have heard everything")


def test_stunnel_as_a_caller_that_nobody_named_gets_nothing(site: Site) -> None:
    raw = server(site)
    called = tools(site, raw).start()
    site.identity("rogue")
    sock = dial(site, stunnel(site, "rogue", called.port(), client=True))
    assert ends_without_a_byte(sock)
    assert called.await_log(event="refused")[0]["decision.reason"] == "caller_not_named"
    assert raw.connections == 0


@pytest.mark.threat(4)
def test_threat_4_stunnel_with_the_same_name_by_another_authority_gets_nothing(site: Site) -> None:
    raw = server(site)
    called = tools(site, raw).start()
    site.identity("planner", ca=Ca(key="stranger", now=now()))
    sock = dial(site, stunnel(site, "planner", called.port(), client=True))
    assert ends_without_a_byte(sock)
    assert raw.connections == 0


def ends_without_a_byte(sock: socket.socket) -> bool:
    """What stunnel makes of a refusal towards its own client: a reset, or an end."""
    try:
        sock.sendall(b"hello")
        return read_all(sock) == b""
    except ConnectionResetError:
        return True


# -- we call stunnel ----------------------------------------------------------------------------------------------------


def test_stunnel_as_the_peer_is_proven_and_carried(site: Site) -> None:
    site.identity("tools")
    calling = planner(site, stunnel(site, "tools", server(site).port, client=False)).start()
    sock = agent(site, calling)
    talks(sock)
    sock.sendall(DATA)
    sock.shutdown(socket.SHUT_WR)
    assert read_all(sock) == DATA
    (line,) = calling.await_log(event="tunnel")
    assert (line["dst.identity"], line["bytes_sent"], line["bytes_received"]) == (TOOLS, *[len(DATA) + 5] * 2)
    assert "error" not in line


@pytest.mark.parametrize("first", ["agent", "server"])
def test_either_side_may_end_first_where_stunnel_is_called(site: Site, first: str) -> None:
    site.identity("tools")
    raw = server(site, digest if first == "agent" else farewell)
    calling = planner(site, stunnel(site, "tools", raw.port, client=False)).start()
    sock = agent(site, calling)
    if first == "server":
        assert read_all(sock) == b"welcome and goodbye"
    sock.sendall(DATA)
    sock.shutdown(socket.SHUT_WR)
    if first == "agent":
        assert read_all(sock).decode() == hashlib.sha256(DATA).hexdigest()
    eventually(lambda: "ok" in raw.ends, "the server to have heard everything")


@pytest.mark.threat(27)
def test_threat_27_stunnel_with_another_name_gets_nothing(site: Site) -> None:
    site.identity("tools", "/agent/impostor/1")
    raw = server(site)
    calling = planner(site, stunnel(site, "tools", raw.port, client=False)).start()
    assert turned_away(calling)
    assert calling.await_log(event="tunnel")[0]["error"] == "peer_name_mismatch"
    assert raw.connections == 0

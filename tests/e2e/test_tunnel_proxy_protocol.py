"""Ensures that a server behind a tunnel is told who the caller is, in front of the first byte, and nobody else is.

The server is a recording one: what it reads before the echo begins is the header, byte for byte.
"""

from __future__ import annotations

import socket
import ssl
from contextlib import suppress
from typing import TYPE_CHECKING, Any

import pytest

from tests.support.eventually import eventually
from tests.support.processes import LOOPBACK, PLANNER, SSLContext, free_port
from tests.support.proxy_header import receive
from tests.support.raw import agent, echo, exactly, into, planner, read_all, server, talks, tools

if TYPE_CHECKING:
    from tests.support.processes import Sidecar, Site
    from tests.support.proxy_header import Header
    from tests.support.raw import Raw

FULL, RESUMED = 0x07, 0x05


class Told:
    """A conversation: reads a header, keeps it, and goes on as an echo."""

    def __init__(self) -> None:
        self.headers: list[Header] = []

    def __call__(self, sock: socket.socket) -> None:
        self.headers.append(receive(lambda size: exactly(sock, size)))
        echo(sock)


def telling(site: Site, raw: Raw, **parts: Any) -> Sidecar:
    entry = into("tools", raw.port, PLANNER) | {"proxy_protocol": "v2"}
    return tools(site, raw, inbound=[entry | parts])


def caller(site: Site, called: Sidecar, context: SSLContext, **options: Any) -> ssl.SSLSocket:
    host, _, port = called.config["inbound"][0]["listen"].rpartition(":")
    sock = socket.create_connection((host.strip("[]"), int(port)), timeout=20)
    secured = context.wrap_socket(sock, do_handshake_on_connect=False, **options)
    site.owns(secured.close)
    secured.do_handshake()
    return secured


def context_of(site: Site, name: str = "planner") -> SSLContext:
    site.identity(name)
    context = SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.load_verify_locations(site.path("ca.crt"))
    context.load_cert_chain(site.path(f"{name}.crt"), site.path(f"{name}.key"))
    return context


def test_a_pair_tells_the_server_who_calls(site: Site) -> None:
    told = Told()
    called = telling(site, server(site, told)).start()
    calling = planner(site, called).start()
    sock = agent(site, calling)
    talks(sock)
    (header,) = told.headers
    sock.shutdown(socket.SHUT_WR)
    assert read_all(sock) == b""
    (line,) = called.await_log(event="tunnel")
    assert header[0x05].decode() == line["decision.id"]
    assert header[0xE0].decode() == line["src.identity"] == PLANNER
    assert header.family == 0x11
    assert header.source is not None
    assert "{}:{}".format(*header.source) == line["src.addr"]
    assert header.destination == (LOOPBACK, called.port())
    assert (header.flags, header.verify) == (FULL, 0)
    assert header.ssl_tlvs[0] == (0x21, b"TLSv1.3")
    assert header.ssl_tlvs[1][1].startswith(b"TLS_")
    assert 0x01 not in header
    assert (line["bytes_sent"], line["bytes_received"]) == (5, 5)


def test_a_resumed_session_is_told_as_such(site: Site) -> None:
    told = Told()
    called = telling(site, server(site, told)).start()
    context = context_of(site)
    first = caller(site, called, context, server_hostname="tools.internal")
    talks(first)
    talks(caller(site, called, context, server_hostname="tools.internal", session=first.session))
    one, two = told.headers
    assert (one.flags, two.flags) == (FULL, RESUMED)
    assert one[0xE0] == two[0xE0] == PLANNER.encode()
    assert one[0x02] == two[0x02] == b"tools.internal"
    assert one[0x05] != two[0x05]


def test_a_caller_over_ipv6(site: Site) -> None:
    told = Told()
    called = telling(site, server(site, told), listen=f"[::1]:{free_port()}").start()
    sock = caller(site, called, context_of(site))
    talks(sock)
    (header,) = told.headers
    assert (header.family, header.source) == (0x21, sock.getsockname()[:2])
    assert header.destination == sock.getpeername()[:2]
    assert 0x02 not in header


@pytest.mark.threat(27)
def test_threat_27_a_caller_that_nobody_named_is_told_to_nobody(site: Site) -> None:
    told = Told()
    raw = server(site, told)
    called = telling(site, raw).start()
    with suppress(OSError):
        sock = caller(site, called, context_of(site, "rogue"))
        sock.sendall(b"hello")
        assert read_all(sock) == b""
    assert called.await_log(event="refused")[0]["decision.reason"] == "caller_not_named"
    assert (raw.connections, told.headers) == (0, [])


def test_a_reload_is_for_connections_that_begin_afterwards(site: Site) -> None:
    told = Told()
    raw = server(site)
    called = tools(site, raw).start()
    calling = planner(site, called).start()
    before = agent(site, calling)
    talks(before)
    raw.conversation = told
    called.config["inbound"][0]["proxy_protocol"] = "v2"
    called.reload()
    talks(before, b"still the same")
    talks(agent(site, calling))
    eventually(lambda: len(told.headers) == 1, "one header")
    assert raw.connections == 2

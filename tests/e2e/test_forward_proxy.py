"""Ensures that agents which set `HTTP_PROXY` get where they are named to get, by each way that clients ask, and nowhere else.

Two entries share one listener: requests to `tools.internal`, connections to `db.internal:5432`.
"""

from __future__ import annotations

import http.client
import os
import socket
import subprocess
import sys
from typing import TYPE_CHECKING, Any

import pytest

from tests.support.eventually import eventually
from tests.support.processes import PLANNER, ask, outbound
from tests.support.raw import connect, exactly, into, read_all, server, talks, tunnels, was_reset

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.support.backend import Backend
    from tests.support.processes import Sidecar, Site
    from tests.support.raw import Raw

DB = "db.internal:5432"
METADATA = "169.254.169.254"


def world(site: Site, backend: Backend) -> tuple[Sidecar, Raw]:
    """Starts the pair; returns the planner's sidecar and what is behind the tcp entry."""
    raw = server(site)
    tools = site.tools(backend)
    tools.config["inbound"].append(into("db", raw.port, PLANNER))
    tools.launch()
    planner = site.planner(tools)
    first = planner.config["outbound"][0]
    second = outbound("db", tools.port(entry=1), hosts=[DB], protocol="tcp") | {"listen": first["listen"]}
    planner.config["outbound"].append(second)
    planner.start()
    tools.await_ready()
    return planner, raw


def proxy(planner: Sidecar) -> str:
    return f"http://127.0.0.1:{planner.port('outbound')}"


def curl(*arguments: str) -> subprocess.CompletedProcess[str]:
    environ = {name: value for name, value in os.environ.items() if not name.lower().endswith("_proxy")}
    return subprocess.run(
        ["curl", "-sS", "--max-time", "20", *arguments],
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
        env=environ,
    )


def tunnel(site: Site, planner: Sidecar, authority: str) -> socket.socket:
    """An agent that has sent its CONNECT, and whatever the answer is."""
    sock = connect(planner.port("outbound"))
    site.owns(sock.close)
    sock.sendall(f"CONNECT {authority} HTTP/1.1\r\nHost: {authority}\r\n\r\n".encode())
    return sock


def established(sock: socket.socket) -> None:
    wanted = b"HTTP/1.1 200 Connection established\r\n\r\n"
    assert exactly(sock, len(wanted)) == wanted


@pytest.mark.needs("curl")
@pytest.mark.parametrize("how", [["-x"], ["-p", "-x"], ["--proxy1.0"], ["-p", "--proxy1.0"]])
def test_curl_gets_there_by_absolute_form_and_by_connect(site: Site, backend: Backend, how: list[str]) -> None:
    planner, _ = world(site, backend)
    done = curl(*how, proxy(planner), "http://tools.internal/by-curl?q=1", "http://tools.internal:80/again")
    assert done.returncode == 0, done.stderr
    assert [request.path for request in backend.requests] == ["/by-curl?q=1", "/again"]
    lines = planner.await_log(2, event="request", listener="tools", http_method="GET")
    assert [line["decision.rule"] for line in lines] == ["outbound.tools"] * 2
    assert bool(planner.log(http_method="CONNECT")) == ("-p" in how)


@pytest.mark.needs("curl")
@pytest.mark.parametrize("url", ["https://tools.internal/", "https://tools.internal:443/x"])
def test_an_https_url_is_not_forwarded_and_the_log_says_what_to_use(site: Site, backend: Backend, url: str) -> None:
    planner, _ = world(site, backend)
    done = curl("-x", proxy(planner), url)
    assert done.returncode == 35, done.stderr  # CURLE_SSL_CONNECT_ERROR
    (line,) = planner.await_log(event="refused")
    assert (line["error"], line["listener"]) == ("agent_tls", "tools")
    planner.await_stderr("http://tools.internal/")
    assert planner.metric("refused_total", code="agent_tls") == 1
    assert backend.requests == []


@pytest.mark.needs("curl")
@pytest.mark.threat(26)
@pytest.mark.parametrize(
    "host", [METADATA, "localhost", "127.0.0.1:PORT", "[::1]", "tools.internal:8080", "example.org"]
)
def test_threat_26_no_other_host_is_reached(site: Site, backend: Backend, host: str) -> None:
    planner, raw = world(site, backend)
    url = f"http://{host}/latest/meta-data".replace("PORT", str(backend.port))
    by_request = curl("-o", "/dev/null", "-w", "%{http_code}", "-x", proxy(planner), url)
    by_connect = curl("-p", "-o", "/dev/null", "-w", "%{http_connect}", "-x", proxy(planner), url)
    assert (by_request.stdout, by_connect.stdout) == ("403", "403")
    lines = planner.await_log(2, decision_reason="host_not_served")
    address = planner.config["outbound"][0]["listen"]
    assert [line["listener"] for line in lines] == [address, address]
    assert planner.metric("requests_total", listener=address, decision="deny") == 2
    assert planner.metric("handshakes_total", role="client") == 0
    assert (backend.requests, raw.connections) == ([], 0)


def test_python_gets_there_by_connect_of_http_1_0(site: Site, backend: Backend) -> None:
    """http.client asks so, and so do urllib and requests."""
    planner, _ = world(site, backend)
    agent = http.client.HTTPConnection("127.0.0.1", planner.port("outbound"), timeout=20)
    site.owns(agent.close)
    agent.set_tunnel("tools.internal", 80)
    assert [ask(agent, "GET", f"/{n}").status for n in range(3)] == [200] * 3
    assert [request.path for request in backend.requests] == ["/0", "/1", "/2"]
    assert planner.await_log(3, event="request", http_method="GET")


def test_httpx_takes_it_from_the_environment(site: Site, backend: Backend) -> None:
    planner, _ = world(site, backend)
    code = "import httpx; print(httpx.post('http://tools.internal/by-httpx', json={'a': 1}).status_code)"
    found = subprocess.run(
        [sys.executable, "-c", code],
        env=os.environ | {"HTTP_PROXY": proxy(planner), "http_proxy": proxy(planner)},
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
    )
    assert found.stdout == "200\n", found.stderr
    assert [request.path for request in backend.requests] == ["/by-httpx"]


def test_a_connect_to_a_tcp_entry_carries_bytes(site: Site, backend: Backend) -> None:
    planner, raw = world(site, backend)
    sock = tunnel(site, planner, DB)
    established(sock)
    talks(sock, b"\x16\x03\x01 anything \xff")
    (shown,) = tunnels(planner)
    assert (shown["listener"], shown["protocol"], shown["dst.name"]) == ("db", "tcp", DB)
    sock.shutdown(socket.SHUT_WR)
    assert read_all(sock) == b""
    (line,) = planner.await_log(event="tunnel")
    assert (line["listener"], line["dst.name"], line["bytes_sent"]) == ("db", DB, 14)
    assert raw.connections == 1
    eventually(lambda: planner.metric("connections", direction="outbound") == 0, "the connection to be gone")


def test_a_reload_decides_again_about_everything_that_connect_has_opened(site: Site, backend: Backend) -> None:
    planner, _ = world(site, backend)
    db, bound = tunnel(site, planner, DB), tunnel(site, planner, "tools.internal:80")
    established(db)
    established(bound)
    planner.config["drain_timeout"] = "20s"  # nothing that concerns them
    planner.reload()
    talks(db)
    bound.sendall(b"GET /1 HTTP/1.1\r\nHost: tools.internal\r\n\r\n")
    eventually(lambda: len(backend.requests) == 1, "the request inside")
    planner.await_log(http_path="/1")
    tools_entry, db_entry = planner.config["outbound"]
    tools_entry["hosts"], db_entry["hosts"] = ["other.internal"], ["other.internal:5432"]
    planner.reload()
    assert was_reset(db)
    bound.sendall(b"GET /2 HTTP/1.1\r\nHost: tools.internal\r\n\r\n")
    read_all(bound)
    (line,) = planner.await_log(event="tunnel")
    assert line["error"] == "entry_removed"
    assert [request.path for request in backend.requests] == ["/1"]


def test_a_listener_changes_between_one_entry_and_several(site: Site, backend: Backend) -> None:
    """The socket stays; what is taken as to a server is what only one entry can be meant by."""
    planner, _ = world(site, backend)
    second = planner.config["outbound"].pop()

    def status(make: Callable[[], Any]) -> int:
        return int(make().status)

    def as_to_a_server() -> Any:
        return ask(site.agent(planner), "GET", "/alone")

    assert status(as_to_a_server) == 403
    planner.reload()
    assert status(as_to_a_server) == 200
    sock = tunnel(site, planner, DB)
    assert sock.recv(100).startswith(b"HTTP/1.1 403 ")
    planner.config["outbound"].append(second)
    planner.reload()
    assert status(as_to_a_server) == 403
    sock = tunnel(site, planner, DB)
    established(sock)
    talks(sock)

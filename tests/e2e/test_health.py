"""Ensures that the health listener answers three questions, under any name, and can neither change nor tell anything else.

It is the one listener besides the data side that is on TCP, where the agent and every page that a browser shows can reach
it: so it must not matter who asks.
"""

from __future__ import annotations

import socket
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from prometheus_client.parser import text_string_to_metric_families

from tests.support.processes import LOOPBACK, Site, ask, free_port

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.support.processes import Sidecar


@pytest.fixture(scope="module")
def tools() -> Iterator[Sidecar]:
    with Site() as site:
        yield site.tools(1, health={"listen": f"{LOOPBACK}:{free_port()}"}).start()


def address(tools: Sidecar) -> str:
    return str(tools.config["health"]["listen"])


@pytest.mark.threat(25)
@pytest.mark.parametrize("host", ["localhost", "evil.example", "evil.example:80", "10.0.0.1", "[::1]"])
def test_threat_25_any_host_gets_the_three_answers(site: Site, tools: Sidecar, host: str) -> None:
    for path in ("/live", "/ready", "/metrics"):
        answer = ask(site.at(address(tools)), "GET", path, headers={"Host": host, "Origin": "https://evil.example"})
        assert answer.status == 200, path
        assert "access-control-allow-origin" not in answer.fields
    assert answer.fields["content-type"].startswith("text/plain; version=")
    assert {family.name for family in text_string_to_metric_families(answer.body.decode())} >= {"sidecar_build_info"}
    head = ask(site.at(address(tools)), "HEAD", "/ready", headers={"Host": host})
    assert (head.status, head.body) == (200, b"")


@pytest.mark.threat(25)
def test_threat_25_all_else_is_404_or_405_and_changes_nothing(site: Site, tools: Sidecar) -> None:
    for path in ("/", "/config", "/certs", "/connections", "/drain", "/ready/", "//ready", "/READY"):
        assert ask(site.at(address(tools)), "GET", path).status in {400, 404}, path
    assert ask(site.at(address(tools)), "POST", "/drain").status == 404
    for method in ("POST", "PUT", "DELETE", "OPTIONS"):
        answer = ask(site.at(address(tools)), method, "/ready")
        assert answer.status == 405, method
        assert answer.fields["allow"] == "GET, HEAD"
    assert tools.ready
    assert ask(site.at(address(tools)), "GET", "/ready?x=1").status == 200


@pytest.mark.threat(25)
@pytest.mark.parametrize(
    ("request_bytes", "status"),
    [
        (b"GET /ready HTTP/1.1\r\n\r\n", b"400"),
        (b"GET /ready HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n", b"400"),
        (b"GET http://evil.example/ready HTTP/1.1\r\nHost: evil.example\r\n\r\n", b"200"),
        (b"GET http://169.254.169.254/latest HTTP/1.1\r\nHost: 169.254.169.254\r\n\r\n", b"404"),
        (b"CONNECT 169.254.169.254:80 HTTP/1.1\r\nHost: 169.254.169.254:80\r\n\r\n", b"40"),
        (b"GET /ready HTTP/1.1\r\nHost: a\r\nX: " + b"x" * 20000 + b"\r\n\r\n", b"431"),
        (b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03", b"400"),
    ],
)
def test_threat_25_odd_requests_are_answered_and_closed(tools: Sidecar, request_bytes: bytes, status: bytes) -> None:
    with socket.create_connection((LOOPBACK, int(address(tools).rpartition(":")[2])), timeout=10) as sock:
        sock.sendall(request_bytes)
        received = b""
        while data := sock.recv(65536):
            received += data
    assert received.startswith(b"HTTP/1.1 " + status)
    assert tools.ready


@pytest.mark.needs("root")
def test_without_the_section_there_is_no_listener(site: Site) -> None:
    """Nothing of the process listens on TCP but what the data side names."""
    tools = site.tools(1).start()
    inode = {line.split()[9]: int(line.split()[1].split(":")[1], 16) for line in open_tcp()}
    listening = {inode[name] for name in sockets_of(tools.running.pid) if name in inode}
    assert listening == {tools.port()}


def open_tcp() -> list[str]:
    lines = [line for name in ("tcp", "tcp6") for line in Path(f"/proc/net/{name}").read_text().splitlines()[1:]]
    return [line for line in lines if line.split()[3] == "0A"]  # LISTEN


def sockets_of(pid: int) -> set[str]:
    links = [str(each.readlink()) for each in Path(f"/proc/{pid}/fd").iterdir()]
    return {link.removeprefix("socket:[").removesuffix("]") for link in links if link.startswith("socket:")}

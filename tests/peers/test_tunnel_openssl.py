"""`openssl s_client` and `s_server` at the other end of a tunnel, which say of themselves how a connection ended."""

from __future__ import annotations

import subprocess
from typing import TYPE_CHECKING

import pytest

from tests.support.eventually import eventually
from tests.support.processes import LOOPBACK, free_port
from tests.support.raw import agent, echo, exactly, planner, server, tools, turned_away, vanish

if TYPE_CHECKING:
    import socket
    from pathlib import Path

    from tests.support.processes import Site
    from tests.support.raw import Conversation

pytestmark = pytest.mark.needs("openssl")


def s_client(site: Site, port: int, *options: str, name: str = "planner", send: bytes = b"hello\n") -> str:
    """Runs s_client until the other side has ended; returns all it says."""
    if not site.path(f"{name}.crt").exists():
        site.identity(name)
    files = ("-CAfile", "ca.crt", "-cert", f"{name}.crt", "-key", f"{name}.key")
    done = subprocess.run(
        ["openssl", "s_client", "-connect", f"{LOOPBACK}:{port}", *files, "-ign_eof", *options],
        input=send,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        cwd=site.folder,
        timeout=30,
        check=False,
    )
    return done.stdout.decode(errors="replace")


def one_line(sock: socket.socket) -> None:
    """Answers one line, and ends."""
    line = b""
    while not line.endswith(b"\n"):
        line += sock.recv(1)
    sock.sendall(line.upper())


def test_s_client_hears_the_answer_and_close_notify(site: Site) -> None:
    called = tools(site, server(site, one_line)).start()
    said = s_client(site, called.port(), "-msg")
    assert "HELLO" in said
    assert "<<< TLS 1.3, Alert [length 0002], warning close_notify" in said
    assert called.await_log(event="tunnel")[0]["bytes_sent"] == 6


@pytest.mark.threat(43)
@pytest.mark.parametrize(("conversation", "name"), [(vanish, "planner"), (echo, "rogue")], ids=["reset", "denied"])
def test_threat_43_s_client_hears_no_close_notify_where_nothing_has_ended_well(
    site: Site, conversation: Conversation, name: str
) -> None:
    called = tools(site, server(site, conversation)).start()
    said = s_client(site, called.port(), "-msg", name=name, send=b"hello\n")
    assert "TLSv1.3" in said
    assert "<<< TLS 1.3, Alert" not in said


def test_no_protocol_is_agreed_on(site: Site) -> None:
    called = tools(site, server(site, one_line)).start()
    assert "No ALPN negotiated" in s_client(site, called.port(), "-alpn", "http/1.1,h2")


@pytest.mark.threat(59)
def test_threat_59_tls_1_2_is_no_way_in(site: Site) -> None:
    raw = server(site)
    called = tools(site, raw).start()
    assert "alert number 70" in s_client(site, called.port(), "-tls1_2")
    assert raw.connections == 0


# -- we call s_server ---------------------------------------------------------------------------------------------------


def s_server(site: Site, *options: str) -> tuple[int, subprocess.Popen[bytes], Path]:
    """Starts s_server as the tools; what it is given on its standard input goes to the agent."""
    site.identity("tools")
    port, said = free_port(), site.path("s_server.out")
    files = ("-cert", "tools.crt", "-key", "tools.key", "-CAfile", "ca.crt")
    with said.open("wb") as out:
        process = site.process(
            *("openssl", "s_server", "-accept", f"{LOOPBACK}:{port}", *files, "-Verify", "2", *options),
            stdin=subprocess.PIPE,
            stdout=out,
            stderr=out,
        )
    eventually(lambda: b"ACCEPT" in said.read_bytes(), "s_server to accept")
    return port, process, said


def test_s_server_is_spoken_with_in_both_directions(site: Site) -> None:
    port, process, said = s_server(site)
    sock = agent(site, planner(site, port).start())
    sock.sendall(b"from the agent\n")
    eventually(lambda: b"from the agent" in said.read_bytes(), "s_server to hear it")
    assert process.stdin is not None
    process.stdin.write(b"from the server\n")
    process.stdin.flush()
    assert exactly(sock, 16) == b"from the server\n"


@pytest.mark.threat(13, 27)
def test_threats_13_27_an_s_server_with_another_key_sees_no_certificate(site: Site) -> None:
    port, _, said = s_server(site, "-msg")
    calling = planner(site, port)
    calling.config["outbound"][0]["pins"] = ["sha256:" + "A" * 43 + "="]
    calling.start()
    assert turned_away(calling)
    assert calling.await_log(event="tunnel")[0]["error"] == "peer_pin_mismatch"
    received = [line for line in said.read_text(errors="replace").splitlines() if line.startswith("<<< TLS 1.3, Hand")]
    assert [line.rpartition(", ")[2] for line in received] == ["ClientHello"]

"""openssl and curl do TLS themselves, through CONNECT to an entry with passthrough: what a service and an agent see of it."""

from __future__ import annotations

import subprocess
from typing import TYPE_CHECKING, Any

import pytest

from tests.e2e.test_public import OK, get, planner, service
from tests.support.eventually import eventually
from tests.support.processes import LOOPBACK
from tests.support.raw import Raw
from tests.support.web import AUTHORITY, Web, https

if TYPE_CHECKING:
    import socket

    from tests.support.processes import Sidecar, Site


class Listener(Raw):
    """A server that only listens."""

    def __init__(self) -> None:
        super().__init__(self._listen)
        self.heard = b""

    def _listen(self, sock: socket.socket) -> None:
        while data := sock.recv(65536):
            self.heard += data


def passing_entry(server: Raw) -> list[dict[str, Any]]:
    hosts = ["localhost", f"localhost:{server.port}", "elsewhere.example"]
    return [service(server, passthrough=True, hosts=hosts)]


def passing(site: Site, server: Raw) -> Sidecar:
    site.path("ca.pem").write_bytes(AUTHORITY.pem)
    return planner(site, *passing_entry(server)).start()


def curl(site: Site, sidecar: Sidecar, *arguments: str) -> subprocess.CompletedProcess[str]:
    proxy = f"http://{LOOPBACK}:{sidecar.port('outbound')}"
    command = ["curl", "-sS", "--max-time", "20", "--cacert", str(site.path("ca.pem")), "-x", proxy, *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=30, check=False)


def s_client(site: Site, sidecar: Sidecar, *arguments: str) -> subprocess.CompletedProcess[bytes]:
    command = ["openssl", "s_client", "-quiet", "-proxy", f"{LOOPBACK}:{sidecar.port('outbound')}"]
    command += ["-CAfile", str(site.path("ca.pem")), "-verify_return_error", *arguments]
    request = b"GET /seen HTTP/1.1\r\nHost: localhost\r\n\r\n"
    return subprocess.run(command, input=request, capture_output=True, timeout=30, check=False)


@pytest.mark.needs("curl")
def test_curl_verifies_the_service_itself(site: Site) -> None:
    with Web(OK, https()) as server:
        sidecar = passing(site, server)
        done = curl(site, sidecar, f"https://localhost:{server.port}/seen")
        assert (done.returncode, done.stdout) == (0, "hello"), done.stderr
        assert server.requests[0].startswith(b"GET /seen HTTP/1.1\r\n")
        assert server.shown == [None]
    (line,) = sidecar.await_log(event="tunnel")
    assert (line["dst.name"], line["decision.rule"]) == (f"localhost:{server.port}", "outbound.llm")
    assert "/seen" not in sidecar.log_file.read_text()


@pytest.mark.needs("curl")
@pytest.mark.threat(26)
def test_curl_is_not_let_to_another_host(site: Site) -> None:
    with Web(OK, https()) as server:
        sidecar = passing(site, server)
        done = curl(site, sidecar, "https://169.254.169.254/")
        assert done.returncode == 56, done.stderr
        assert "403" in done.stderr
        assert server.versions == []


@pytest.mark.needs("curl")
def test_curl_is_not_let_to_another_host_by_its_tls(site: Site) -> None:
    """`--connect-to` names one host in CONNECT and another in TLS."""
    with Listener() as server:
        sidecar = passing(site, server)
        one, other = f"localhost:{server.port}", "elsewhere.example:443"
        done = curl(site, sidecar, "--connect-to", f"{one}:{other}", f"https://{one}/")
        assert done.returncode, done.stdout
        sidecar.await_log(error="sni_mismatch")
        eventually(lambda: len(server.ends) == 1, "the end of the connection to the service")
        assert server.heard == b""


@pytest.mark.needs("openssl")
@pytest.mark.parametrize("version", ["-tls1_2", "-tls1_3"])
def test_openssl_begins_for_the_host_that_it_named_or_for_none(site: Site, version: str) -> None:
    with Web(OK, https()) as server:
        sidecar = passing(site, server)
        target = ("-connect", f"localhost:{server.port}", version)
        done = s_client(site, sidecar, *target, "-servername", "LocalHost")
        assert b"hello" in done.stdout, done.stderr
        assert len(server.requests) == 1
    with Listener() as server:
        sidecar.config["outbound"] = passing_entry(server)
        sidecar.reload()
        target = ("-connect", f"localhost:{server.port}", version)
        for name in (("-servername", "other.internal"), ("-noservername",)):
            assert s_client(site, sidecar, *target, *name).returncode
        assert len(sidecar.await_log(2, error="sni_mismatch")) == 2
        eventually(lambda: len(server.ends) == 2, "the ends of the connections to the service")
        assert server.heard == b""


@pytest.mark.needs("curl")
def test_without_passthrough_curl_hears_that_the_proxy_does_the_tls(site: Site) -> None:
    with Web(OK, https()) as server:
        sidecar = planner(site, service(server)).start()
        assert "405" in curl(site, sidecar, f"https://localhost:{server.port}/").stderr
        done = curl(site, sidecar, f"http://localhost:{server.port}/seen")
        assert (done.returncode, done.stdout) == (0, "hello"), done.stderr
        assert get(site, sidecar, "/seen").body == b"hello"
        assert server.versions == ["TLSv1.3", "TLSv1.3"]

"""A key in a TPM and one in a token against foreign TLS: OpenSSL, pyOpenSSL (another OpenSSL), Envoy (BoringSSL), curl.

One sidecar for each kind of key and curve is both ends: its inbound port is called, and it calls a peer at each outbound
entry. Whatever the other side makes of it, the device has signed once for each handshake.
"""

from __future__ import annotations

import contextlib
import socket
import subprocess
import threading
from dataclasses import dataclass
from typing import TYPE_CHECKING

import pytest
from cryptography.hazmat.primitives.asymmetric import ec

from tests.support import envoy
from tests.support.ca import DAY
from tests.support.eventually import eventually
from tests.support.processes import LOOPBACK, PLANNER, TOOLS, Sidecar, Site, ask, free_port, inbound, now, outbound

if TYPE_CHECKING:
    from collections.abc import Iterator

    from OpenSSL import SSL

    from tests.support.backend import Backend
    from tests.support.processes import Answer

OURS = "spiffe://example.org/agent/both/1"
STRANGER = "spiffe://example.org/agent/stranger/1"
REQUEST = b"GET /%b HTTP/1.1\r\nHost: tools.internal\r\nConnection: close\r\n\r\n"
WHOLE = b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nwhole"
#: An outbound entry for each foreign server.
ENTRIES = ("openssl", "pyopenssl", "envoy", "strict-envoy")

_TPM, _TOKEN = pytest.mark.needs("swtpm", "tpm2-pytss"), pytest.mark.needs("softhsm", "python-pkcs11")
KEYS = [
    pytest.param((kind, curve), id=f"{kind}-{curve.key_size}", marks=mark)
    for kind, mark in (("tpm", _TPM), ("hsm", _TOKEN))
    for curve in (ec.SECP256R1, ec.SECP384R1)
]


@dataclass(frozen=True)
class Device:
    """A sidecar whose key is in a device, and all around it."""

    site: Site
    backend: Backend
    sidecar: Sidecar
    kind: str
    curve: type[ec.EllipticCurve]
    peers: dict[str, int]

    def ask(self, entry: str) -> Answer:
        """Asks the peer of an outbound entry, as the agent."""
        port = self.sidecar.port("outbound", ENTRIES.index(entry))
        return ask(self.site.at(f"{LOOPBACK}:{port}"), "GET", f"/{entry}", headers={"Host": "tools.internal"})

    @property
    def signatures(self) -> float:
        return self.sidecar.metric("sign_duration_seconds_count", protection=self.kind)

    @contextlib.contextmanager
    def signs_once(self) -> Iterator[None]:
        before = self.signatures
        yield
        eventually(lambda: self.signatures > before, "a signature")
        assert self.signatures == before + 1


@contextlib.contextmanager
def key_for(site: Site, sidecar: Sidecar, kind: str, curve: type[ec.EllipticCurve]) -> Iterator[None]:
    from tests.support import keyed

    if kind == "tpm":
        from tests.support.swtpm import Swtpm

        with Swtpm() as tpm:
            keyed.key_in_tpm(site, sidecar, tpm, curve=curve)
            yield
    else:
        from tests.support.softhsm import SoftHsm

        with SoftHsm() as hsm:
            keyed.key_in_token(site, sidecar, hsm, curve=curve)
            yield


@pytest.fixture(scope="module", params=KEYS)
def device(request: pytest.FixtureRequest) -> Iterator[Device]:
    kind, curve = request.param
    with Site() as site:
        for name in ("planner", "tools"):
            site.identity(name)
        backend = site.backend()
        peers = {entry: free_port() for entry in ENTRIES}
        sidecar = site.sidecar(
            "both",
            inbound=[inbound("both", backend.port, [{"caller": PLANNER}])],
            outbound=[outbound(entry, port) for entry, port in peers.items()],
        )
        with key_for(site, sidecar, kind, curve):
            sidecar.start()
            yield Device(site, backend, sidecar, kind, curve, peers)
            assert sidecar.stop() == 0
        assert "Traceback" not in sidecar.stderr


def test_the_key_is_in_the_device(device: Device) -> None:
    (shown,) = device.sidecar.ask("/certs").json["certs"]
    assert (shown["key_protection"], shown["identity"]) == (device.kind, OURS)
    assert not device.site.path("both.key").exists()


# -- they call us -------------------------------------------------------------------------------------------------------


@pytest.mark.needs("openssl")
def test_s_client(device: Device) -> None:
    files = ("-CAfile", "ca.crt", "-cert", "planner.crt", "-key", "planner.key")
    with device.signs_once():
        done = subprocess.run(
            ["openssl", "s_client", "-connect", f"{LOOPBACK}:{device.sidecar.port()}", *files, "-ign_eof"],
            input=REQUEST % b"s_client",
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            cwd=device.site.folder,
            timeout=30,
            check=False,
        )
    said = done.stdout.decode(errors="replace")
    assert "New, TLSv1.3" in said
    assert "Verify return code: 0 (ok)" in said
    assert f"Server public key is {device.curve.key_size} bit" in said
    assert "HTTP/1.1 200 OK" in said
    assert device.backend.of("/s_client")[-1].fields("x-sidecar-caller") == [PLANNER]


@pytest.mark.needs("curl")
def test_curl(device: Device) -> None:
    files = ("--cacert", "ca.crt", "--cert", "planner.crt", "--key", "planner.key")
    # A SPIFFE certificate names no host, and curl can check nothing else; the signature it checks in any case.
    command = ("curl", "-sS", "--max-time", "30", "--tlsv1.3", "--insecure", *files)
    with device.signs_once():
        done = subprocess.run(
            [*command, f"https://{LOOPBACK}:{device.sidecar.port()}/bytes/100000"],
            capture_output=True,
            cwd=device.site.folder,
            timeout=40,
            check=True,
        )
    assert done.stdout == b"x" * 100_000


@pytest.mark.needs("pyopenssl")
def test_pyopenssl_calls(device: Device) -> None:
    from OpenSSL import SSL

    from tests.support.tls import foreign_context

    planner = device.site.ca.leaf("/agent/planner/1", now=now(), lifetime=DAY)
    with device.signs_once(), socket.create_connection((LOOPBACK, device.sidecar.port()), timeout=20) as sock:
        sock.settimeout(None)  # pyOpenSSL knows blocking sockets or none
        connection = SSL.Connection(foreign_context(planner, device.site.ca.certificate), sock)
        connection.set_app_data([])
        connection.set_connect_state()
        connection.sendall(REQUEST % b"pyopenssl-calls")
        answer = b""
        with contextlib.suppress(SSL.ZeroReturnError):
            while True:
                answer += connection.recv(65536)
        assert identity(connection) == OURS
    assert answer.startswith(b"HTTP/1.1 200 OK\r\n")
    assert answer.endswith(b"hello\n")
    assert device.backend.of("/pyopenssl-calls")[-1].fields("x-sidecar-caller") == [PLANNER]


@pytest.mark.needs("envoy")
def test_envoy_calls(device: Device) -> None:
    port = envoy.calls(device.site, "planner", device.sidecar.port(), peer=OURS)
    client = device.site.at(f"{LOOPBACK}:{port}")
    with device.signs_once():
        assert ask(client, "GET", "/envoy-calls").body == b"hello\n"
        assert ask(client, "GET", "/envoy-calls").status == 200
    assert device.backend.of("/envoy-calls")[-1].fields("x-sidecar-caller") == [PLANNER]


@pytest.mark.needs("envoy")
def test_envoy_that_expects_somebody_else_sends_us_nothing(device: Device) -> None:
    """So what it verified above was our name."""
    port = envoy.calls(device.site, "planner", device.sidecar.port(), peer=STRANGER)
    with device.signs_once():
        answer = ask(device.site.at(f"{LOOPBACK}:{port}"), "GET", "/envoy-stranger")
    assert answer.status == 503
    assert device.sidecar.await_log(event="refused", error="peer_alert_certificate_unknown")
    assert not device.backend.of("/envoy-stranger")


# -- we call them -------------------------------------------------------------------------------------------------------


@pytest.mark.needs("openssl")
def test_s_server(device: Device) -> None:
    said = device.site.path("s_server.out")
    files = ("-cert", "tools.crt", "-key", "tools.key", "-CAfile", "ca.crt")
    accept = ("-accept", f"{LOOPBACK}:{device.peers['openssl']}", "-www", "-Verify", "2", "-verify_return_error")
    with said.open("wb") as out:
        device.site.process("openssl", "s_server", *accept, *files, stdout=out, stderr=out)
    eventually(lambda: b"ACCEPT" in said.read_bytes(), "s_server to accept")
    with device.signs_once():
        answer = device.ask("openssl")
    assert answer.status == 200
    assert b"TLSv1.3" in answer.body
    assert b"URI:" + OURS.encode() in answer.body, "s_server shows the certificate that it got"
    assert f"Public-Key: ({device.curve.key_size} bit)".encode() in answer.body
    (line,) = device.sidecar.await_log(event="request", http_path="/openssl")
    assert (line["dst.identity"], line["key.protection"]) == (TOOLS, device.kind)


class Served(threading.Thread):
    """pyOpenSSL as a server for one connection and one request; ``client`` is the name that it has verified."""

    def __init__(self, context: SSL.Context, port: int) -> None:
        super().__init__(daemon=True)
        self.context = context
        self.listener = socket.create_server((LOOPBACK, port))
        self.client = ""
        self.start()

    def run(self) -> None:
        from OpenSSL import SSL

        sock, _ = self.listener.accept()
        with sock:
            connection = SSL.Connection(self.context, sock)
            connection.set_app_data([])
            connection.set_accept_state()
            connection.do_handshake()
            self.client = identity(connection)
            received = b""
            while b"\r\n\r\n" not in received:
                received += connection.recv(65536)
            connection.sendall(WHOLE)
            connection.shutdown()


def identity(connection: SSL.Connection) -> str:
    """The SPIFFE ID in the certificate of the other side."""
    from cryptography import x509

    certificate = connection.get_peer_certificate(as_cryptography=True)
    assert certificate is not None
    names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    (found,) = names.get_values_for_type(x509.UniformResourceIdentifier)
    return str(found)


@pytest.mark.needs("pyopenssl")
def test_pyopenssl_serves(device: Device) -> None:
    from tests.support.tls import foreign_context

    tools = device.site.ca.leaf("/agent/tools/1", now=now(), lifetime=DAY)
    server = Served(foreign_context(tools, device.site.ca.certificate), device.peers["pyopenssl"])
    with server.listener, device.signs_once():
        answer = device.ask("pyopenssl")
        server.join(20)
    assert (answer.status, answer.body, server.client) == (200, b"whole", OURS)


@pytest.mark.needs("envoy")
def test_envoy_serves(device: Device) -> None:
    envoy.serves(device.site, "tools", device.backend.port, caller=OURS, port=device.peers["envoy"])
    with device.signs_once():
        assert device.ask("envoy").body == b"hello\n"
        assert device.ask("envoy").status == 200
    (told,) = device.backend.of("/envoy")[-1].fields("x-forwarded-client-cert")
    assert f"URI={OURS}" in told.split(";")


@pytest.mark.needs("envoy")
def test_envoy_that_serves_somebody_else_hears_no_request_of_ours(device: Device) -> None:
    envoy.serves(device.site, "tools", device.backend.port, caller=STRANGER, port=device.peers["strict-envoy"])
    with device.signs_once():
        answer = device.ask("strict-envoy")
    assert answer.status == 502  # over TLS 1.3 our handshake ends before the server has judged (RFC 8446 4.4.4)
    assert not device.backend.of("/strict-envoy")

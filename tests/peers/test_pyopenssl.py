"""pyOpenSSL over real sockets: another OpenSSL, linked by another binding, as a caller and as an upstream peer."""

from __future__ import annotations

import socket
import threading
from contextlib import suppress
from typing import TYPE_CHECKING

import pytest

from tests.support.ca import DAY, keypair
from tests.support.eventually import eventually
from tests.support.processes import LOOPBACK, PLANNER, TOOLS, Site, ask, now

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from OpenSSL import SSL

    from tests.support.ca import Identity
    from tests.support.processes import Pair

pytestmark = pytest.mark.needs("pyopenssl")

REQUEST = b"GET %b HTTP/1.1\r\nHost: tools.internal\r\n\r\n"


def dial(pair: Pair, identity: Identity | None, **knobs: object) -> tuple[SSL.Connection, list[int]]:
    """Connects to the inbound port; over TLS 1.3 the client's handshake ends before the server has judged."""
    from OpenSSL import SSL

    from tests.support.tls import foreign_context

    context = foreign_context(identity, pair.site.ca.certificate, **knobs)  # type: ignore[arg-type]  # its own knobs
    sock = socket.create_connection((LOOPBACK, pair.tools.port()), timeout=20)
    sock.settimeout(None)  # pyOpenSSL knows blocking sockets or none
    pair.site.owns(sock.close)
    connection = SSL.Connection(context, sock)
    alerts: list[int] = []
    connection.set_app_data(alerts)  # where the context notes the alerts that arrive
    connection.set_connect_state()
    return connection, alerts


def planner(pair: Pair) -> Identity:
    return pair.site.ca.leaf("/agent/planner/1", now=now(), lifetime=DAY)


def read_to_end(connection: SSL.Connection) -> tuple[bytes, bool]:
    """What came, and whether it ended with a close_notify."""
    from OpenSSL import SSL

    received = b""
    while True:
        try:
            received += connection.recv(65536)
        except SSL.ZeroReturnError:
            return received, True
        except SSL.Error:
            return received, False


def test_a_caller_is_served_and_told_goodbye(shared: Pair) -> None:
    connection, alerts = dial(shared, planner(shared))
    for n in range(3):
        connection.sendall(REQUEST % b"/pyopenssl")
        answer = b""
        while not answer.endswith(b"hello\n"):
            answer += connection.recv(65536)
        assert answer.startswith(b"HTTP/1.1 200 "), n
    assert connection.get_protocol_version_name() == "TLSv1.3"
    connection.sendall(REQUEST.replace(b"\r\n\r\n", b"\r\nConnection: close\r\n\r\n") % b"/pyopenssl")
    answer, clean = read_to_end(connection)
    assert answer.endswith(b"hello\n")
    assert clean
    assert alerts == [0]
    assert {request.fields("x-sidecar-caller")[0] for request in shared.backend.of("/pyopenssl")} == {PLANNER}


@pytest.mark.threat(4, 59)
def test_threat_4_a_stolen_certificate_without_its_key_is_refused(shared: Pair) -> None:
    """The chain is good and the signature is another key's: decrypt_error (RFC 8446 4.4.3)."""
    from OpenSSL import SSL

    from tests.support.tls import stolen_identity

    victim = planner(shared)
    connection, alerts = dial(shared, victim, key_pem=stolen_identity(victim, keypair("impostor")).key.lend(None))
    with suppress(SSL.Error):
        connection.sendall(REQUEST % b"/pyopenssl-stolen")
    answer, clean = read_to_end(connection)
    assert (answer, clean, alerts) == (b"", False, [51])
    assert not shared.backend.of("/pyopenssl-stolen")


@pytest.mark.threat(3, 59)
def test_threat_3_no_certificate(shared: Pair) -> None:
    connection, alerts = dial(shared, None)
    assert read_to_end(connection) == (b"", False)
    assert alerts == [116]


@pytest.mark.threat(59)
def test_threat_59_tls_1_2(shared: Pair) -> None:
    from OpenSSL import SSL

    connection, alerts = dial(shared, planner(shared), version=SSL.TLS1_2_VERSION)
    with pytest.raises(SSL.Error):
        connection.do_handshake()
    assert alerts == [70]


def test_a_caller_that_says_goodbye_first_cancels_its_request(shared: Pair) -> None:
    """A close_notify while the answer is under way: the server behind is told, and the cut answer gets no goodbye.

    Between two requests it is answered by ours.
    """
    abandoned = shared.backend.abandoned
    connection, alerts = dial(shared, planner(shared))
    connection.sendall(REQUEST % b"/events")
    eventually(lambda: shared.backend.streams == 1, "the stream")
    shared.backend.emit("one")
    answer = b""
    while b"data: one" not in answer:
        answer += connection.recv(65536)
    connection.shutdown()
    rest, clean = read_to_end(connection)
    assert b"0\r\n\r\n" not in rest
    assert (clean, alerts) == (False, [])
    eventually(lambda: shared.backend.abandoned == abandoned + 1, "the server to be told")
    connection, alerts = dial(shared, planner(shared))
    connection.sendall(REQUEST % b"/bytes/3")
    assert connection.recv(65536).endswith(b"xxx")
    connection.shutdown()
    assert read_to_end(connection) == (b"", True)
    assert alerts == [0]


class Peer(threading.Thread):
    """A TLS server that answers one request as it is told, and ends as it is told."""

    def __init__(self, site: Site, identity: Identity, answer: bytes, *, goodbye: bool = True, **knobs: object) -> None:
        from tests.support.tls import foreign_context

        super().__init__(daemon=True)
        self.context = foreign_context(identity, site.ca.certificate, **knobs)  # type: ignore[arg-type]
        self.answer = answer
        self.goodbye = goodbye
        self.received = b""
        self.client: str | None = None
        self.error = ""
        self.socket = socket.create_server((LOOPBACK, 0))
        self.port: int = self.socket.getsockname()[1]
        site.owns(self.end)
        self.start()

    def run(self) -> None:
        from cryptography import x509
        from OpenSSL import SSL

        try:
            sock, _ = self.socket.accept()
        except OSError:
            return  # the test is over
        connection = SSL.Connection(self.context, sock)
        connection.set_app_data([])
        connection.set_accept_state()
        try:
            connection.do_handshake()
            certificate = connection.get_peer_certificate(as_cryptography=True)
            if certificate is not None:
                names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
                self.client = names.get_values_for_type(x509.UniformResourceIdentifier)[0]
            while b"\r\n\r\n" not in self.received:
                self.received += connection.recv(65536)
            connection.sendall(self.answer)
            if self.goodbye:
                connection.shutdown()
        except SSL.Error as error:
            self.error = repr(error)
        finally:
            with suppress(OSError):
                sock.shutdown(socket.SHUT_RDWR)
            sock.close()

    def end(self) -> None:
        with suppress(OSError):
            self.socket.shutdown(socket.SHUT_RDWR)
        self.socket.close()
        self.join(10)


@pytest.fixture
def site() -> Iterator[Site]:
    with Site() as made:
        yield made


CLOSE_DELIMITED = b"HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\n\r\n" + b"y" * 50_000
WHOLE = b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nwhole"


def tools(site: Site) -> Identity:
    return site.ca.leaf("/agent/tools/1", now=now(), lifetime=DAY)


def test_an_upstream_peer_is_proven_and_gets_our_identity(site: Site) -> None:
    peer = Peer(site, tools(site), WHOLE)
    sidecar = site.planner(peer.port).start()
    answer = ask(site.agent(sidecar), "GET", "/x")
    assert (answer.status, answer.body) == (200, b"whole")
    peer.join(10)
    assert (peer.client, peer.error) == (PLANNER, "")
    assert peer.received.startswith(b"GET /x HTTP/1.1\r\n")
    (line,) = sidecar.await_log(event="request")
    assert line["dst.identity"] == TOOLS


@pytest.mark.threat(43)
@pytest.mark.parametrize("goodbye", [True, False])
def test_threat_43_a_body_that_ends_with_its_connection_is_whole_only_after_a_goodbye(
    site: Site, goodbye: bool
) -> None:
    import http.client

    peer = Peer(site, tools(site), CLOSE_DELIMITED, goodbye=goodbye)
    sidecar = site.planner(peer.port).start()
    agent = site.agent(sidecar)
    if goodbye:
        assert ask(agent, "GET", "/x").body == b"y" * 50_000
    else:
        with pytest.raises((http.client.IncompleteRead, ConnectionError)):
            ask(agent, "GET", "/x")
    (line,) = sidecar.await_log(event="request")
    assert line.get("error") == (None if goodbye else "truncated_body")


def other_name(site: Site) -> dict[str, object]:
    return {"identity": site.ca.leaf("/agent/impostor/1", now=now(), lifetime=DAY)}


def stolen(site: Site) -> dict[str, object]:
    from tests.support.tls import stolen_identity

    victim = tools(site)
    return {"identity": victim, "key_pem": stolen_identity(victim, keypair("impostor")).key.lend(None)}


@pytest.mark.threat(27)
@pytest.mark.parametrize(("impostor", "code"), [(other_name, "peer_name_mismatch"), (stolen, "bad_signature")])
def test_threat_27_an_impostor_gets_neither_certificate_nor_request(
    site: Site, impostor: Callable[[Site], dict[str, object]], code: str
) -> None:
    peer = Peer(site, answer=WHOLE, **impostor(site))  # type: ignore[arg-type]
    sidecar = site.planner(peer.port).start()
    answer = ask(site.agent(sidecar), "POST", "/secret", body=b"secret")
    assert (answer.status, answer.json["error"]) == (502, "upstream_tls")
    peer.join(10)
    assert (peer.client, peer.received) == (None, b"")
    assert peer.error
    (line,) = sidecar.await_log(event="request")
    assert line["error"] == code

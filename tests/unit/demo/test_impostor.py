"""The impostor is a fair witness: it reports a certificate when it gets one, and none when it gets none."""

from __future__ import annotations

import socket
import ssl
import threading
from typing import TYPE_CHECKING

import pytest

from sidecar.clock import Clock
from sidecar.demo.impostor import Sighting, meet
from sidecar.devcerts.generate import generate
from sidecar.devcerts.layout import Order

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path


@pytest.fixture
def certs(tmp_path: Path) -> Path:
    generate(Order.parse(tmp_path, ["planner", "tools"]), Clock().wall())
    return tmp_path


def context(certs: Path, agent: str, protocol: int) -> ssl.SSLContext:  # noqa: TID251 - a stranger's own TLS
    made = ssl.SSLContext(protocol)  # noqa: TID251
    made.check_hostname = False
    made.load_cert_chain(certs / agent / "tls.crt", certs / agent / "tls.key")
    made.load_verify_locations(certs / "ca.crt")
    made.verify_mode = ssl.CERT_REQUIRED
    return made


def witness(certs: Path, visit: Callable[[socket.socket], None]) -> Sighting:
    here, there = socket.socketpair()
    seen: list[Sighting] = []
    server = context(certs, "tools", ssl.PROTOCOL_TLS_SERVER)
    with here, there:
        here.settimeout(5)
        there.settimeout(5)
        thread = threading.Thread(target=lambda: seen.append(meet(there, server)))
        thread.start()
        visit(here)
        here.close()
        thread.join(5)
    return seen[0]


def test_a_careless_client_shows_its_certificate(certs: Path) -> None:
    client = context(certs, "planner", ssl.PROTOCOL_TLS_CLIENT)

    def careless(plain: socket.socket) -> None:
        with client.wrap_socket(plain, suppress_ragged_eofs=True) as tls:
            tls.recv(1)

    seen = witness(certs, lambda plain: careless_until_closed(careless, plain))
    assert seen.finished
    assert seen.certificate == "spiffe://example.org/agent/planner/1"
    assert seen.after_answer > 0


def careless_until_closed(visit: Callable[[socket.socket], None], plain: socket.socket) -> None:
    plain.settimeout(0.5)
    with pytest.raises(TimeoutError):
        visit(plain)


def test_a_client_that_looks_first_shows_nothing(certs: Path) -> None:
    client = context(certs, "planner", ssl.PROTOCOL_TLS_CLIENT)

    def careful(plain: socket.socket) -> None:
        incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
        tls = client.wrap_bio(incoming, outgoing)
        with pytest.raises(ssl.SSLWantReadError):
            tls.do_handshake()
        plain.sendall(outgoing.read())
        while True:
            incoming.write(plain.recv(65536))
            try:
                tls.do_handshake()
            except ssl.SSLWantReadError:
                continue
            break  # the peer's key is known now, and what lies in `outgoing` is never sent

    seen = witness(certs, careful)
    assert seen.hello > 0
    assert seen.answered > 0
    assert (seen.after_answer, seen.finished, seen.certificate) == (0, False, None)


def test_garbage_is_survived(certs: Path) -> None:
    seen = witness(certs, lambda plain: plain.sendall(b"GET / HTTP/1.1\r\n\r\n"))
    assert not seen.finished
    assert seen.certificate is None

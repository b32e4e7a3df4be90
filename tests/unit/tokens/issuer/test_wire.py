"""One connection in a blocking thread: which address it takes, both limits of time, and how another thread ends it."""

from __future__ import annotations

import gc
import select
import socket
import threading
import time

import pytest

from sidecar.tls.web import web_context
from sidecar.tokens.codes import SourceCode, SourceError
from sidecar.tokens.issuer.url import Endpoint
from sidecar.tokens.issuer.wire import MAX_RECEIVED, Stage, Wire
from tests.support.eventually import eventually
from tests.support.raw import RESET, Raw, echo
from tests.support.web import AUTHORITY, Web, hanging, https, page, sending


def wire(step: float = 10, total: float = 20) -> Wire:
    return Wire(step, time.monotonic() + total)


def at(port: int, host: str = "127.0.0.1") -> Endpoint:
    return Endpoint(secure=False, host=host, port=port, target="/")


def addresses(monkeypatch: pytest.MonkeyPatch, *hosts: str) -> None:
    """Lets every name have these addresses."""

    def getaddrinfo(_: object, port: int, **__: object) -> list[object]:
        families = [socket.AF_INET6 if ":" in host else socket.AF_INET for host in hosts]
        kind = socket.SOCK_STREAM
        return [(family, kind, 6, "", (host, port)) for family, host in zip(families, hosts, strict=True)]

    monkeypatch.setattr(socket, "getaddrinfo", getaddrinfo)


def test_bytes_go_both_ways() -> None:
    with Raw(echo) as server:
        line = wire()
        line.open(at(server.port), None)
        line.sendall(b"hello\n")
        assert line.makefile("rb").readline() == b"hello\n"
        line.close()  # http.client's, which means nothing
        line.sendall(b"again\n")
        assert line.makefile("rb").readline() == b"again\n"
        line.end()
        eventually(lambda: server.ends == ["ok"], "the end")
        for call in (lambda: line.sendall(b"x"), lambda: line.receive(bytearray(1))):
            with pytest.raises(ConnectionAbortedError):
                call()


def test_the_first_address_that_answers_is_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    with Raw(echo) as server:
        addresses(monkeypatch, "::1", "127.0.0.2", "127.0.0.1", "127.0.0.3")
        line = wire()
        line.open(at(server.port, "idp.internal"), None)
        line.end()
        eventually(lambda: server.ends == ["ok"], "the one connection")


@pytest.mark.parametrize("hosts", [(), ("127.0.0.2",), ("127.0.0.2", "127.0.0.3")])
def test_no_address_answers(hosts: tuple[str, ...], monkeypatch: pytest.MonkeyPatch) -> None:
    with Raw(echo) as server:
        addresses(monkeypatch, *hosts)
        line = wire()
        with pytest.raises(OSError):
            line.open(at(server.port), None)
        assert line.stage is Stage.CONNECT
        line.end()


def test_a_step_has_its_limit() -> None:
    with Web(hanging) as server:
        line = wire(step=0.1)
        line.open(at(server.port), None)
        with pytest.raises(TimeoutError):
            line.receive(bytearray(1))
        line.end()


def test_a_step_has_no_more_than_is_left_of_all() -> None:
    with Raw(lambda sock: sock.recv(1) and None) as server:
        line = wire(step=60, total=0.2)
        line.open(at(server.port), None)
        began = time.monotonic()
        with pytest.raises(TimeoutError):
            line.receive(bytearray(1))
        assert time.monotonic() - began < 10
        with pytest.raises(TimeoutError):
            line.sendall(b"too late")
        line.end()


def test_one_that_was_stopped_before_it_began_connects_to_nobody() -> None:
    with Raw(echo) as server:
        line = wire()
        line.stop()
        with pytest.raises(TimeoutError):
            line.open(at(server.port), None)
        line.end()
        assert server.connections == 0


@pytest.mark.parametrize("tls", [False, True], ids=["plaintext", "tls"])
def test_one_that_waits_is_woken(tls: bool) -> None:
    """And what it would send after that goes nowhere: of a TLS socket nothing becomes a plain one."""
    ended: list[object] = []
    with Web(hanging, https() if tls else None) as server:
        line = wire(step=60, total=60)
        line.open(at(server.port), web_context(AUTHORITY.pem) if tls else None)
        line.sendall(b"GET / HTTP/1.1\r\n\r\n")

        def wait() -> None:
            try:
                ended.append(line.receive(bytearray(1)))
            except OSError as error:
                ended.append(error)

        thread = threading.Thread(target=wait, daemon=True)
        thread.start()
        eventually(lambda: server.requests, "the request")
        line.stop()
        line.stop()
        thread.join(20)
        assert ended
        with pytest.raises(TimeoutError):
            line.sendall(b"too late")
        line.end()
        line.end()
        line.stop()
        eventually(lambda: server.open == 0, "the end")


def test_all_that_is_read_is_bounded() -> None:
    with Web(sending(page(b"x" * (2 * MAX_RECEIVED)))) as server:
        line = wire()
        line.open(at(server.port), None)
        line.sendall(b"GET / HTTP/1.1\r\n\r\n")
        with pytest.raises(SourceError) as caught:
            line.makefile("rb").read()
        assert caught.value.code is SourceCode.TOO_LARGE
        line.end()


def test_one_that_resets_before_the_handshake_leaves_nothing_open(monkeypatch: pytest.MonkeyPatch) -> None:
    """What CPython forgets to close is a warning, and so an error here."""
    with Raw(hang_up) as server:
        line = wire()
        monkeypatch.setattr(line, "_connect", lambda _: reset_by(server))
        with pytest.raises(ConnectionResetError):
            line.open(at(server.port), web_context(AUTHORITY.pem))
        assert line.stage is Stage.HANDSHAKE
        line.end()
        gc.collect()


def hang_up(sock: socket.socket) -> None:
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET)
    sock.close()


def reset_by(server: Raw) -> socket.socket:
    """A connection that the server has reset, and nobody knows it yet."""
    sock = socket.create_connection(("127.0.0.1", server.port))
    poll = select.poll()
    poll.register(sock, 0)
    assert poll.poll(10_000)
    return sock

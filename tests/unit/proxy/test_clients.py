"""Who is at the other end of a plaintext connection: the face that both ways of asking share, and what each has alone."""

from __future__ import annotations

import os
import socket
import struct
import sys
from contextlib import closing
from dataclasses import dataclass
from typing import TYPE_CHECKING

import pytest

from sidecar.proxy.clients import Clients, own_and, shared_uid
from sidecar.proxy.failure import BindCode, BindError, ProxyCode, StrangerError
from sidecar.sock_diag import ESTABLISHED, LISTEN, Found, NotFoundError

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

OURS = os.geteuid()
LINUX = pytest.mark.skipif(sys.platform != "linux", reason="on no other system can it be asked")


@dataclass
class Served:
    """A connection of our own: its client, its accepted end, and the socket that it was accepted from."""

    client: socket.socket
    sock: socket.socket
    listening: socket.socket


@pytest.fixture(params=[pytest.param("tcp", marks=LINUX), pytest.param("tcp6", marks=LINUX), "unix"])
def served(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Served]:
    if request.param == "unix":
        listening, address = socket.socket(socket.AF_UNIX), str(tmp_path / "s")
        listening.bind(address)
        listening.listen()
    else:
        family = socket.AF_INET6 if request.param == "tcp6" else socket.AF_INET
        listening = socket.create_server(("::1" if request.param == "tcp6" else "127.0.0.1", 0), family=family)
        address = listening.getsockname()
    with listening, socket.socket(listening.family) as client:
        client.connect(address)
        sock, _ = listening.accept()
        with sock:
            yield Served(client, sock, listening)


@pytest.fixture
def clients() -> Iterator[Clients]:
    with closing(Clients()) as clients:
        yield clients


def test_our_own_user_is_let_in_and_named(served: Served, clients: Clients) -> None:
    found = clients.admit(served.sock, own_and(()))
    assert found is not None
    assert found.uid == OURS
    assert found.pid == (os.getpid() if served.sock.family == socket.AF_UNIX else None)


@pytest.mark.threat(61)
def test_threat_61_another_user_is_a_stranger_who_is_named(served: Served, clients: Clients) -> None:
    with pytest.raises(StrangerError) as caught:
        clients.admit(served.sock, {OURS + 1})
    assert caught.value.code is ProxyCode.UID_NOT_ALLOWED
    assert caught.value.client is not None
    assert caught.value.client.uid == OURS


def test_a_listening_socket_whose_clients_can_be_told_apart_passes(served: Served, clients: Clients) -> None:
    clients.try_out(served.listening, own_and(()))


@LINUX
@pytest.mark.threat(61)
def test_threat_61_a_client_that_has_gone_already_is_a_stranger(clients: Clients) -> None:
    """What is left of its connection is shown by the kernel as root's, who may well be us."""
    with socket.create_server(("127.0.0.1", 0)) as listening:
        with socket.socket() as client:
            client.connect(listening.getsockname())
        sock, _ = listening.accept()
        with sock, pytest.raises(StrangerError) as caught:
            clients.admit(sock, own_and((0,)))
    assert caught.value.code is ProxyCode.UID_UNKNOWN
    assert caught.value.client is None


@LINUX
def test_a_client_that_has_half_closed_is_let_in(clients: Clients) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listening, socket.socket() as client:
        client.connect(listening.getsockname())
        client.shutdown(socket.SHUT_WR)
        sock, _ = listening.accept()
        with sock:
            assert clients.admit(sock, own_and(())) is not None


@LINUX
@pytest.mark.threat(61)
def test_threat_61_who_has_the_port_of_a_client_that_was_reset_does_not_pass_for_it() -> None:
    """The kernel is asked by the two ends alone: another user's connection, gone meanwhile, is not ours for having had them."""
    with socket.create_server(("127.0.0.1", 0)) as listening, socket.socket() as client:
        client.connect(listening.getsockname())
        client.sendall(b"GET / HTTP/1.1\r\n\r\n")
        sock, _ = listening.accept()

        class Late(Kernel):
            def find(self, own: tuple[str, int], other: tuple[str, int]) -> Found:
                client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
                client.close()
                return super().find(own, other)

        with sock, pytest.raises(StrangerError) as caught:
            Clients(Late(Found(ESTABLISHED, OURS, 5))).admit(sock, own_and(()))  # type: ignore[arg-type]
    assert caught.value.code is ProxyCode.UID_UNKNOWN


class Kernel:
    """Takes the place of sock_diag."""

    def __init__(self, found: Found | OSError) -> None:
        self.found = found
        self.asked: list[tuple[tuple[str, int], tuple[str, int]]] = []

    def find(self, own: tuple[str, int], other: tuple[str, int]) -> Found:
        self.asked.append((own, other))
        if isinstance(self.found, OSError):
            raise self.found
        return self.found


class Accepted:
    """Takes the place of an accepted TCP socket."""

    family = socket.AF_INET

    def __init__(self, own: str, other: str) -> None:
        self.own, self.other = own, other

    def getsockname(self) -> tuple[str, int]:
        return self.own, 80

    def getpeername(self) -> tuple[str, int]:
        return self.other, 50000


def asked(kernel: Kernel, own: str, other: str) -> object:
    return Clients(kernel).admit(Accepted(own, other), {1000})  # type: ignore[arg-type]


@LINUX
@pytest.mark.parametrize(
    "found",
    [
        NotFoundError(),
        PermissionError(),
        BlockingIOError(),
        Found(ESTABLISHED, 1000, 0),  # its process is gone
        Found(6, 0, 0),  # TIME_WAIT
        Found(2, 1000, 5),  # SYN_SENT: another connection, of the same two ends, that is only being made
        Found(LISTEN, 1000, 5),
    ],
)
@pytest.mark.threat(61)
def test_threat_61_what_the_kernel_does_not_say_plainly_is_a_stranger(found: Found | OSError) -> None:
    with pytest.raises(StrangerError) as caught:
        asked(Kernel(found), "127.0.0.1", "127.0.0.1")
    assert caught.value.code is ProxyCode.UID_UNKNOWN


@LINUX
@pytest.mark.parametrize(
    ("own", "other", "local"),
    [
        ("127.0.0.1", "127.0.0.1", True),
        ("127.9.9.9", "10.0.0.5", True),  # another address of this machine: nothing else reaches loopback
        ("10.0.0.5", "127.0.0.1", True),
        ("::1", "::1", True),
        ("10.0.0.5", "10.0.0.6", False),
        ("fd00::1", "fd00::2", False),
    ],
)
def test_whoever_comes_over_loopback_is_asked_for_and_nobody_else(own: str, other: str, local: bool) -> None:
    kernel = Kernel(Found(ESTABLISHED, 1000, 5))
    assert (asked(kernel, own, other) is not None) is local
    assert kernel.asked == ([((other, 50000), (own, 80))] if local else [])


@LINUX
def test_a_kernel_that_does_not_know_our_own_socket_is_told_before_anybody_connects(clients: Clients) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listening:
        for found in (NotFoundError(), OSError(93, "Protocol not supported"), Found(ESTABLISHED, 0, 1)):
            with pytest.raises(OSError):
                Clients(Kernel(found)).try_out(listening, ())  # type: ignore[arg-type]


def test_on_another_system_a_tcp_client_is_not_looked_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sidecar.proxy.clients._LINUX", False)
    kernel = Kernel(PermissionError())
    assert asked(kernel, "127.0.0.1", "127.0.0.1") is None
    assert kernel.asked == []


def test_root_is_served_only_where_it_is_named_or_us() -> None:
    assert own_and((7,)) == {OURS, 7}


@pytest.mark.threat(61)
def test_threat_61_a_uid_that_many_users_share_is_nobody_s(served: Served) -> None:
    """In a user namespace all users without a number there look alike, though one of them be ourselves."""
    with closing(Clients(shared=OURS)) as clients:
        with pytest.raises(StrangerError) as caught:
            clients.admit(served.sock, own_and(()))
        assert caught.value.code is ProxyCode.UID_UNKNOWN
        assert caught.value.client is not None
        with pytest.raises(BindError, match="no number in this user namespace") as refused:
            clients.try_out(served.listening, own_and(()))
        assert refused.value.code is BindCode.UIDS_UNKNOWN
        clients.try_out(served.listening, (OURS + 1,))


@LINUX
@pytest.mark.parametrize(
    ("mapped", "shared"),
    [
        ("         0          0 4294967295\n", None),
        ("0 1000 1\n1 100000 65536\n", 4711),
        ("0 0 2147483648\n2147483648 2147483648 2147483647\n", None),
        ("", 4711),
        ("garbage", 65534),
        (None, None),
    ],
)
def test_the_uid_that_users_share_is_the_kernel_s(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, mapped: str | None, shared: int | None
) -> None:
    if mapped is not None:
        (tmp_path / "map").write_text(mapped)
    (tmp_path / "overflow").write_text("4711\n")
    monkeypatch.setattr("sidecar.proxy.clients._UID_MAP", tmp_path / "map")
    monkeypatch.setattr("sidecar.proxy.clients._OVERFLOW", tmp_path / "overflow")
    assert shared_uid() == shared

"""Whose a TCP socket is: asked of the real kernel, and read from answers that are whole, cut short or made up."""

from __future__ import annotations

import errno
import os
import socket
import struct
import sys
from contextlib import closing, suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sidecar.sock_diag import CONNECTED, ESTABLISHED, LISTEN, Found, NotFoundError, SockDiag, answer, request

if TYPE_CHECKING:
    from collections.abc import Iterator

LINUX = pytest.mark.skipif(sys.platform != "linux", reason="sock_diag is Linux")

OWN, OTHER = ("127.0.0.1", 40000), ("127.0.0.1", 8080)


@dataclass
class Pair:
    """A connection over loopback, both of its ends here."""

    listening: socket.socket
    client: socket.socket
    served: socket.socket

    @property
    def ends(self) -> tuple[tuple[str, int], tuple[str, int]]:
        return self.served.getpeername()[:2], self.served.getsockname()[:2]


@pytest.fixture(params=["ipv4", "ipv6", "ipv4 from an IPv6 socket"])
def pair(request: pytest.FixtureRequest) -> Iterator[Pair]:
    here, there = {"ipv4": ("127.0.0.1",) * 2, "ipv6": ("::1",) * 2}.get(
        request.param, ("127.0.0.1", "::ffff:127.0.0.1")
    )
    family = socket.AF_INET6 if ":" in here else socket.AF_INET
    with (
        socket.create_server((here, 0), family=family) as listening,
        socket.socket(socket.AF_INET6 if ":" in there else socket.AF_INET) as client,
    ):
        client.connect((there, listening.getsockname()[1]))
        served, _ = listening.accept()
        with served:
            yield Pair(listening, client, served)


@pytest.fixture
def diag() -> Iterator[SockDiag]:
    with closing(SockDiag()) as diag:
        yield diag


@LINUX
def test_a_client_is_found_with_its_uid(pair: Pair, diag: SockDiag) -> None:
    found = diag.find(*pair.ends)
    assert (found.state, found.uid) == (ESTABLISHED, os.geteuid())
    assert found.inode == os.fstat(pair.client.fileno()).st_ino


@LINUX
def test_a_client_that_sends_no_more_is_still_there(pair: Pair, diag: SockDiag) -> None:
    pair.client.shutdown(socket.SHUT_WR)
    found = diag.find(*pair.ends)
    assert found.state in CONNECTED
    assert found.inode != 0


@LINUX
def test_a_client_that_has_closed_is_nobodys(pair: Pair, diag: SockDiag) -> None:
    """The kernel calls what is left of it root's: state and inode tell."""
    ends = pair.ends
    pair.client.close()
    assert diag.find(*ends).inode == 0
    pair.served.close()
    with suppress(NotFoundError):
        found = diag.find(*ends)
        assert found.state not in CONNECTED
        assert found.inode == 0


@LINUX
def test_a_listening_socket_is_found_by_its_one_end(pair: Pair, diag: SockDiag) -> None:
    own = pair.listening.getsockname()[:2]
    found = diag.find(own, ("::" if ":" in own[0] else "0.0.0.0", 0))
    assert (found.state, found.uid) == (LISTEN, os.geteuid())


@LINUX
def test_a_connection_that_is_not_there_is_not_found(diag: SockDiag) -> None:
    with pytest.raises(NotFoundError):
        diag.find(("127.0.0.1", 1), ("127.0.0.2", 1))


@LINUX
def test_what_is_no_address_is_an_error_and_the_next_question_is_answered(pair: Pair, diag: SockDiag) -> None:
    for ends in ((("name", 1), ("name", 2)), (("::1", 1), ("127.0.0.1", 2)), (("127.0.0.1", 70000), ("127.0.0.1", 1))):
        with pytest.raises(OSError):
            diag.find(*ends)
    assert diag.find(*pair.ends).state == ESTABLISHED


# --- answers


def whole(
    sequence: int = 7,
    *,
    kind: int = 20,
    state: int = ESTABLISHED,
    uid: int = 1000,
    inode: int = 5,
    own: tuple[str, int] = OWN,
    other: tuple[str, int] = OTHER,
) -> bytes:
    """An answer as the kernel writes it, for an IPv4 socket."""
    ends = struct.pack(
        "!HH16s16s12s", own[1], other[1], socket.inet_aton(own[0]), socket.inet_aton(other[0]), b"\1" * 12
    )
    body = struct.pack("=BBBB48sIIIII", socket.AF_INET, state, 0, 0, ends, 0, 0, 0, uid, inode)
    return struct.pack("=IHHII", 16 + len(body), kind, 0, sequence, 99) + body


def refused(number: int) -> bytes:
    return struct.pack("=IHHIIi", 36, 2, 0, 7, 99, number) + b"\0" * 16


def test_a_question_has_the_lengths_of_the_kernels_structures() -> None:
    asked = request(7, OWN, OTHER)
    assert len(asked) == 72  # struct nlmsghdr (16) and struct inet_diag_req_v2 (56)
    assert struct.unpack_from("=IHHII", asked) == (72, 20, 1, 7, 0)
    assert struct.unpack_from("=BBBBI", asked, 16) == (socket.AF_INET, socket.IPPROTO_TCP, 0, 0, 0xFFFFFFFF)
    assert asked[24:28] == struct.pack("!HH", 40000, 8080)
    assert len(whole()) == 88  # struct inet_diag_msg is 72


def test_an_answer_is_read() -> None:
    assert answer(whole(), 7, OWN, OTHER) == Found(ESTABLISHED, 1000, 5)
    assert answer(whole() + b"attributes", 7, OWN, OTHER) == Found(ESTABLISHED, 1000, 5)


def test_an_answer_to_another_question_is_none() -> None:
    assert answer(whole(6), 7, OWN, OTHER) is None


def test_the_kernels_refusals_are_told_apart() -> None:
    with pytest.raises(NotFoundError):
        answer(refused(-errno.ENOENT), 7, OWN, OTHER)
    with pytest.raises(PermissionError):
        answer(refused(-errno.EPERM), 7, OWN, OTHER)
    for number in (0, 1):
        with pytest.raises(OSError, match="without a number"):
            answer(refused(number), 7, OWN, OTHER)


@pytest.mark.parametrize(
    "data",
    [
        whole(own=("127.0.0.1", 40001)),
        whole(other=("127.0.0.1", 8081)),
        whole(own=("127.0.0.2", 40000)),
        whole(other=("127.0.0.2", 8080)),
        whole(kind=3),
        whole(kind=21),
        whole(state=LISTEN, own=("127.0.0.1", 1)),
    ],
)
def test_an_answer_about_another_socket_is_refused(data: bytes) -> None:
    with pytest.raises(ValueError, match="another"):
        answer(data, 7, OWN, OTHER)


def test_an_answer_that_is_cut_short_is_refused() -> None:
    for length in range(len(whole())):
        with pytest.raises((ValueError, struct.error)):
            answer(whole()[:length], 7, OWN, OTHER)


@given(st.binary(max_size=120), st.booleans())
def test_garbage_is_never_a_socket(data: bytes, header: bool) -> None:
    """Whatever arrives that the kernel did not write for this question, no uid comes of it."""
    data = struct.pack("=IHHII", 16 + len(data), 20, 0, 7, 0) + data if header else data
    try:
        found = answer(data, 7, OWN, OTHER)
    except (OSError, ValueError, struct.error):
        return
    assert found is None


class Netlink:
    """Takes the place of the socket."""

    def __init__(self, *answers: tuple[bytes, tuple[int, int]]) -> None:
        self.answers = list(answers)
        self.closed = False

    def send(self, data: bytes) -> None:
        self.asked = data

    def recvfrom(self, size: int) -> tuple[bytes, tuple[int, int]]:
        if not self.answers:
            raise BlockingIOError
        return self.answers.pop(0)

    def close(self) -> None:
        self.closed = True


def faked(netlink: Netlink) -> SockDiag:
    diag = SockDiag()
    diag._sock = netlink  # type: ignore[assignment]
    diag._sequence = 6
    return diag


def test_what_is_left_over_and_what_others_sent_is_read_past() -> None:
    netlink = Netlink((whole(6), (0, 0)), (whole(uid=0), (4711, 0)), (whole(), (0, 0)))
    assert faked(netlink).find(OWN, OTHER).uid == 1000
    assert not netlink.closed


@pytest.mark.parametrize("answers", [[], [(whole()[:40], (0, 0))], [(whole(6), (0, 0))] * 20])
def test_without_an_answer_the_netlink_socket_is_given_up(answers: list[tuple[bytes, tuple[int, int]]]) -> None:
    netlink = Netlink(*answers)
    diag = faked(netlink)
    with pytest.raises(OSError):
        diag.find(OWN, OTHER)
    assert netlink.closed
    assert diag._sock is None

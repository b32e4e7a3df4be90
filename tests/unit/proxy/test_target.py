"""Where a connection is made to: the face that TCP and UNIX targets share."""

from __future__ import annotations

import asyncio
import socket
from contextlib import suppress
from dataclasses import dataclass
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import pytest

from sidecar.proxy.target import TcpTarget, UnixTarget
from tests.support.eventually import soon

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from sidecar.proxy.target import Target

LOOPBACK = "127.0.0.1"


class Made(asyncio.Protocol):
    """Takes the place of a stream."""

    def __init__(self) -> None:
        self.transport: Any = None
        self.lost = 0

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = transport

    def connection_lost(self, exc: BaseException | None) -> None:
        self.lost += 1


@dataclass
class Place:
    """A target with the socket that it leads to, which does not listen yet."""

    target: Target
    sock: socket.socket
    text: str


@pytest.fixture(params=["tcp", "unix"])
def place(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Place]:
    if request.param == "tcp":
        sock = socket.socket()
        sock.bind((LOOPBACK, 0))
        port = sock.getsockname()[1]
        found = Place(TcpTarget(LOOPBACK, port), sock, f"{LOOPBACK}:{port}")
    else:
        sock = socket.socket(socket.AF_UNIX)
        path = str(tmp_path / "s")
        sock.bind(path)
        found = Place(UnixTarget(path), sock, f"unix:{path}")
    with sock:
        yield found


async def open_(target: Target) -> Made:
    made = Made()
    await target.open(asyncio.get_running_loop(), made)  # type: ignore[arg-type]
    return made


async def test_a_target_names_itself_for_the_log(place: Place) -> None:
    assert place.target.text == place.text


def test_an_ipv6_address_is_named_in_brackets() -> None:
    assert TcpTarget("::1", 80).text == "[::1]:80"


async def test_bytes_pass_both_ways_over_the_connection_that_is_made(place: Place) -> None:
    place.sock.listen(1)
    made = await open_(place.target)
    there, _ = place.sock.accept()
    with there:
        there.setblocking(False)
        made.transport.write(b"word")
        assert await asyncio.get_running_loop().sock_recv(there, 9) == b"word"
        made.transport.abort()
        await soon(lambda: made.lost == 1, "the end")


async def test_where_nobody_listens_the_connection_is_refused(place: Place) -> None:
    with pytest.raises(ConnectionRefusedError):
        await open_(place.target)


async def test_a_socket_file_that_is_missing_is_told_by_its_own_error(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        await open_(UnixTarget(str(tmp_path / "none")))


async def test_a_file_that_is_no_socket_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(ConnectionRefusedError):
        await open_(UnixTarget(str(tmp_path / "file")))


async def test_a_full_queue_is_asked_again_until_there_is_room(tmp_path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as sock, socket.socket(socket.AF_UNIX) as first:
        sock.bind(str(tmp_path / "s"))
        sock.listen(0)
        first.connect(str(tmp_path / "s"))
        opening = asyncio.get_running_loop().create_task(open_(UnixTarget(str(tmp_path / "s"))))
        done, _ = await asyncio.wait([opening], timeout=0.1)
        assert not done
        sock.accept()[0].close()
        made = await opening
        made.transport.abort()
        await soon(lambda: made.lost == 1, "the end")


async def test_of_those_who_wait_for_room_one_asks_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """And who comes meanwhile waits behind them: else each of a thousand would ask a hundred times a second."""
    asked: list[str] = []

    class Counting(socket.socket):
        def connect(self, address: Any) -> None:
            asked.append(address)
            super().connect(address)

    monkeypatch.setattr("sidecar.proxy.target.socket", SimpleNamespace(socket=Counting, AF_UNIX=socket.AF_UNIX))
    with socket.socket(socket.AF_UNIX) as sock, socket.socket(socket.AF_UNIX) as first:
        path = str(tmp_path / "s")
        sock.bind(path)
        sock.listen(0)
        first.connect(path)
        target = UnixTarget(path)
        opening = [asyncio.get_running_loop().create_task(open_(target)) for _ in range(100)]
        await soon(lambda: len(asked) >= 3, "somebody to ask again")
        assert len(asked) < 50
        opening[0].cancel()  # who asks gives up: another one does
        opening[5].cancel()  # one that waits gives up
        before = len(asked)
        await soon(lambda: len(asked) > before + 1, "the next to ask")
        sock.setblocking(False)

        def accept() -> bool:
            with suppress(BlockingIOError):
                sock.accept()[0].close()
            return sum(task.done() for task in opening) == 100

        await soon(accept, "all of them to have their turn")
        for task in opening:
            if not task.cancelled():
                task.result().transport.abort()


async def test_a_wait_for_room_that_is_given_up_leaves_no_socket_behind(tmp_path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as sock, socket.socket(socket.AF_UNIX) as first:
        sock.bind(str(tmp_path / "s"))
        sock.listen(0)
        first.connect(str(tmp_path / "s"))
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(open_(UnixTarget(str(tmp_path / "s"))), 0.05)

"""Accepting: what the system may say instead, with a socket that says it."""

from __future__ import annotations

import asyncio
import errno
import os
import socket
from typing import TYPE_CHECKING, cast

import pytest

from sidecar.accept import BATCH, FIRST_PAUSE, LONGEST_PAUSE, Acceptor
from sidecar.telemetry.messages import Messages
from tests.support.eventually import soon
from tests.support.lacking import Lacking
from tests.support.pair import turns

if TYPE_CHECKING:
    from pathlib import Path

LOOPBACK = "127.0.0.1"


def listening() -> socket.socket:
    sock = socket.socket()
    sock.setblocking(False)
    sock.bind((LOOPBACK, 0))
    sock.listen(100)
    return sock


class Greeter(asyncio.Protocol):
    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        greeted = cast("asyncio.Transport", transport)
        greeted.write(b"hello")
        asyncio.get_running_loop().call_soon(greeted.close)


class Stage:
    def __init__(self, folder: Path, *errors: int) -> None:
        real = listening()
        self.port = real.getsockname()[1]
        self.sock = Lacking(real, errors)
        self.failures: list[str] = []
        self.addresses: list[object] = []
        self.refuses = False
        self.path = folder / "stderr"
        self.fd = os.open(self.path, os.O_WRONLY | os.O_CREAT)
        self.acceptor = Acceptor(
            asyncio.get_running_loop(),
            self.sock,  # type: ignore[arg-type] # as much of one as is used
            self.take,
            messages=Messages(lambda: 0.0, fd=self.fd),
            failed=self.failures.append,
            address="somewhere",
        )
        self.acceptor.start()

    def take(self, sock: socket.socket, address: object) -> asyncio.Protocol | None:
        self.addresses.append(address)
        return None if self.refuses else Greeter()

    async def greeted(self) -> bytes:
        reader, writer = await asyncio.open_connection(LOOPBACK, self.port)
        try:
            return await asyncio.wait_for(reader.read(), 10)
        except ConnectionError:
            return b""
        finally:
            writer.close()

    async def end(self) -> str:
        self.acceptor.close()
        await turns()  # what was greeted is gone by then
        os.close(self.fd)
        return self.path.read_text()


async def test_one_that_is_not_taken_is_closed(tmp_path: Path) -> None:
    stage = Stage(tmp_path)
    stage.refuses = True
    assert await stage.greeted() == b""
    assert stage.addresses[0][0] == LOOPBACK  # type: ignore[index]
    stage.refuses = False
    assert await stage.greeted() == b"hello"
    await stage.end()


@pytest.mark.parametrize("number", [errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM, errno.EINVAL])
async def test_with_nothing_left_it_pauses_longer_each_time_and_says_so_once(tmp_path: Path, number: int) -> None:
    stage = Stage(tmp_path, *[number] * 4)
    began = asyncio.get_running_loop().time()
    assert await stage.greeted() == b"hello"
    assert asyncio.get_running_loop().time() - began >= FIRST_PAUSE * (1 + 2 + 4 + 8) * 0.9
    assert stage.failures == [errno.errorcode[number]] * 4
    await soon(lambda: "accepts again" in stage.path.read_text(), "the end of it to be told")
    assert not stage.acceptor.paused
    told = await stage.end()
    assert told.count("cannot accept") == 1
    assert f"error={errno.errorcode[number]}" in told


async def test_no_pause_is_longer_than_the_longest(tmp_path: Path) -> None:
    stage = Stage(tmp_path, *[errno.EMFILE] * 1000)
    reader, writer = await asyncio.open_connection(LOOPBACK, stage.port)
    await soon(lambda: stage.acceptor.paused, "a pause")
    for _ in range(20):
        stage.acceptor._back_off(OSError(errno.EMFILE, "x"))
        timer = stage.acceptor._timer
        assert timer is not None
        pause = timer.when() - asyncio.get_running_loop().time()
        assert pause < LONGEST_PAUSE + 0.001, "what is added to a time and taken away again is rounded"
        timer.cancel()
        stage.acceptor._resume()
    del reader
    writer.close()
    await stage.end()


async def test_what_befell_one_connection_does_not_hold_up_the_next(tmp_path: Path) -> None:
    stage = Stage(tmp_path, errno.ECONNABORTED, errno.EPROTO)
    assert await stage.greeted() == b"hello"
    assert stage.failures == ["ECONNABORTED", "EPROTO"]
    assert await stage.end() == "", "nobody has to do anything about it"


async def test_it_can_be_closed_while_it_pauses(tmp_path: Path) -> None:
    stage = Stage(tmp_path, *[errno.EMFILE] * 1000)
    _, writer = await asyncio.open_connection(LOOPBACK, stage.port)
    await soon(lambda: stage.acceptor.paused, "a pause")
    await stage.end()
    tries = stage.sock.tries
    await asyncio.sleep(FIRST_PAUSE * 4)
    assert stage.sock.tries == tries
    writer.close()


async def test_a_flood_is_accepted_in_batches_with_turns_for_others_in_between(tmp_path: Path) -> None:
    stage = Stage(tmp_path)
    stage.refuses = True
    loop = asyncio.get_running_loop()
    most, last = 0, 0

    def watch() -> None:
        nonlocal most, last
        most, last = max(most, len(stage.addresses) - last), len(stage.addresses)
        loop.call_soon(watch)

    clients = [socket.create_connection((LOOPBACK, stage.port)) for _ in range(3 * BATCH)]
    loop.call_soon(watch)
    await soon(lambda: len(stage.addresses) == 3 * BATCH, "all of them")
    assert most <= BATCH
    for client in clients:
        client.close()
    await stage.end()
    watch = lambda: None  # noqa: E731 - ends the chain


async def test_an_exception_of_whoever_takes_closes_the_connection_and_is_told(tmp_path: Path) -> None:
    stage = Stage(tmp_path)
    told: list[object] = []
    asyncio.get_running_loop().set_exception_handler(lambda _, context: told.append(context["exception"]))

    def broken(sock: socket.socket, address: object) -> asyncio.Protocol:
        raise ZeroDivisionError

    stage.acceptor._take = broken
    assert await stage.greeted() == b""
    assert isinstance(told[0], ZeroDivisionError)
    stage.acceptor._take = stage.take
    assert await stage.greeted() == b"hello"
    asyncio.get_running_loop().set_exception_handler(None)
    await stage.end()

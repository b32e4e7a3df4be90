from __future__ import annotations

import asyncio
import os
import socket

import pytest

from sidecar.app.bequest import Bequest
from sidecar.config.values import TcpAddress
from tests.support.eventually import soon


def test_nothing_is_nothing() -> None:
    assert Bequest.take(None, None) == Bequest()


def test_a_bound_socket_is_that_of_its_place() -> None:
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        host, port = sock.getsockname()
        descriptor = sock.detach()
        os.set_inheritable(descriptor, True)
    taken = Bequest.take(None, descriptor)
    assert taken.agent == TcpAddress(host, port)
    ((place, found),) = taken.sockets.items()
    with found.sock as sock:
        assert place == ("outbound", TcpAddress(host, port))
        assert not sock.get_inheritable()
        assert not sock.getblocking()


def test_what_is_no_descriptor_is_an_error_of_the_system() -> None:
    with pytest.raises(OSError, match="Bad file descriptor"):
        Bequest.take(999, None)
    with pytest.raises(OSError, match="Bad file descriptor"):
        Bequest.take(None, 999)


async def test_the_end_of_the_lifeline_is_told_once() -> None:
    reading, writing = os.pipe()
    told: list[bool] = []
    Bequest.take(reading, None).watch(asyncio.get_running_loop(), lambda: told.append(True))
    await asyncio.sleep(0)
    assert told == []
    os.close(writing)
    await soon(lambda: told, "the end to be seen")
    for _ in range(3):
        await asyncio.sleep(0)
    assert told == [True]
    os.close(reading)

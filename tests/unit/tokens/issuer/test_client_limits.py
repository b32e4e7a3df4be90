"""The client ends in time whatever an issuer does, holds up no event loop, and leaves no thread behind."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import threading
import time

import pytest

from sidecar.tokens.codes import SourceCode
from tests.support.eventually import soon
from tests.support.issuer_client import FORM, Rig, failure
from tests.support.raw import Raw
from tests.support.web import Web, dripping, hanging, https, page, sending

#: The limit of a step, in seconds, where a test waits for it.
SHORT = 0.3
HEAD = b"HTTP/1.1 200 OK\r\n"
SLOW = {
    "silence": hanging,
    "drip-of-status": dripping(b"", b"H"),
    "drip-of-head": dripping(HEAD, b"X"),
    "drip-of-fields": dripping(HEAD, b"X: y\r\n"),
    "drip-of-body": dripping(HEAD + b"Content-Length: 100000\r\n\r\n", b"x"),
    "drip-without-end": dripping(HEAD + b"\r\n", b"x"),
    "drip-of-chunks": dripping(HEAD + b"Transfer-Encoding: chunked\r\n\r\n", b"1\r\nx\r\n"),
    "drip-of-trailers": dripping(HEAD + b"Transfer-Encoding: chunked\r\n\r\n0\r\n", b"X: y\r\n"),
    "drip-of-continue": dripping(b"", b"HTTP/1.1 100 Continue\r\n\r\n"),
}


@pytest.mark.threat(23)
@pytest.mark.parametrize("tls", [False, True], ids=["plaintext", "tls"])
async def test_threat_23_a_server_that_takes_its_time_gets_no_more_than_its_limit(tls: bool) -> None:
    rig = Rig(threads=len(SLOW), waiting=len(SLOW), step=SHORT, plaintext=True)

    async def ended(server: Web) -> tuple[SourceCode, bool]:
        began = time.monotonic()
        error = await failure(rig.client.post(server.url(), FORM))
        took = time.monotonic() - began
        assert f"localhost:{server.port}" in str(error)
        assert "`timeout`" in error.hint
        return error.code, SHORT * 0.9 < took < SHORT * 2 + 1

    with contextlib.ExitStack() as stack:
        servers = {name: stack.enter_context(Web(slow, https() if tls else None)) for name, slow in SLOW.items()}
        ends = await asyncio.gather(*(ended(server) for server in servers.values()))
        assert dict(zip(servers, ends, strict=True)) == dict.fromkeys(SLOW, (SourceCode.TIMEOUT, True))
        await soon(lambda: rig.idle, "the threads' end")
        await soon(lambda: not any(server.open for server in servers.values()), "the connections' end")


async def test_a_server_that_accepts_and_makes_no_handshake() -> None:
    rig = Rig(threads=1, step=SHORT)
    with Raw(hanging_before_tls) as server:
        error = await failure(rig.client.get(f"https://localhost:{server.port}/"))
        assert error.code is SourceCode.TIMEOUT
        assert "in the TLS handshake" in str(error)
        await soon(lambda: rig.idle and server.ends == ["ok"], "the thread's and the connection's end")


def hanging_before_tls(sock: socket.socket) -> None:
    while sock.recv(65536):
        pass


async def test_a_server_that_drips_in_the_handshake() -> None:
    def drip(sock: socket.socket) -> None:
        never = threading.Event()
        sock.sendall(b"\x16\x03\x03\x40\x00")  # a record of 16 KiB
        while not never.wait(0.02):
            sock.sendall(b"\x02")

    rig = Rig(threads=1, step=SHORT)
    with Raw(drip) as server:
        error = await failure(rig.client.get(f"https://localhost:{server.port}/"))
        assert error.code is SourceCode.TIMEOUT
        await soon(lambda: rig.idle and server.ends, "the thread's and the connection's end")


async def test_a_server_that_takes_nothing() -> None:
    """Its buffers fill, and ours; what is sent then waits."""
    rig = Rig(threads=1, step=SHORT, plaintext=True)
    never = threading.Event()
    with Raw(lambda _: never.wait(20) and None) as server:
        form = [("client_assertion", "x" * 20_000_000)]
        error = await failure(rig.client.post(f"http://localhost:{server.port}/", form))
        assert error.code is SourceCode.TIMEOUT
        assert "sent" in str(error)
        await soon(lambda: rig.idle, "the thread's end")
        never.set()


async def test_a_resolver_that_hangs_holds_up_nobody_but_its_thread(monkeypatch: pytest.MonkeyPatch) -> None:
    asked, go = threading.Event(), threading.Event()
    really = socket.getaddrinfo

    def getaddrinfo(host: bytes, *rest: object, **more: object) -> object:
        asked.set()
        go.wait(20)
        return really(host, *rest, **more)  # type: ignore[arg-type]  # as they came

    with Web(sending(page()), https()) as server:
        monkeypatch.setattr(socket, "getaddrinfo", getaddrinfo)
        rig = Rig(threads=1, step=SHORT)
        began = time.monotonic()
        error = await failure(rig.client.get(server.url()))
        assert asked.is_set()
        assert error.code is SourceCode.TIMEOUT
        assert "looked up" in str(error)
        assert time.monotonic() - began < SHORT * 2 + 1
        assert not rig.idle
        go.set()
        await soon(lambda: rig.idle, "the thread's end")
        assert server.connections == 0  # it came too late


async def test_one_who_waits_no_more_ends_the_exchange() -> None:
    rig = Rig(threads=1, step=60)
    with Web(hanging, https()) as server:
        waiting = asyncio.get_running_loop().create_task(rig.client.post(server.url(), FORM))
        await soon(lambda: server.requests, "the request")
        waiting.cancel()
        with pytest.raises(asyncio.CancelledError):
            await waiting
        await soon(lambda: rig.idle and server.open == 0, "the thread's and the connection's end")


async def test_the_loop_goes_on_while_a_server_hangs() -> None:
    rig = Rig(threads=4, waiting=8, step=SHORT)
    gaps: list[float] = []

    async def tick() -> None:
        while True:
            before = time.monotonic()
            await asyncio.sleep(0.005)
            gaps.append(time.monotonic() - before)

    with Web(dripping(HEAD, b"X"), https()) as server:
        ticking = asyncio.get_running_loop().create_task(tick())
        errors = await asyncio.gather(*(failure(rig.client.get(server.url())) for _ in range(4)))
        ticking.cancel()
    assert {error.code for error in errors} == {SourceCode.TIMEOUT}
    assert len(gaps) > 20
    assert max(gaps) < SHORT


async def test_more_than_may_wait_is_refused_at_once() -> None:
    rig = Rig(threads=1, waiting=1, step=60)
    with Web(hanging, https()) as server:
        loop = asyncio.get_running_loop()
        first = loop.create_task(rig.client.get(server.url()))
        await soon(lambda: server.requests, "the request")
        second = loop.create_task(rig.client.get(server.url()))
        await soon(lambda: rig.workers.waiting == 1, "the second in the queue")
        error = await failure(rig.client.get(server.url()))
        assert error.code is SourceCode.BUSY
        for task in (first, second):
            task.cancel()
        await asyncio.gather(first, second, return_exceptions=True)
        await soon(lambda: rig.idle, "the thread's end")
        assert server.connections == 1


async def test_one_whose_turn_never_comes_is_told_that_it_is_our_fault() -> None:
    rig, patient = Rig(threads=1, step=SHORT), Rig(step=60)
    patient.client._workers = rig.workers
    with Web(hanging, https()) as server:
        first = asyncio.get_running_loop().create_task(patient.client.get(server.url()))
        await soon(lambda: server.requests, "the request")
        error = await failure(rig.client.get(server.url()))
        assert error.code is SourceCode.BUSY
        assert rig.workers.waiting == 0  # it is not begun later either
        assert server.connections == 1
        first.cancel()
        await asyncio.gather(first, return_exceptions=True)


async def test_a_thread_that_was_held_serves_the_next_one() -> None:
    rig = Rig(threads=1, step=SHORT)
    with Web(hanging, https()) as server:
        assert (await failure(rig.client.get(server.url()))).code is SourceCode.TIMEOUT
        server.answer = sending(page())
        assert (await rig.client.get(server.url())).status == 200


async def test_many_at_once() -> None:
    rig = Rig(threads=4, waiting=64)
    with Web(sending(page()), https()) as server:
        answers = await asyncio.gather(*(rig.client.post(server.url(), FORM) for _ in range(40)))
    assert [answer.status for answer in answers] == [200] * 40
    assert len(server.requests) == 40

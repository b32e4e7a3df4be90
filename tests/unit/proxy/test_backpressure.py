"""Nobody who is slow makes us hold more than a bound, in either direction."""

from __future__ import annotations

import asyncio
import os
import socket
import tracemalloc
from typing import TYPE_CHECKING

import pytest

from sidecar.proxy.downstream import HELD_BYTES
from sidecar.proxy.stream import HIGH_WATER
from tests.support.clock import Shifted
from tests.support.pair import HELLO, Plan, Upstream, keep_answering, read_head, settled, world

if TYPE_CHECKING:
    from pathlib import Path


GET = b"GET /mcp HTTP/1.1\r\nHost: tools.internal\r\n\r\n"
POST = b"POST /mcp HTTP/1.1\r\nHost: tools.internal\r\n"
#: Bytes through a slow reader or to a slow upstream: 64 MiB, or what SIDECAR_SOAK asks for (1: 1 GiB).
BULK = (1024 if os.environ.get("SIDECAR_SOAK") else 64) * 1024 * 1024


@pytest.mark.soak
@pytest.mark.threat(47, 48)
async def test_threats_47_48_a_large_answer_through_a_slow_reader_holds_memory_constant(tmp_path: Path) -> None:
    piece = b"x" * 65536

    async def large(upstream: Upstream, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await read_head(reader)
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % BULK)
        for _ in range(BULK // len(piece)):
            writer.write(piece)
            await writer.drain()
        await reader.read()

    async with world(tmp_path, Plan(upstream=Upstream(large))) as w:
        agent = await w.plain()
        agent.send(GET)
        head = await agent.head()
        assert b"Content-Length: %d" % BULK in head
        size, worst, turns = len(agent.buffer), 0, 0
        agent.buffer.clear()
        tracemalloc.start()
        while size < BULK:
            await agent.more()
            size += len(agent.buffer)
            agent.buffer.clear()
            turns += 1
            if turns % 16 == 0:
                worst = max(worst, *(stream.unsent + sum(map(len, stream.gathered)) for stream in w.hub.streams))
                await asyncio.sleep(0)
        _, peak = tracemalloc.get_traced_memory()
        tracemalloc.stop()
        assert size == BULK
        assert worst < 1024 * 1024
        assert peak < 16 * 1024 * 1024
        await w.logged(2, bytes_sent=BULK)


@pytest.mark.soak
@pytest.mark.threat(47)
@pytest.mark.parametrize("framing", ["length", "chunked"])
async def test_threat_47_a_large_body_to_a_slow_upstream_holds_memory_constant(tmp_path: Path, framing: str) -> None:
    got = 0

    async def slow(upstream: Upstream, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal got
        await read_head(reader)
        while got < BULK:
            data = await reader.read(65536)
            got += data.count(b"x")
            await asyncio.sleep(0)
        writer.write(upstream.answer)
        await reader.read()

    piece = b"x" * 65536
    if framing == "chunked":
        head, piece_sent, last = b"Transfer-Encoding: chunked\r\n\r\n", b"10000\r\n" + piece + b"\r\n", b"0\r\n\r\n"
    else:
        head, piece_sent, last = b"Content-Length: %d\r\n\r\n" % BULK, piece, b""
    async with world(tmp_path, Plan(upstream=Upstream(slow))) as w:
        agent = await w.plain()
        agent.send(POST + head)
        tracemalloc.start()
        worst = 0
        for _ in range(BULK // len(piece)):
            agent.send(piece_sent)
            await agent.writer.drain()
            worst = max(worst, *(stream.unsent + sum(map(len, stream.gathered)) for stream in w.hub.streams))
        agent.send(last)
        await w.eventually(lambda: got == BULK, 60)
        _, peak = tracemalloc.get_traced_memory()
        tracemalloc.stop()
        assert (await agent.response()).status == 200
        assert worst < 1024 * 1024
        assert peak < 16 * 1024 * 1024
        await w.logged(2, bytes_received=BULK)


@pytest.mark.threat(47)
async def test_threat_47_a_hundred_thousand_chunks_of_one_byte_pass(tmp_path: Path) -> None:
    count = 100_000
    async with world(tmp_path) as w:
        agent = await w.plain()
        agent.send(POST + b"Transfer-Encoding: chunked\r\n\r\n" + b"1\r\nx\r\n" * count + b"0\r\n\r\n")
        assert (await agent.response()).status == 200
        await w.logged(2, bytes_received=count)
        assert len(w.upstream.bodies[0]) < count * 2  # they are sent on by the read, not by the byte


async def test_an_upstream_that_we_hold_up_is_not_blamed_for_its_silence(tmp_path: Path) -> None:
    size = 32 * 1024 * 1024
    answer = b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % size + b"x" * size
    shifted = Shifted()
    plan = Plan(upstream=Upstream(answer=answer), clock=shifted.clock).with_limits(stream_idle_timeout=10.0)
    async with world(tmp_path, plan) as w:
        agent = await w.plain()
        agent.writer.transport.pause_reading()  # type: ignore[attr-defined]
        agent.send(GET)
        await w.eventually(lambda: sum(c.stream.writing_paused for c in w.hub.connections) == 2)
        for _ in range(2):  # all in all less than `stall_timeout`
            shifted.monotonic += 11
            w.hub._sweep()
        agent.writer.transport.resume_reading()  # type: ignore[attr-defined]
        await agent.until(lambda: len(agent.buffer) > size)


async def test_who_asks_and_does_not_read_gets_no_more_answers_than_fit(tmp_path: Path) -> None:
    shifted = Shifted()
    async with world(tmp_path, Plan(clock=shifted.clock)) as w:
        agent = await w.plain()
        agent.writer.transport.pause_reading()  # type: ignore[attr-defined]
        denied = b"GET / HTTP/1.1\r\nHost: nowhere\r\n\r\n"
        agent.send(denied * 400_000)
        await w.eventually(lambda: any(c._gated for c in w.hub.connections), 20)
        (connection,) = w.hub.connections
        await settled(lambda: connection.requests)
        assert connection.requests < 200_000
        assert connection.stream.unsent < 512 * 1024
        assert connection.stream.reading_paused
        assert connection._receiver.held < 2 * 256 * 1024
        # Once it reads, it goes on where it was.
        agent.writer.transport.resume_reading()  # type: ignore[attr-defined]
        before = connection.requests
        for _ in range(before + 1000):
            assert (await agent.response()).status == 403
        assert connection.requests > before
        # And when it stops for good, it is cut.
        agent.writer.transport.pause_reading()  # type: ignore[attr-defined]
        agent.buffer.clear()
        await settled(lambda: connection.stream.delivered)
        for _ in range(2):
            shifted.monotonic += w.hub.limits.stall_timeout + 1
            w.hub._sweep()
        await w.eventually(lambda: not w.hub.connections)


async def test_so_are_answers_of_an_upstream_from_one_to_the_next(tmp_path: Path) -> None:
    size, count = 20_000, 60
    answer = b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % size + b"x" * size
    async with world(tmp_path, Plan(upstream=Upstream(answer=answer))) as w:
        agent = await w.plain()
        assert (await agent.ask(GET)).status == 200
        (connection,) = [c for c in w.hub.connections if c.peer is None]
        # Little room in the kernel, so that it is full while answers are whole by themselves.
        connection.stream._transport.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4096)
        agent.writer.transport.pause_reading()  # type: ignore[attr-defined]
        agent.writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        agent.send(GET * count)
        await w.eventually(lambda: connection._gated)
        await settled(lambda: connection.requests)
        assert connection.requests < count
        assert connection.stream.unsent < HIGH_WATER + 2 * size


async def test_what_is_pipelined_behind_a_slow_answer_is_held_up_to_a_bound(tmp_path: Path) -> None:
    go_on = asyncio.Event()

    async def slow(upstream: Upstream, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        upstream.heads.append(await read_head(reader))
        await go_on.wait()
        writer.write(HELLO)
        await keep_answering(upstream, reader, writer)

    async with world(tmp_path, Plan(upstream=Upstream(slow))) as w:
        agent = await w.plain()
        count = 8 * 1024 * 1024 // len(GET)
        agent.send(GET * count)
        await w.eventually(lambda: len(w.upstream.heads) == 1)
        (connection,) = [c for c in w.hub.connections if c.peer is None]
        await w.eventually(lambda: connection.stream.reading_paused)
        assert HELD_BYTES < connection._receiver.held < HELD_BYTES + 512 * 1024
        go_on.set()
        for _ in range(2000):
            assert (await agent.response()).body == b"hello"

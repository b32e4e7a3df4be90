"""WebSockets through both sidecars: who gets one, what passes, and everything that ends one."""

from __future__ import annotations

import asyncio
import errno
import json
import os
import socket
import struct
import sys
from importlib.abc import MetaPathFinder
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import pytest

from sidecar.limits import Limits
from sidecar.proxy.stream import NEVER
from sidecar.proxy.upgrade import WebSocket, _End
from tests.support.clock import Shifted
from tests.support.pair import HELLO, Plan, Upstream, keep_answering, read_head, rule, settled, turns, world
from tests.support.websocket import KEY, agreeing, asking, echo, key_in

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable
    from pathlib import Path

    from tests.support.pair import World
    from tests.support.wire import Client, Response

    Script = Callable[[Upstream, asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]

GET = b"GET /mcp HTTP/1.1\r\nHost: tools.internal\r\n\r\n"
HOUR = 3600.0


async def opened(w: World, *fields: bytes, client: Client | None = None) -> Client:
    """A client whose WebSocket stands; the answer is taken off."""
    agent: Client = await w.plain() if client is None else client
    agent.send(asking(*fields))
    assert (await agent.head()).startswith(b"HTTP/1.1 101 Switching Protocols\r\n")
    return agent


def sockets(w: World) -> list[WebSocket]:
    return [connection for connection in w.hub.connections if isinstance(connection, WebSocket)]


async def said(client: Client, data: bytes) -> None:
    """Sends bytes and waits for their echo."""
    client.send(data)
    await client.until(lambda: bytes(client.buffer) == data)
    client.buffer.clear()


def reset(writer: asyncio.StreamWriter) -> None:
    """Ends a connection by a TCP reset."""
    writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    writer.transport.abort()


# -- the way to one -----------------------------------------------------------------------------------------------------


async def test_a_websocket_is_carried_end_to_end_and_logged_at_its_end(tmp_path: Path) -> None:
    async with world(tmp_path, Plan(upstream=Upstream(echo))) as w:
        agent = await w.plain()
        agent.send(asking(b"Sec-WebSocket-Protocol: chat", b"Keep-Alive: 5", connection=b"keep-alive, Upgrade, X-Hop"))
        head = await agent.head()
        assert head.startswith(b"HTTP/1.1 101 Switching Protocols\r\n")
        assert b"\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n" in head
        assert b"\r\nSec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\n" in head
        (asked,) = w.upstream.heads
        assert asked.startswith(b"GET /chat HTTP/1.1\r\n")
        assert b"\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n" in asked
        for field in (b"Sec-WebSocket-Key: " + KEY, b"Sec-WebSocket-Version: 13", b"Sec-WebSocket-Protocol: chat"):
            assert asked.count(b"\r\n%b\r\n" % field) == 1
        assert b"x-sidecar-caller: spiffe://example.org/agent/planner/1" in asked.lower()
        assert b"Keep-Alive" not in asked
        await said(agent, b"GET / HTTP/1.1\r\nHost: evil\r\n\r\n")
        await said(agent, b"\x00\xff" * 10)
        assert w.log() == [], "its line is written at its end"
        agent.close()
        for direction in ("inbound", "outbound"):
            await w.logged(1, direction=direction, event="request", http_status=101, bytes_sent=50, bytes_received=50)
        await w.logged(0, error="client_reset")
        await w.eventually(lambda: not w.hub.connections and w.upstream.open == 0)
        assert w.upstream.connections == 1
        assert w.counted("requests_total", "inbound", "tools", "allow", "1xx") == 1


class Exhausted(MetaPathFinder):
    """Has no descriptor to read a module with."""

    def find_spec(self, fullname: str, *_: object) -> None:
        if fullname == WebSocket.__module__:
            raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))


@pytest.mark.threat(51)
async def test_threat_51_the_first_one_finds_no_descriptor_and_is_told_so_and_the_next_one_is_carried(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with world(tmp_path, Plan(upstream=Upstream(echo))) as w:
        agent = await w.plain()
        with monkeypatch.context() as patch:
            patch.delitem(sys.modules, WebSocket.__module__)  # as in a process that has not carried any
            patch.setattr(sys, "meta_path", [Exhausted(), *sys.meta_path])
            agent.send(asking())
            answer = await agent.response()
        assert (answer.status, json.loads(answer.body)["error"]) == (503, "out_of_resources")
        await w.logged(1, direction="inbound", error="out_of_resources", http_status=503)
        await w.eventually(lambda: w.upstream.open == 0 and not sockets(w))
        await w.logged(0, http_status=101)
        await said(await opened(w), b"hello")


async def test_a_caller_gets_one_over_tls(tmp_path: Path) -> None:
    async with world(tmp_path, Plan(upstream=Upstream(echo))) as w:
        caller = await opened(w, client=await w.caller())
        await said(caller, b"x" * 200_000)
        (made,) = sockets(w)
        shown = made.details()
        assert {
            "busy": True,
            "websocket": True,
            "bytes_sent": 200_000,
            "bytes_received": 200_000,
        }.items() <= shown.items()
        assert w.log() == []


@pytest.mark.threat(38)
async def test_threat_38_who_may_not_have_one_gets_a_403_and_nothing_is_dialled(tmp_path: Path) -> None:
    async with world(tmp_path, Plan(upstream=Upstream(echo), allow=(rule(methods=frozenset({b"POST"})),))) as w:
        caller = await w.caller()
        caller.send(asking() + GET)
        response = await caller.response()
        assert (response.status, response.field(b"connection")) == (403, b"close")
        assert await caller.rest() == b""
        assert w.upstream.connections == 0


@pytest.mark.threat(38)
@pytest.mark.parametrize(
    "request_for",
    [
        asking(upgrade=b"h2c", connection=b"Upgrade, HTTP2-Settings"),
        asking(b"Content-Length: 3", line=b"POST /chat HTTP/1.1") + b"abc",
        asking(upgrade=b"websocket, h2c"),
        asking(key=b"x"),
    ],
    ids=["h2c", "a body", "two protocols", "a bad key"],
)
async def test_threat_38_any_other_upgrade_is_stripped_and_its_request_an_ordinary_one(
    tmp_path: Path, request_for: bytes
) -> None:
    async with world(tmp_path) as w:
        agent = await w.plain()
        for _ in range(2):
            response = await agent.ask(request_for)
            assert (response.status, response.body) == (200, b"hello")
        assert all(b"upgrade" not in head.lower() for head in w.upstream.heads)


@pytest.mark.threat(38)
@pytest.mark.parametrize("status", [b"200 OK", b"426 Upgrade Required", b"503 Service Unavailable"])
async def test_threat_38_a_plain_answer_ends_the_connection_and_what_is_behind_is_no_request(
    tmp_path: Path, status: bytes
) -> None:
    async def refusing(upstream: Upstream, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        upstream.heads.append(await read_head(reader))
        await smuggled.wait()
        writer.write(
            b"HTTP/1.1 %b\r\nUpgrade: websocket\r\nConnection: upgrade\r\nContent-Length: 2\r\n\r\nno" % status
        )
        upstream.bodies.append(await reader.read())

    smuggled = asyncio.Event()
    async with world(tmp_path, Plan(upstream=Upstream(refusing))) as w:
        agent = await w.plain()
        agent.send(asking() + b"GET /smuggled HTTP/1.1\r\nHost: tools.internal\r\n\r\n")
        await w.eventually(lambda: len(w.upstream.heads) == 1)
        smuggled.set()
        response = await agent.response()
        assert (response.body, response.field(b"connection"), response.field(b"upgrade")) == (b"no", b"close", None)
        assert w.upstream_connections == 0, "none of them serves another request"
        agent.send(GET)
        assert await agent.rest() == b""
        assert not agent.reset
        await w.eventually(lambda: w.upstream.open == 0)
        assert (len(w.upstream.heads), w.upstream.bodies) == (1, [b""]), "not one byte more went on"
        await w.logged(2, event="request")


@pytest.mark.threat(38)
@pytest.mark.parametrize(
    ("answer", "code"),
    [
        (agreeing(b"x" * 24), "bad_upgrade"),
        (agreeing().replace(b"websocket", b"h2c"), "bad_upgrade"),
        (agreeing().replace(b"Connection: Upgrade\r\n", b""), "bad_upgrade"),
        (agreeing().replace(b"\r\n\r\n", b"\r\nContent-Length: 5\r\n\r\n") + b"bytes", "forbidden_body"),
    ],
)
async def test_threat_38_a_101_that_agrees_to_something_else_is_502(tmp_path: Path, answer: bytes, code: str) -> None:
    async def wrong(upstream: Upstream, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        upstream.heads.append(await read_head(reader))
        writer.write(answer + b"raw bytes")
        upstream.bodies.append(await reader.read())

    async with world(tmp_path, Plan(upstream=Upstream(wrong))) as w:
        agent = await w.plain()
        agent.send(asking() + b"too early")
        response = await agent.response()
        assert response.status == 502
        assert await agent.rest() == b""
        await w.logged(1, direction="inbound", error=code, http_status=502)
        await w.eventually(lambda: w.upstream.bodies == [b""])
        assert w.upstream_connections == 0


async def test_what_either_side_sends_too_early_belongs_to_the_websocket(tmp_path: Path) -> None:
    early = b"GET /not-a-request HTTP/1.1\r\nHost: tools.internal\r\n\r\n"
    go_on = asyncio.Event()

    async def eager(upstream: Upstream, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        upstream.heads.append(await read_head(reader))
        await go_on.wait()
        writer.write(agreeing() + b"HTTP/1.1 200 OK\r\n\r\nfirst frame")
        upstream.bodies.append(await reader.readexactly(len(early)))
        await reader.read()

    async with world(tmp_path, Plan(upstream=Upstream(eager))) as w:
        agent = await w.plain()
        agent.send(asking() + early)
        await w.eventually(lambda: len(w.upstream.heads) == 1)
        go_on.set()
        assert (await agent.head()).startswith(b"HTTP/1.1 101 ")
        await agent.until(lambda: agent.buffer.endswith(b"first frame"))
        await w.eventually(lambda: w.upstream.bodies == [early])
        agent.close()
        await w.logged(2, event="request", bytes_received=len(early), http_status=101)


async def test_what_is_sent_too_early_is_held_up_to_a_bound(tmp_path: Path) -> None:
    go_on = asyncio.Event()

    async def late(upstream: Upstream, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        upstream.heads.append(await read_head(reader))
        await go_on.wait()
        writer.write(agreeing())
        got = 0
        while got < 4_000_000:
            got += len(await reader.read(65536))
        writer.write(b"all")
        await reader.read()

    async with world(tmp_path, Plan(upstream=Upstream(late))) as w:
        agent = await w.plain()
        agent.send(asking() + b"x" * 4_000_000)
        await w.eventually(lambda: len(w.upstream.heads) == 1)
        outbound: Any = next(c for c in w.hub.connections if c.peer is None)
        await w.eventually(lambda: outbound.stream.reading_paused)
        assert outbound._receiver.held < 1024 * 1024
        go_on.set()
        await agent.until(lambda: agent.buffer.endswith(b"all"))


async def test_an_interim_answer_may_come_before_it(tmp_path: Path) -> None:
    async def slow(upstream: Upstream, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = await read_head(reader)
        writer.write(b"HTTP/1.1 103 Early Hints\r\n\r\n" + agreeing(key_in(head)) + b"hi")
        await reader.read()

    async with world(tmp_path, Plan(upstream=Upstream(slow))) as w:
        agent = await w.plain()
        agent.send(asking())
        assert (await agent.head()).startswith(b"HTTP/1.1 103 ")
        assert (await agent.head()).startswith(b"HTTP/1.1 101 ")
        await agent.until(lambda: agent.buffer == b"hi")


async def test_a_request_before_it_on_the_same_connection_is_one(tmp_path: Path) -> None:
    async def first_plain(upstream: Upstream, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        upstream.heads.append(await read_head(reader))
        writer.write(HELLO)
        await echo(upstream, reader, writer)

    async with world(tmp_path, Plan(upstream=Upstream(first_plain))) as w:
        agent = await w.plain()
        agent.send(GET + asking())
        assert (await agent.response()).body == b"hello"
        assert (await agent.head()).startswith(b"HTTP/1.1 101 ")
        await said(agent, b"ping")
        assert w.upstream.connections == 1
        assert w.upstream_connections == 2, "it counts as one of the upstream's"
        assert w.inbound.service.pool._idle == []


# -- ends -----------------------------------------------------------------------------------------------------------------


async def test_an_end_in_one_direction_is_passed_on_and_the_other_goes_on(tmp_path: Path) -> None:
    async def listener(upstream: Upstream, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = await read_head(reader)
        writer.write(agreeing(key_in(head)))
        upstream.bodies.append(await reader.read())
        writer.write(b"goodbye")

    async with world(tmp_path, Plan(upstream=Upstream(listener))) as w:
        agent = await opened(w)
        agent.send(b"the end")
        agent.writer.write_eof()
        assert await agent.rest() == b"goodbye"
        assert not agent.reset
        assert w.upstream.bodies == [b"the end"]
        lines = await w.logged(2, event="request", http_status=101, bytes_sent=7, bytes_received=7)
        assert all("error" not in line for line in lines)


@pytest.mark.parametrize("side", ["client", "upstream"])
async def test_a_reset_of_either_end_resets_the_other(tmp_path: Path, side: str) -> None:
    async def abrupt(upstream: Upstream, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = await read_head(reader)
        writer.write(agreeing(key_in(head)))
        if side == "upstream":
            await reader.readexactly(2)
            reset(writer)
            return
        try:
            await reader.read()
        except ConnectionError:
            upstream.bodies.append(b"reset")

    async with world(tmp_path, Plan(upstream=Upstream(abrupt))) as w:
        agent = await opened(w)
        if side == "client":
            reset(agent.writer)
            await w.eventually(lambda: w.upstream.bodies == [b"reset"])
        else:
            agent.send(b"go")
            await agent.rest()
        lines = await w.logged(2, event="request", http_status=101)
        assert all(line["error"] for line in lines)
        await w.eventually(lambda: not w.hub.connections)


async def test_a_caller_that_ends_tls_without_saying_so_is_a_truncation(tmp_path: Path) -> None:
    async with world(tmp_path, Plan(upstream=Upstream(echo))) as w:
        caller = await opened(w, client=await w.caller())
        caller.writer.write_eof()
        await w.logged(1, error="client_truncated", http_status=101)
        await w.eventually(lambda: w.upstream.open == 0)


async def endless(upstream: Upstream, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    head = await read_head(reader)
    writer.write(agreeing(key_in(head)))
    while True:
        writer.write(b"x" * 65536)
        await writer.drain()


@pytest.mark.threat(48)
async def test_threat_48_a_client_that_reads_nothing_stalls_the_upstream_and_is_cut_in_time(tmp_path: Path) -> None:
    shifted = Shifted()
    async with world(tmp_path, Plan(upstream=Upstream(endless), clock=shifted.clock)) as w:
        agent = await opened(w)
        agent.writer.transport.pause_reading()  # type: ignore[attr-defined]
        await settled(lambda: [stream.written for stream in w.hub.streams])
        assert all(stream.unsent < 1024 * 1024 for stream in w.hub.streams)
        for _ in range(2):
            shifted.pass_by(w.hub.limits.stall_timeout + 1)
            w.hub._sweep()
            await turns()
        await w.logged(1, direction="outbound", error="limit_stall_timeout", http_status=101)
        await w.eventually(lambda: not w.hub.connections)
        assert w.counted("limit_hits_total", "stall_timeout") >= 1


async def test_a_slow_reader_that_reads_at_all_is_left_alone(tmp_path: Path) -> None:
    shifted = Shifted()
    async with world(tmp_path, Plan(upstream=Upstream(endless), clock=shifted.clock)) as w:
        agent = await opened(w)
        agent.writer.transport.pause_reading()  # type: ignore[attr-defined]
        await settled(lambda: [stream.written for stream in w.hub.streams])
        limits, ends = w.hub.limits, [end for made in sockets(w) for end in (made._down, made._up)]
        assert sum(end.stream.writing_paused for end in ends) == 2
        for _ in range(3):
            for end in ends:  # how much the kernel takes of what is paused, nobody can say: as if it had been so much
                end._mark -= int(limits.min_rate * limits.stall_timeout)
            shifted.pass_by(limits.stall_timeout + 1)
            w.hub._sweep()
            await turns()
            assert [made.error for made in sockets(w)] == [None, None]
        shifted.pass_by(limits.stall_timeout + 1)
        await w.logged(1, direction="outbound", error="limit_stall_timeout", http_status=101)


@pytest.mark.parametrize("paused", [True, False])
def test_an_end_that_takes_nothing_when_it_is_taken_over_has_the_time_of_a_slow_reader(paused: bool) -> None:
    """What its stream says later it says to the WebSocket; what it said before was to whoever spoke HTTP on it."""
    shifted = Shifted()
    stream: Any = SimpleNamespace(writing_paused=paused, delivered=7, user=None, write_deadline=0.0)
    owner: Any = SimpleNamespace(hub=SimpleNamespace(clock=shifted.clock, limits=Limits(stall_timeout=30.0)))
    end = _End(owner, stream, None)  # type: ignore[arg-type]
    end.take_over()
    assert stream.user is end
    left = stream.write_deadline - shifted.clock.monotonic()
    assert left == (pytest.approx(30, abs=5) if paused else NEVER)


async def test_silence_ends_it_and_a_word_in_time_does_not(tmp_path: Path) -> None:
    shifted = Shifted()
    plan = Plan(upstream=Upstream(echo), clock=shifted.clock).with_limits(stream_idle_timeout=60.0)
    async with world(tmp_path, plan) as w:
        agent = await opened(w)
        for _ in range(4):
            shifted.pass_by(40)
            w.hub._sweep()
            await said(agent, b"ping")
            w.hub._sweep()
        shifted.pass_by(61)
        w.hub._sweep()
        shifted.pass_by(61)
        await agent.rest()
        await w.eventually(lambda: not w.hub.connections)
        errors = {line["error"] for line in w.log() if line["event"] == "request"}
        assert "limit_stream_idle_timeout" in errors
        assert w.counted("limit_hits_total", "stream_idle_timeout") >= 1


@pytest.mark.threat(12)
@pytest.mark.parametrize("whose", ["caller", "ours", "peer"])
async def test_threat_12_it_ends_with_the_first_certificate_that_it_rests_on(tmp_path: Path, whose: str) -> None:
    shifted = Shifted()
    async with world(tmp_path, Plan(upstream=Upstream(echo), clock=shifted.clock)) as w:
        end = shifted.clock.wall() + 1000
        direction = "inbound" if whose == "caller" else "outbound"
        if whose == "ours":
            w.outbound.service.pool.destination._not_after = end
        agent = await opened(w)
        for made in sockets(w):
            if whose == "caller" and made.peer is not None:
                made._down.lifetime.rest_on(end)
            if whose == "peer" and made.remote_peer is not None:
                made._up.lifetime.rest_on(end)
        shifted.pass_by(990)
        w.hub._sweep()
        await said(agent, b"still here")
        await w.logged(2, event="open", http_status=101, bytes_sent=0)
        shifted.pass_by(20)
        w.hub.look_at_ages()
        await agent.rest()
        await w.logged(1, event="request", direction=direction, error="certificate_expired", bytes_sent=10)
        assert w.counted("limit_hits_total", "certificate_expired") == 1
        await w.eventually(lambda: w.upstream.open == 0)


async def test_connection_lifetime_ends_it(tmp_path: Path) -> None:
    shifted = Shifted()
    plan = Plan(upstream=Upstream(echo), clock=shifted.clock).with_limits(connection_lifetime=100.0)
    async with world(tmp_path, plan) as w:
        agent = await opened(w)
        shifted.pass_by(101)
        await agent.rest()
        await w.eventually(lambda: not w.hub.connections)
        assert "limit_connection_lifetime" in {line.get("error") for line in w.log()}


async def test_a_drain_refuses_new_ones_and_lets_those_there_are_run(tmp_path: Path) -> None:
    async with world(tmp_path, Plan(upstream=Upstream(echo))) as w:
        there = await opened(w, client=await w.caller())
        go_on, coming = asyncio.Event(), await w.caller()

        async def late(upstream: Upstream, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            upstream.heads.append(await read_head(reader))
            await go_on.wait()
            writer.write(agreeing())
            upstream.bodies.append(await reader.read())

        w.upstream.script = late
        coming.send(asking())
        await w.eventually(lambda: len(w.upstream.heads) == 2)
        w.hub.draining = True
        for connection in list(w.hub.connections):
            connection.retire()
        await said(there, b"ping")
        go_on.set()
        response: Response = await coming.response()
        assert (response.status, b'"draining"' in response.body) == (503, True)
        w.hub.draining = False
        await w.eventually(lambda: w.upstream.bodies[-1] == b"")
        assert len(sockets(w)) == 1


async def test_websockets_leave_pooled_connections_alone(tmp_path: Path) -> None:
    async def either(upstream: Upstream, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        script: Script = echo if upstream.connections == 1 else keep_answering
        await script(upstream, reader, writer)

    async with world(tmp_path, Plan(upstream=Upstream(either))) as w:
        there = await opened(w)
        agent = await w.plain()
        for _ in range(3):
            assert (await agent.ask(GET)).body == b"hello"
        await said(there, b"ping")
        assert w.upstream.connections == 2
        there.close()
        await w.eventually(lambda: w.upstream.open == 1)
        assert (await agent.ask(GET)).body == b"hello"
        assert w.upstream.connections == 2

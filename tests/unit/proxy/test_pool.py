"""Connections to one upstream: made with a permit only, kept for a while, and every way of not getting one."""

from __future__ import annotations

import asyncio
import socket
from select import select
from typing import TYPE_CHECKING

import pytest

from sidecar.policy.decision import Denial, Permit, Reason
from sidecar.proxy.dial import dial_error
from sidecar.proxy.failure import DialError, ProxyCode
from sidecar.proxy.pool import PlainDestination
from sidecar.proxy.stream import State
from sidecar.proxy.target import TcpTarget
from tests.support.clock import Shifted
from tests.support.pair import LOOPBACK, Plan, Upstream, keep_answering, read_head, world

if TYPE_CHECKING:
    from pathlib import Path

    from tests.support.pair import World

GET = b"GET /mcp HTTP/1.1\r\nHost: tools.internal\r\n\r\n"
PERMIT = Permit("rule", "id", "version")


def aim(w: World, host: str, port: int) -> None:
    """Lets the inbound entry forward to another address from now on."""
    w.inbound.service.pool.destination = PlainDestination(TcpTarget(host, port), w.hub)


def free_port() -> int:
    with socket.socket() as sock:
        sock.bind((LOOPBACK, 0))
        return int(sock.getsockname()[1])


async def test_nothing_is_reached_without_a_permit(tmp_path: Path) -> None:
    async with world(tmp_path) as w:
        pool = w.inbound.service.pool
        for other in (None, Denial(Reason.WEB_PAGE, "id", "version"), object()):
            with pytest.raises(TypeError, match="permit"):
                pool.take(other)  # type: ignore[arg-type]
            with pytest.raises(TypeError, match="permit"):
                await pool.dial(other)  # type: ignore[arg-type]
        assert w.upstream.connections == 0


@pytest.mark.threat(52)
async def test_threat_52_a_refused_port_is_502_and_served_again_when_it_is_back(tmp_path: Path) -> None:
    async with world(tmp_path) as w:
        port, w.upstream.port = w.upstream.port, free_port()
        aim(w, LOOPBACK, w.upstream.port)
        agent = await w.plain()
        response = await agent.ask(GET)
        assert response.status == 502
        assert b'"error":"upstream_refused"' in response.body
        await w.logged(1, direction="inbound", error="upstream_refused", http_status=502, decision="allow")
        aim(w, LOOPBACK, port)
        assert (await agent.ask(GET)).status == 200
        assert b"upstream_refused" in (tmp_path / "stderr").read_bytes()


@pytest.mark.threat(52)
async def test_threat_52_a_handshake_that_nobody_answers_is_504_within_connect_timeout(tmp_path: Path) -> None:
    async def mute(upstream: Upstream, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        upstream.heads.append(await reader.read())

    async with (
        Upstream(mute) as hole,
        world(tmp_path, Plan(connect_port=hole.port).with_limits(connect_timeout=0.2)) as w,
    ):
        agent = await w.plain()
        response = await agent.ask(GET)
        assert response.status == 504
        assert b"upstream_connect_timeout" in response.body
        (line,) = await w.logged(1, direction="outbound", error="upstream_connect_timeout")
        assert 200 <= line["duration_ms"] < 2000
        await w.eventually(lambda: hole.open == 0)
        assert b"/mcp" not in hole.heads[0]
        assert w.upstream_connections == 0


@pytest.mark.threat(52)
async def test_threat_52_so_it_is_where_the_deadline_of_the_stream_is_seen_first(tmp_path: Path) -> None:
    """As in a loop that was busy when both came."""
    shifted = Shifted()
    async with (
        Upstream(keep_answering) as mute,
        world(tmp_path, Plan(connect_port=mute.port, clock=shifted.clock)) as w,
    ):
        agent = await w.plain()
        agent.send(GET)
        await w.eventually(lambda: any(stream.state is State.OPENING for stream in w.hub.streams))
        shifted.monotonic += w.hub.limits.connect_timeout + 1
        w.hub._sweep()
        response = await agent.response()
        assert (response.status, b"upstream_connect_timeout" in response.body) == (504, True)
        await w.logged(1, direction="outbound", error="upstream_connect_timeout")


@pytest.mark.threat(52)
async def test_threat_52_a_full_backlog_is_504_within_connect_timeout(tmp_path: Path) -> None:
    with socket.socket() as deaf, socket.socket() as one, socket.socket() as two:
        deaf.bind((LOOPBACK, 0))
        deaf.listen(0)
        for filler in (one, two):
            filler.setblocking(False)
            filler.connect_ex(deaf.getsockname())
        async with world(tmp_path, Plan().with_limits(connect_timeout=0.2)) as w:
            aim(w, LOOPBACK, deaf.getsockname()[1])
            caller = await w.caller()
            response = await caller.ask(GET)
            assert response.status == 504
            await w.logged(1, direction="inbound", error="upstream_connect_timeout")
            assert w.upstream_connections == 0


async def test_an_unknown_name_is_502(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async with world(tmp_path) as w:

        async def unknown(*_args: object, **_knobs: object) -> None:
            raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")

        aim(w, "nowhere.invalid", 80)
        caller = await w.caller()
        monkeypatch.setattr(w.hub, "loop", _Names(w.hub.loop, unknown))
        response = await caller.ask(GET)
        assert response.status == 502
        assert b"upstream_name_unknown" in response.body
        monkeypatch.undo()


class _Names:
    """A loop whose resolver knows nobody."""

    def __init__(self, loop: asyncio.AbstractEventLoop, connect: object) -> None:
        self._loop = loop
        self.create_connection = connect

    def __getattr__(self, name: str) -> object:
        return getattr(self._loop, name)


@pytest.mark.threat(52)
async def test_threat_52_an_upstream_that_resets_at_once_is_502(tmp_path: Path) -> None:
    async def flap(upstream: Upstream, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.transport.abort()

    async with Upstream(flap) as flapping, world(tmp_path, Plan(connect_port=flapping.port)) as w:
        agent = await w.plain()
        for number in (1, 2, 3):
            assert (await agent.ask(GET)).status == 502
            assert flapping.connections == number
        assert w.upstream_connections == 0


def test_every_failure_of_a_dial_has_its_code() -> None:
    cases = {
        ProxyCode.UPSTREAM_CONNECT_TIMEOUT: TimeoutError(),
        ProxyCode.UPSTREAM_REFUSED: ConnectionRefusedError(),
        ProxyCode.UPSTREAM_NAME: socket.gaierror(),
        ProxyCode.UPSTREAM_RESET: ConnectionResetError(),
        ProxyCode.UPSTREAM_UNREACHABLE: OSError(113, "No route to host"),
    }
    for code, error in cases.items():
        found = dial_error(error, "address")
        assert found is not None
        assert found.code is code
    missing = dial_error(FileNotFoundError(), "unix:/run/agent.sock")
    assert missing is not None
    assert missing.code is ProxyCode.UPSTREAM_REFUSED
    assert dial_error(asyncio.CancelledError(), "address") is None
    assert dial_error(ValueError(), "address") is None


async def test_the_limit_of_connections_to_an_upstream_is_503_and_named(tmp_path: Path) -> None:
    go_on = asyncio.Event()

    async def slow(upstream: Upstream, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        upstream.heads.append(await read_head(reader))
        await go_on.wait()
        writer.write(upstream.answer)
        await keep_answering(upstream, reader, writer)

    async with world(
        tmp_path, Plan(upstream=Upstream(slow)).with_limits(upstream_connections=2, connect_timeout=0.2)
    ) as w:
        callers = [await w.caller() for _ in range(3)]
        for caller in callers[:2]:
            caller.send(GET)
        await w.eventually(lambda: len(w.upstream.heads) == 2)
        response = await callers[2].ask(GET)
        assert response.status == 503
        assert b"limit_upstream_connections" in response.body
        await w.logged(1, error="limit_upstream_connections", http_status=503)
        assert w.counted("limit_hits_total", "upstream_connections") == 1
        go_on.set()
        for caller in callers[:2]:
            assert (await caller.response()).status == 200
        assert (await callers[2].ask(GET)).status == 200
        assert w.upstream.connections == 2


async def test_a_dial_that_is_given_up_leaves_nothing(tmp_path: Path) -> None:
    async with world(tmp_path) as w:
        pool = w.outbound.service.pool
        for turns in range(30):
            task = asyncio.get_running_loop().create_task(pool.dial(PERMIT))
            for _ in range(turns):
                await asyncio.sleep(0)
            task.cancel()
            try:
                upstream = await task
            except asyncio.CancelledError:
                continue
            assert upstream is not None
            upstream.drop()
        await w.eventually(lambda: pool.size == 0)
        await w.eventually(lambda: not w.hub.streams)


async def test_a_failure_that_comes_with_the_cancellation_is_nobodys_surprise(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with world(tmp_path) as w:
        pool = w.inbound.service.pool
        made: list[asyncio.Future[object]] = []
        create = w.hub.loop.create_future

        def kept() -> asyncio.Future[object]:
            made.append(create())
            return made[-1]

        monkeypatch.setattr(w.hub, "loop", _Futures(w.hub.loop, kept))
        task = asyncio.get_running_loop().create_task(pool.dial(PERMIT))
        await asyncio.sleep(0)
        made[0].set_exception(ConnectionResetError())
        task.cancel()
        with pytest.raises((asyncio.CancelledError, DialError)):
            await task
        assert made[0]._log_traceback is False  # type: ignore[attr-defined]  # retrieved
        monkeypatch.undo()


class _Futures:
    def __init__(self, loop: asyncio.AbstractEventLoop, create_future: object) -> None:
        self._loop = loop
        self.create_future = create_future

    def __getattr__(self, name: str) -> object:
        return getattr(self._loop, name)


async def test_an_upstream_that_a_slow_client_held_up_is_read_from_again(tmp_path: Path) -> None:
    async with world(tmp_path) as w:
        caller = await w.caller()
        assert (await caller.ask(GET)).status == 200
        pool = w.inbound.service.pool
        upstream = await pool.dial(PERMIT)
        assert upstream is not None
        upstream.stream.pause_reading()
        pool.release(upstream)
        assert not upstream.stream.reading_paused
        assert (await caller.ask(GET)).status == 200
        assert (await caller.ask(GET)).status == 200


async def test_a_slow_client_and_a_quick_one_share_a_pooled_connection(tmp_path: Path) -> None:
    big = 20_000_000
    answer = b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % big + b"x" * big
    async with world(tmp_path, Plan(upstream=Upstream(answer=answer))) as w:
        slow, quick = await w.caller(), await w.caller()
        for _ in range(3):
            slow.send(GET)
            await w.eventually(lambda: any(s.writing_paused for s in w.hub.streams))
            assert len((await slow.response()).body) == big
            assert len((await quick.ask(GET)).body) == big
        assert w.upstream.connections == 1


async def test_a_connection_that_was_closed_behind_our_back_is_not_taken(tmp_path: Path) -> None:
    async with world(tmp_path) as w:
        pool = w.inbound.service.pool
        upstream = await pool.dial(PERMIT)
        assert upstream is not None
        pool.release(upstream)
        upstream.stream.abort()
        assert pool.take(PERMIT) is None
        assert upstream.stream.state is State.CLOSED
        pool.release(upstream)  # what is not on the books cannot come back
        assert pool.take(PERMIT) is None


async def test_nor_is_one_of_which_only_the_kernel_knows_that_it_has_ended(tmp_path: Path) -> None:
    async def once(upstream: Upstream, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        upstream.heads.append(await read_head(reader))
        writer.write(upstream.answer)
        await ending.wait()

    ending = asyncio.Event()
    async with world(tmp_path, Plan(upstream=Upstream(once))) as w:
        agent = await w.plain()
        assert (await agent.ask(GET)).status == 200
        (pooled,) = w.inbound.service.pool._idle
        assert pooled.stream._transport is not None
        pooled.stream._transport.pause_reading()  # the loop has not come to it yet
        ending.set()
        await w.eventually(lambda: bool(select([pooled.stream.fileno], [], [], 0)[0]))
        # A method that is not sent twice.
        assert (await agent.ask(GET.replace(b"GET", b"PATCH"))).status == 200
        assert w.upstream.connections == 2


async def test_a_connection_that_comes_back_to_a_retired_pool_is_closed(tmp_path: Path) -> None:
    async def slow(upstream: Upstream, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        upstream.heads.append(await read_head(reader))
        await answering.wait()
        writer.write(upstream.answer)
        await reader.read()

    answering = asyncio.Event()
    async with world(tmp_path, Plan(upstream=Upstream(slow))) as w:
        agent = await w.plain()
        agent.send(GET)
        await w.eventually(lambda: len(w.upstream.heads) == 1)
        pool = w.inbound.service.pool
        pool.retire()
        answering.set()
        assert (await agent.response()).status == 200
        assert (pool.size, pool._idle) == (0, [])


async def test_a_retired_pool_retries_nothing(tmp_path: Path) -> None:
    async with world(tmp_path) as w:
        pool = w.inbound.service.pool
        assert pool.may_retry()
        pool.retire()
        assert not pool.may_retry()

"""Requests that wait for a connection to an upstream: oldest first, bounded in number and time, and nobody is forgotten."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from typing import TYPE_CHECKING

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sidecar.policy.decision import Permit
from sidecar.proxy.exchange import HELD_PIECES
from sidecar.proxy.waiting import Line
from tests.support.clock import Shifted
from tests.support.pair import Plan, Upstream, World, inbound_service, read_head, rule, turns, world

if TYPE_CHECKING:
    from pathlib import Path

    from tests.support.wire import Client

PERMIT = Permit("rule", "id", "version")


def get(name: str) -> bytes:
    return b"GET /%b HTTP/1.1\r\nHost: tools.internal\r\n\r\n" % name.encode()


# -- the queue --------------------------------------------------------------------------------------------------------


class Stock:
    """So many things, of which each who waits wants one."""

    def __init__(self, things: int = 0) -> None:
        self.things = things
        self.line = Line()
        self.served: list[int] = []

    def find(self) -> bool | None:
        if not self.things:
            return None
        self.things -= 1
        return True

    async def want(self, who: int) -> None:
        try:
            await self.line.wait(self.find)
            self.served.append(who)
        finally:
            self.look()

    def look(self) -> None:
        if self.line.turns and self.things:
            self.line.call()

    def put(self) -> None:
        self.things += 1
        self.look()


async def test_the_oldest_is_served_first_and_a_call_for_nothing_keeps_its_place() -> None:
    stock = Stock()
    tasks = [asyncio.get_running_loop().create_task(stock.want(n)) for n in range(3)]
    await turns()
    stock.line.call()  # there is nothing
    await turns()
    assert stock.served == []
    for n in range(3):
        stock.put()
        await turns()
        assert stock.served == list(range(n + 1))
    await asyncio.gather(*tasks)
    assert not stock.line.turns


@given(st.lists(st.sampled_from(["come", "leave first", "leave last", "put", "turn"]), max_size=40))
def test_who_waits_is_served_in_order_as_long_as_there_is_something(steps: list[str]) -> None:
    """When all has settled, nobody waits while there is something, and who was served came in that order."""

    async def play() -> None:
        stock = Stock()
        tasks: list[asyncio.Task[None]] = []
        for step in steps:
            waiting = [task for task in tasks if not task.done()]
            if step == "come":
                tasks.append(asyncio.get_running_loop().create_task(stock.want(len(tasks))))
            elif step.startswith("leave") and waiting:
                waiting[0 if step == "leave first" else -1].cancel()
            elif step == "put":
                stock.put()
            elif step == "turn":
                await turns(1)
        await turns()
        # Whoever came after the last thing was put is not called by anybody but the next thing.
        stock.look()
        await turns()
        assert not (stock.things and stock.line.turns)
        assert stock.served == sorted(stock.served)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        assert not stock.line.turns

    asyncio.run(play())


# -- the pool ---------------------------------------------------------------------------------------------------------


class Slow(Upstream):
    """Answers one request for each `go`, on whichever connection it waits."""

    def __init__(self) -> None:
        super().__init__(self._answer)
        self.gate = asyncio.Semaphore(0)

    def go(self, count: int = 1) -> None:
        for _ in range(count):
            self.gate.release()

    async def _answer(self, upstream: Upstream, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while True:
            upstream.heads.append(await read_head(reader))
            await self.gate.acquire()
            writer.write(upstream.answer)
            await writer.drain()

    @property
    def paths(self) -> list[str]:
        return [head.split(b" ")[1].decode() for head in self.heads]


def plan(upstream: Slow, **limits: float) -> Plan:
    return Plan(upstream=upstream).with_limits(upstream_connections=1, **limits)


def line_of(w: World) -> int:
    return len(w.inbound.service.pool._line.turns)


async def waiting(w: World, count: int) -> list[Client]:
    """The first of them is being served; the others wait, in order."""
    callers: list[Client] = []
    for n in range(count):
        caller = await w.caller()
        caller.send(get(str(n)))
        await w.eventually(lambda n=n: len(w.upstream.heads) == 1 and line_of(w) == n)  # type: ignore[misc]
        callers.append(caller)
    return callers


async def test_requests_wait_for_the_one_connection_and_are_served_in_the_order_in_which_they_came(
    tmp_path: Path,
) -> None:
    async with world(tmp_path, plan(upstream := Slow())) as w:
        callers = await waiting(w, 5)
        for n, caller in enumerate(callers):
            upstream.go()
            assert (await caller.response()).status == 200
            await w.eventually(lambda n=n: line_of(w) == max(0, 3 - n))  # type: ignore[misc]
        assert upstream.paths == ["/0", "/1", "/2", "/3", "/4"]
        assert upstream.connections == 1
        await w.logged(5, event="request", http_status=200)
        assert w.counted("limit_hits_total", "upstream_connections") == 0, "nobody had to go without"


async def test_a_newcomer_does_not_overtake(tmp_path: Path) -> None:
    """Not even in the turn in which a connection is given back and the oldest has not moved yet."""
    async with world(tmp_path, plan(upstream := Slow())) as w:
        first, second = await waiting(w, 2)
        first.send(get("newcomer"))  # pipelined: it begins in the very moment in which its connection is given back
        upstream.go(3)
        assert (await first.response()).status == 200
        assert (await second.response()).status == 200
        assert (await first.response()).status == 200
        assert upstream.paths == ["/0", "/1", "/newcomer"]


async def test_one_more_than_may_wait_is_503(tmp_path: Path) -> None:
    async with world(tmp_path, plan(upstream := Slow(), upstream_waiting=2)) as w:
        callers = await waiting(w, 3)
        more = await w.caller()
        answer = await more.ask(get("more"))
        assert (answer.status, b"limit_upstream_waiting" in answer.body) == (503, True)
        await w.logged(1, error="limit_upstream_waiting", http_status=503)
        assert w.counted("limit_hits_total", "upstream_waiting") == 1
        upstream.go(3)
        assert [(await caller.response()).status for caller in callers] == [200] * 3
        assert "/more" not in upstream.paths


async def test_who_waits_too_long_is_503_and_the_others_go_on_waiting(tmp_path: Path) -> None:
    async with world(tmp_path, plan(upstream := Slow(), connect_timeout=0.3)) as w:
        first, second = await waiting(w, 2)
        answer = await second.response()
        assert (answer.status, b"limit_upstream_connections" in answer.body) == (503, True)
        await w.logged(1, error="limit_upstream_connections", http_status=503)
        assert w.counted("limit_hits_total", "upstream_connections") == 1
        assert line_of(w) == 0
        second.send(get("again"))
        await w.eventually(lambda: line_of(w) == 1)
        upstream.go(2)
        assert (await first.response()).status == 200
        assert (await second.response()).status == 200
        assert upstream.paths == ["/0", "/again"]


async def test_a_client_that_leaves_gives_its_place_up(tmp_path: Path) -> None:
    async with world(tmp_path, plan(upstream := Slow())) as w:
        callers = await waiting(w, 4)
        callers[1].abort()
        await w.eventually(lambda: line_of(w) == 2)
        upstream.go(3)
        for caller in (callers[0], callers[2], callers[3]):
            assert (await caller.response()).status == 200
        assert upstream.paths == ["/0", "/2", "/3"]
        await w.logged(1, error="client_closed")


POST = b"POST /left HTTP/1.1\r\nHost: tools.internal\r\n"
LEFT = {
    "whole": POST + b"Content-Length: 4\r\n\r\nbody",
    "whole, and not small": POST + b"Content-Length: 60000\r\n\r\n" + b"x" * 60_000,
    "whole, in chunks": POST + b"Transfer-Encoding: chunked\r\n\r\n" + b"1\r\nx\r\n" * 2000 + b"0\r\n\r\n",
    "whole, and more than is held": POST + b"Content-Length: 80000\r\n\r\n" + b"x" * 80_000,
    "begun": POST + b"Content-Length: 100000\r\n\r\n" + b"x" * 20_000,
    "with another behind it": POST + b"Content-Length: 4\r\n\r\nbody" + get("never"),
}


@pytest.mark.parametrize("pieces", [False, True], ids=["at once", "in pieces"])
@pytest.mark.parametrize("secure", [True, False], ids=["caller", "agent"])
@pytest.mark.parametrize("sent", LEFT)
async def test_a_client_with_a_body_that_leaves_gives_its_place_up_too(
    tmp_path: Path, sent: str, *, secure: bool, pieces: bool
) -> None:
    """Long before the time to wait is over, as long as no more of it has come than is held."""
    async with world(tmp_path, plan(upstream := Slow(), connect_timeout=600.0)) as w:
        line = (w.inbound if secure else w.outbound).service.pool._line.turns
        first, client = [await w.caller() if secure else await w.plain() for _ in range(2)]
        first.send(get("0"))
        await w.eventually(lambda: len(upstream.heads) == 1)
        head, _, body = LEFT[sent].partition(b"\r\n\r\n")
        client.send(head + b"\r\n\r\n" + (b"" if pieces else body))
        await w.eventually(lambda: len(line) == 1)
        if pieces:
            client.send(body)
        await turns()
        client.writer.write_eof()
        await w.eventually(lambda: not line)
        upstream.go()
        assert (await first.response()).status == 200
        assert upstream.paths == ["/0"]
        await w.logged(1, error="client_closed", http_path="/left")


@pytest.mark.threat(47)
async def test_threat_47_a_body_in_small_chunks_is_held_up_before_it_is_many_pieces(tmp_path: Path) -> None:
    async with world(tmp_path, plan(upstream := Slow(), connect_timeout=60.0)) as w:
        (first,) = await waiting(w, 1)
        second = await w.caller()
        second.send(POST + b"Transfer-Encoding: chunked\r\n\r\n")
        await w.eventually(lambda: line_of(w) == 1)
        (held,) = [c for c in w.hub.connections if c.exchange is not None and c.exchange.head.path == b"/left"]
        for sent in range(1, HELD_PIECES + 2):
            assert not held.stream.reading_paused
            second.send(b"1\r\nx\r\n")  # those that come together are one piece
            await w.eventually(lambda sent=sent: held.exchange.bytes_received == sent)  # type: ignore[misc]
        await w.eventually(lambda: held.stream.reading_paused)
        second.send(b"0\r\n\r\n")
        upstream.go(2)
        assert [(await client.response()).status for client in (first, second)] == [200, 200]


async def test_who_leaves_in_the_moment_of_being_called_leaves_it_to_the_next(tmp_path: Path) -> None:
    async with world(tmp_path, plan(Slow(), connect_timeout=60.0)) as w:
        pool, loop = w.inbound.service.pool, asyncio.get_running_loop()
        upstream = await pool.dial(PERMIT)
        first, second = loop.create_task(pool.dial(PERMIT)), loop.create_task(pool.dial(PERMIT))
        await w.eventually(lambda: line_of(w) == 2)
        pool.release(upstream)
        first.cancel()
        assert await asyncio.wait_for(second, 5) is upstream
        assert first.cancelled()
        upstream.drop()


async def test_a_dial_that_begins_when_a_place_becomes_free_does_not_overtake(tmp_path: Path) -> None:
    async with world(tmp_path, plan(Slow(), connect_timeout=60.0)) as w:
        pool, loop = w.inbound.service.pool, asyncio.get_running_loop()
        upstream = await pool.dial(PERMIT)
        oldest = loop.create_task(pool.dial(PERMIT))
        await w.eventually(lambda: line_of(w) == 1)
        newcomer = loop.create_task(pool.dial(PERMIT))  # runs before the oldest, who is called now
        upstream.drop()
        upstream = await asyncio.wait_for(oldest, 5)
        assert not newcomer.done()
        pool.release(upstream)
        assert await asyncio.wait_for(newcomer, 5) is upstream
        upstream.drop()


async def test_a_connection_that_is_lost_makes_a_place_for_the_oldest(tmp_path: Path) -> None:
    async with world(tmp_path, plan(upstream := Slow())) as w:
        callers = await waiting(w, 3)
        callers[0].abort()  # its upstream connection dies with it
        await w.eventually(lambda: line_of(w) == 1)
        upstream.go(3)
        assert (await callers[1].response()).status == 200
        assert (await callers[2].response()).status == 200
        assert upstream.paths[:2] == ["/0", "/1"]


async def test_a_dial_that_fails_makes_a_place_for_the_next(tmp_path: Path) -> None:
    """All of them hear what the upstream is like, and none waits for its time to be over."""
    async with world(tmp_path, plan(upstream := Slow(), connect_timeout=60.0)) as w:
        callers = await waiting(w, 4)
        assert upstream._server is not None
        upstream._server.close()  # takes no new connection
        callers[0].abort()
        for caller in callers[1:]:
            assert (await caller.response()).status == 502
        assert line_of(w) == 0


async def test_the_body_of_a_request_that_waits_is_held_up_with_it(tmp_path: Path) -> None:
    shifted = Shifted()
    async with world(tmp_path, replace(plan(upstream := Slow(), upstream_timeout=3600), clock=shifted.clock)) as w:
        (first,) = await waiting(w, 1)
        second = await w.caller()
        second.send(b"POST /body HTTP/1.1\r\nHost: tools.internal\r\nContent-Length: 1000000\r\n\r\n" + b"x" * 100_000)
        await w.eventually(lambda: line_of(w) == 1)
        await w.eventually(lambda: any(c.stream.reading_paused for c in w.hub.connections))
        for _ in range(3):  # and is not blamed for what we do not read
            shifted.monotonic += w.hub.limits.stall_timeout + 1
            w.hub._sweep()
        upstream.go()
        assert (await first.response()).status == 200
        await w.eventually(lambda: "/body" in upstream.paths)


async def test_whose_body_nobody_can_ask_for_yet_waits_as_long_as_others(tmp_path: Path) -> None:
    shifted = Shifted()
    async with world(tmp_path, replace(plan(upstream := Slow(), upstream_timeout=3600), clock=shifted.clock)) as w:
        (first,) = await waiting(w, 1)
        second = await w.caller()
        second.send(get("body")[:-2].replace(b"GET", b"PUT") + b"Content-Length: 5\r\nExpect: 100-continue\r\n\r\n")
        await w.eventually(lambda: line_of(w) == 1)
        for _ in range(3):
            shifted.monotonic += w.hub.limits.stall_timeout + 1
            w.hub._sweep()
        upstream.go(2)
        assert (await first.response()).status == 200
        assert (await second.response()).status == 200
        assert "/body" in upstream.paths


async def test_a_reload_sends_those_who_wait_on(tmp_path: Path) -> None:
    """Its pool takes nothing new: they are decided anew, and go where the configuration in force leads."""
    async with world(tmp_path, plan(upstream := Slow())) as w, Upstream() as other:
        first, second = await waiting(w, 2)
        old = w.inbound.service.pool
        w.inbound.service = inbound_service(w.hub, w.tools, w.ca, (rule(),), other.port)
        old.retire()
        assert (await second.response()).status == 200
        assert len(other.heads) == 1
        upstream.go()
        assert (await first.response()).status == 200
        await w.eventually(lambda: old.size == 0)


async def test_a_reload_that_names_the_caller_no_more_denies_it(tmp_path: Path) -> None:
    async with world(tmp_path, plan(Slow())) as w, Upstream() as other:
        _, second = await waiting(w, 2)
        old = w.inbound.service.pool
        rules = (rule("spiffe://example.org/agent/somebody/*"),)
        w.inbound.service = inbound_service(w.hub, w.tools, w.ca, rules, other.port)
        old.retire()
        assert (await second.response()).status == 403
        assert not other.heads


async def test_waiting_needs_a_permit(tmp_path: Path) -> None:
    async with world(tmp_path, plan(Slow())) as w:
        await waiting(w, 2)
        with pytest.raises(TypeError):
            await w.inbound.service.pool.dial(None)  # type: ignore[arg-type]
        assert line_of(w) == 1


async def test_places_that_become_free_at_once_serve_as_many(tmp_path: Path) -> None:
    """Also where the limit is raised meanwhile: one who is served calls the next."""
    async with world(tmp_path, plan(upstream := Slow(), connect_timeout=60.0)) as w:
        callers = await waiting(w, 6)
        w.hub.limits = plan(upstream).with_limits(upstream_connections=6, connect_timeout=60.0).limits
        upstream.go(6)
        for caller in callers:
            assert (await caller.response()).status == 200
        assert sorted(upstream.paths) == [f"/{n}" for n in range(6)]

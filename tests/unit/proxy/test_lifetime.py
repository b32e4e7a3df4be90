"""Connections that carry requests end in time: by a certificate at either end, by a limit, in the middle of a stream."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import pytest

from sidecar.limits import Limits
from sidecar.proxy.lifetime import Age, Lifetime
from sidecar.proxy.stream import LINGER_SECONDS, NEVER
from sidecar.telemetry.metrics import Metrics
from tests.support.clock import Shifted
from tests.support.pair import HELLO, Plan, Upstream, inbound_service, keep_answering, read_head, rule, world
from tests.support.wire import Caller, take_response

if TYPE_CHECKING:
    from pathlib import Path

    from tests.support.pair import World

GET = b"GET /mcp HTTP/1.1\r\nHost: tools.internal\r\n\r\n"
HOUR = 3600.0
EVENTS = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n"


async def events(upstream: Upstream, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """A stream of one event that goes on until somebody ends it."""
    upstream.heads.append(await read_head(reader))
    writer.write(EVENTS)
    await reader.read()


# -- the reckoning ----------------------------------------------------------------------------------------------------


def life(shifted: Shifted, *, ends_in: float = NEVER, lifetime: float = 24 * HOUR) -> tuple[Lifetime, Any]:
    """A life, and the stream that it is looked at for."""
    limits = Limits(connection_lifetime=lifetime)
    hub: Any = SimpleNamespace(clock=shifted.clock, limits=limits, metrics=Metrics())
    return Lifetime(hub, shifted.clock.wall() + ends_in), SimpleNamespace(age_deadline=0.0)


@pytest.mark.parametrize(
    ("ends_in", "lifetime", "code"),
    [
        (1000.0, 24 * HOUR, "certificate_expired"),
        (24 * HOUR, 1000.0, "limit_connection_lifetime"),
        (NEVER, 1000.0, "limit_connection_lifetime"),
    ],
)
def test_the_last_tenth_comes_before_the_end(ends_in: float, lifetime: float, code: str) -> None:
    shifted = Shifted()
    made, stream = life(shifted, ends_in=ends_in, lifetime=lifetime)
    assert made.look(stream) is Age.YOUNG
    assert stream.age_deadline - shifted.clock.monotonic() == pytest.approx(900, abs=5)
    shifted.pass_by(890)
    assert made.look(stream) is Age.YOUNG
    shifted.pass_by(11)
    assert made.look(stream) is Age.LAST
    assert stream.age_deadline - shifted.clock.monotonic() == pytest.approx(99, abs=5)
    shifted.pass_by(100)
    assert made.look(stream) is Age.OVER
    assert made.code == code


@pytest.mark.threat(51)
def test_threat_51_a_wall_clock_that_is_put_back_gives_nobody_more_time() -> None:
    shifted = Shifted()
    made, stream = life(shifted, ends_in=1000)
    assert made.look(stream) is Age.YOUNG
    shifted.wall -= 10 * HOUR
    shifted.pass_by(950)
    assert made.look(stream) is Age.LAST
    shifted.pass_by(51)
    assert made.look(stream) is Age.OVER


def test_the_earliest_certificate_counts() -> None:
    shifted = Shifted()
    made, stream = life(shifted, ends_in=1000)
    made.rest_on(shifted.clock.wall() + 100)
    made.rest_on(shifted.clock.wall() + 5000)
    shifted.pass_by(101)
    assert made.look(stream) is Age.OVER


# -- connections ------------------------------------------------------------------------------------------------------


async def caller_of(w: World, seconds: float) -> Caller:
    """A caller whose certificate ends in so many seconds."""
    return await w.caller(w.ca.leaf("/agent/planner/1", now=w.hub.clock.wall(), lifetime=seconds))


@pytest.mark.threat(12)
async def test_threat_12_a_stream_is_cut_when_its_callers_certificate_ends(tmp_path: Path) -> None:
    shifted = Shifted()
    async with world(tmp_path, Plan(upstream=Upstream(events), clock=shifted.clock)) as w:
        caller = await caller_of(w, 1000)
        caller.send(GET)
        await caller.until(lambda: b"hello" in caller.buffer)
        shifted.pass_by(990)
        await w.logged(1, event="open")
        assert not caller.ended
        shifted.pass_by(20)
        assert take_response(bytearray(await caller.rest())) is None
        assert not caller.end.eof, "an end in order would look like the end of what was sent"
        await w.logged(1, event="request", error="certificate_expired", decision="allow", http_status=200, bytes_sent=5)
        assert w.counted("limit_hits_total", "certificate_expired") == 1
        await w.eventually(lambda: w.upstream.open == 0)


@pytest.mark.threat(12)
@pytest.mark.parametrize("ours", ["inbound", "outbound"])
async def test_threat_12_a_stream_is_cut_when_our_own_certificate_ends(tmp_path: Path, ours: str) -> None:
    shifted = Shifted()
    async with world(tmp_path, Plan(upstream=Upstream(events), clock=shifted.clock)) as w:
        if ours == "inbound":
            service = w.inbound.service
            service.own = replace(service.own, svid=replace(service.own.svid, not_after=shifted.clock.wall() + 1000))
        else:
            w.outbound.service.pool.destination._not_after = shifted.clock.wall() + 1000
        agent = await w.plain()
        agent.send(GET)
        await agent.until(lambda: b"hello" in agent.buffer)
        shifted.pass_by(990)
        await w.logged(2, event="open")
        shifted.pass_by(20)
        assert not (await agent.rest()).endswith(b"0\r\n\r\n")
        await w.logged(1, event="request", direction=ours, error="certificate_expired")
        assert w.counted("limit_hits_total", "certificate_expired") == 1
        await w.eventually(lambda: w.upstream.open == 0)


@pytest.mark.threat(12)
async def test_threat_12_an_agents_stream_is_cut_when_the_peers_certificate_ends(tmp_path: Path) -> None:
    shifted = Shifted()
    async with world(tmp_path, Plan(upstream=Upstream(events), clock=shifted.clock)) as w:
        peers = w.ca.leaf("/agent/tools/1", now=shifted.clock.wall(), lifetime=1000)
        service = inbound_service(w.hub, peers, w.ca, (rule(),), w.upstream.port)
        service.own = w.inbound.service.own  # so that the other side does not end it
        w.inbound.replace(service)
        agent = await w.plain()
        agent.send(GET)
        await agent.until(lambda: b"hello" in agent.buffer)
        shifted.pass_by(990)
        await w.logged(2, event="open")
        shifted.pass_by(20)
        assert not (await agent.rest()).endswith(b"0\r\n\r\n")
        await w.logged(1, event="request", direction="outbound", error="certificate_expired")


@pytest.mark.threat(12)
async def test_threat_12_a_request_that_waits_is_answered_when_its_upstreams_connection_ends(tmp_path: Path) -> None:
    shifted = Shifted()

    async def silent(upstream: Upstream, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        upstream.heads.append(await read_head(reader))
        await reader.read()

    plan = Plan(upstream=Upstream(silent), clock=shifted.clock).with_limits(upstream_timeout=24 * HOUR)
    async with world(tmp_path, plan) as w:
        w.outbound.service.pool.destination._not_after = shifted.clock.wall() + 1000
        agent = await w.plain()
        agent.send(GET)
        await w.eventually(lambda: w.upstream.open == 1)
        shifted.pass_by(1001)
        response = await agent.response()
        assert response.status == 502
        assert b'"error":"certificate_expired"' in response.body
        await w.logged(1, direction="outbound", error="certificate_expired", http_status=502)


async def test_in_the_last_tenth_answers_say_that_the_connection_closes(tmp_path: Path) -> None:
    shifted = Shifted()
    async with world(tmp_path, Plan(clock=shifted.clock).with_limits(idle_timeout=HOUR, head_timeout=HOUR)) as w:
        caller, other = await caller_of(w, 1000), await caller_of(w, 1000)
        assert (await caller.ask(GET)).field(b"connection") is None
        assert (await other.ask(GET)).field(b"connection") is None
        caller.send(GET[:-2])
        await w.eventually(lambda: any(c._in_head for c in w.hub.connections))
        shifted.pass_by(905)
        await w.eventually(lambda: all(c.retiring for c in w.hub.connections))
        assert len(w.hub.connections) == 2
        response = await caller.ask(GET[-2:])
        assert (response.status, response.field(b"connection")) == (200, b"close")
        assert await caller.rest() == b""
        shifted.pass_by(100)
        assert await other.rest() == b"", "an idle connection is closed in the end"
        assert other.end.eof
        await w.logged(3, event="request", direction="inbound", http_status=200)
        assert w.counted("limit_hits_total", "certificate_expired") == 0


async def test_a_response_that_began_before_is_finished_in_the_last_tenth(tmp_path: Path) -> None:
    shifted = Shifted()
    go_on = asyncio.Event()

    async def slow(upstream: Upstream, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        upstream.heads.append(await read_head(reader))
        await go_on.wait()
        writer.write(HELLO)
        await reader.read()

    plan = Plan(upstream=Upstream(slow), clock=shifted.clock).with_limits(upstream_timeout=HOUR)
    async with world(tmp_path, plan) as w:
        caller = await caller_of(w, 1000)
        caller.send(GET)
        await w.eventually(lambda: len(w.upstream.heads) == 1)
        shifted.pass_by(950)
        await w.eventually(lambda: any(c.retiring for c in w.hub.connections))
        go_on.set()
        response = await caller.response()
        assert (response.body, response.field(b"connection")) == (b"hello", b"close")


async def test_events_pass_for_hours_until_the_last_certificate_ends(tmp_path: Path) -> None:
    shifted = Shifted()
    go_on: asyncio.Queue[int] = asyncio.Queue()

    async def clock(upstream: Upstream, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        upstream.heads.append(await read_head(reader))
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n")
        while True:
            event = b"id: %d\ndata: tick\n\n" % await go_on.get()
            writer.write(b"%x\r\n%b\r\n" % (len(event), event))

    async with world(tmp_path, Plan(upstream=Upstream(clock), clock=shifted.clock, lifetime=12 * HOUR)) as w:
        agent = await w.plain()
        agent.send(GET[:-2] + b"Last-Event-ID: 41\r\n\r\n")
        await agent.head()
        assert b"\r\nLast-Event-ID: 41\r\n" in w.upstream.heads[0]
        for number in range(23):  # one each half hour
            go_on.put_nowait(number)
            await agent.until(lambda n=number: b"id: %d\n" % n in agent.buffer)  # type: ignore[misc]
            agent.buffer.clear()
            shifted.pass_by(HOUR / 2)
            w.hub._sweep()
        await w.logged(2, event="open")
        shifted.pass_by(HOUR)
        assert not (await agent.rest()).endswith(b"0\r\n\r\n")
        assert {line.get("error") for line in w.log() if line["event"] == "request"} <= {
            "certificate_expired",
            "upstream_truncated",
            "client_closed",
        }


async def test_connection_lifetime_ends_either_connection(tmp_path: Path) -> None:
    shifted = Shifted()
    plan = Plan(upstream=Upstream(events), clock=shifted.clock).with_limits(connection_lifetime=100.0)
    async with world(tmp_path, plan) as w:
        agent = await w.plain()
        agent.send(GET)
        await agent.until(lambda: b"hello" in agent.buffer)
        shifted.pass_by(95)
        w.hub._sweep()
        assert not agent.ended
        shifted.pass_by(6)
        assert not (await agent.rest()).endswith(b"0\r\n\r\n")
        await w.logged(1, event="request", direction="outbound", error="limit_connection_lifetime")
        assert w.counted("limit_hits_total", "connection_lifetime") >= 1


async def test_a_pooled_connection_in_its_last_tenth_serves_no_other_request(tmp_path: Path) -> None:
    shifted = Shifted()
    plan = Plan(clock=shifted.clock).with_limits(upstream_idle_timeout=HOUR, idle_timeout=HOUR)
    async with world(tmp_path, plan) as w:
        w.outbound.service.pool.destination._not_after = shifted.clock.wall() + 1000
        agent = await w.plain()
        assert (await agent.ask(GET)).status == 200
        shifted.pass_by(800)
        w.hub._sweep()
        assert (await agent.ask(GET)).status == 200
        assert w.counted("handshakes_total", "client", "ok", "false") == 1
        assert w.outbound.service.pool.size == 1
        shifted.pass_by(101)
        await w.eventually(lambda: w.outbound.service.pool.size == 0)
        w.outbound.service.pool.destination._not_after = NEVER
        assert (await agent.ask(GET)).status == 200
        assert not agent.ended


async def test_a_connection_that_answers_in_its_last_tenth_is_not_pooled(tmp_path: Path) -> None:
    shifted = Shifted()
    go_on = asyncio.Event()

    async def slow(upstream: Upstream, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        upstream.heads.append(await read_head(reader))
        await go_on.wait()
        writer.write(HELLO)
        await keep_answering(upstream, reader, writer)

    plan = Plan(upstream=Upstream(slow), clock=shifted.clock).with_limits(upstream_timeout=HOUR)
    async with world(tmp_path, plan) as w:
        w.outbound.service.pool.destination._not_after = shifted.clock.wall() + 1000
        agent = await w.plain()
        agent.send(GET)
        await w.eventually(lambda: len(w.upstream.heads) == 1)
        shifted.pass_by(950)
        (upstream,) = w.outbound.service.pool._live
        await w.eventually(lambda: upstream.aged)
        go_on.set()
        assert (await agent.response()).field(b"connection") is None
        assert w.outbound.service.pool.size == 0


async def test_nothing_is_sent_with_a_certificate_of_ours_that_has_expired(tmp_path: Path) -> None:
    shifted = Shifted()
    async with world(tmp_path, Plan(clock=shifted.clock)) as w:
        w.outbound.service.pool.destination._not_after = shifted.clock.wall() - 1
        agent = await w.plain()
        assert (await agent.ask(GET)).status == 502
        await w.logged(1, direction="outbound", error="certificate_expired")
        assert w.upstream.connections == 0
        assert w.outbound.service.pool.size == 0


async def test_a_caller_that_our_expired_certificate_greets_is_let_go_at_once(tmp_path: Path) -> None:
    """Also one that goes away slowly, or not at all: it has the time of any end, and not that of an idle connection."""
    async with world(tmp_path) as w:
        service = w.inbound.service
        service.own = replace(service.own, svid=replace(service.own.svid, not_after=w.hub.clock.wall() - 1))
        caller = await w.caller()
        caller.writer.transport.pause_reading()  # type: ignore[attr-defined]
        await w.logged(1, event="closed", error="certificate_expired")
        (connection,) = w.hub.connections
        assert connection.stream.read_deadline <= w.hub.clock.monotonic() + LINGER_SECONDS
        await w.eventually(lambda: not w.hub.connections)


@pytest.mark.threat(51)
async def test_threat_51_a_wall_clock_that_jumps_past_a_certificate_is_noticed(tmp_path: Path) -> None:
    shifted = Shifted()
    async with world(tmp_path, Plan(upstream=Upstream(events), clock=shifted.clock)) as w:
        caller = await caller_of(w, HOUR)
        caller.send(GET)
        await caller.until(lambda: b"hello" in caller.buffer)
        shifted.wall += 2 * HOUR
        await caller.rest()
        await w.logged(1, event="request", error="certificate_expired")


async def test_a_reload_with_a_shorter_lifetime_holds_for_connections_that_are_there(tmp_path: Path) -> None:
    shifted = Shifted()
    async with world(tmp_path, Plan(upstream=Upstream(events), clock=shifted.clock)) as w:
        agent = await w.plain()
        agent.send(GET)
        await agent.until(lambda: b"hello" in agent.buffer)
        shifted.pass_by(100)
        w.hub._sweep()
        assert not agent.ended
        w.hub.limits = replace(w.hub.limits, connection_lifetime=60.0)
        w.hub.look_at_ages()
        await agent.rest()
        await w.logged(1, direction="outbound", error="limit_connection_lifetime")

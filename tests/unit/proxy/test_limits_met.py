"""Each limit met once, seen from outside: the answer, the counter, and the log line with its name.

Handshakes with a key in a device have theirs in test_tls_stream_apart.py, tunnels in test_tunnel_limits.py.
"""

from __future__ import annotations

import json
import socket
from contextlib import suppress
from typing import TYPE_CHECKING, Any

import pytest

from sidecar.proxy.failure import ProxyCode
from sidecar.telemetry.record import Event
from tests.support.clock import Shifted
from tests.support.pair import HELLO, LOOPBACK, Plan, Upstream, World, keep_answering, read_head, rule, world

if TYPE_CHECKING:
    import asyncio
    from collections.abc import Awaitable, Callable
    from pathlib import Path

    from tests.support.wire import Client, Response

GET = b"GET /mcp HTTP/1.1\r\nHost: tools.internal\r\n\r\n"
POST = b"POST /mcp HTTP/1.1\r\nHost: tools.internal\r\n"
SIDES = pytest.mark.parametrize("side", ["outbound", "inbound"])


async def connect(w: World, side: str) -> Client:
    return await (w.plain() if side == "outbound" else w.caller())


async def met(w: World, limit: str, code: str, **fields: object) -> dict[str, Any]:
    """Waits for the one line with that code; the counter stands at as many."""
    (line,) = await w.logged(1, error=code, **fields)
    assert w.counted("limit_hits_total", limit) == 1
    return line


def said(answer: Response) -> tuple[int, str]:
    return answer.status, json.loads(answer.body)["error"]


# -- connections ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("tcp", [False, True], ids=["http", "tcp"])
async def test_connections_per_caller(tmp_path: Path, tcp: bool) -> None:
    """One more of the same caller is closed; others, and who was there, do not notice. A place that is free is free."""
    plan = Plan(tcp=tcp, allow=(rule("spiffe://example.org/agent/**"),)).with_limits(connections_per_caller=2)
    async with world(tmp_path, plan) as w:
        first, second = await w.caller(), await w.caller()
        await w.eventually(lambda: len(w.hub.connections) == 2)
        third = await w.caller()
        assert await third.rest() == b""
        assert third.end.eof is not tcp, "a tunnel that is none must not look like one that carried nothing"
        line = await met(w, "connections_per_caller", "limit_connections_per_caller", event="refused")
        assert line["src.identity"] == "spiffe://example.org/agent/planner/1"
        assert line["decision"] == "deny"
        assert w.counted("refused_total", "limit_connections_per_caller") == 1
        other = await w.caller(w.ca.leaf("/agent/other/1", now=w.hub.clock.wall()))
        assert (await other.ask(GET)).status == 200
        assert (await second.ask(GET)).status == 200
        first.close()
        await w.eventually(lambda: len(w.hub.connections) == 2)
        again = await w.caller()
        assert (await again.ask(GET)).status == 200
    assert not w.hub.callers


async def test_connections_per_caller_holds_across_listeners_and_not_for_the_agent(tmp_path: Path) -> None:
    async with world(tmp_path, Plan().with_limits(connections_per_caller=1)) as w:
        agents = [await w.plain() for _ in range(3)]
        await w.eventually(lambda: len(w.hub.connections) == 3)
        assert (await agents[0].ask(GET)).status == 200  # our own pool holds the one connection of the planner
        caller = await w.caller()
        assert await caller.rest() == b""
        await met(w, "connections_per_caller", "limit_connections_per_caller")


# -- heads and bodies -------------------------------------------------------------------------------------------------


@SIDES
@pytest.mark.parametrize(
    ("limit", "request_head", "status", "code"),
    [
        ("head_bytes", POST + b"X: " + b"a" * 2000 + b"\r\n\r\n", 431, "head_too_large"),
        ("target_bytes", b"GET /" + b"a" * 200 + b" HTTP/1.1\r\nHost: tools.internal\r\n\r\n", 414, "target_too_long"),
        ("fields", POST + b"X: a\r\n" * 20 + b"\r\n", 431, "too_many_fields"),
    ],
)
async def test_heads(tmp_path: Path, side: str, limit: str, request_head: bytes, status: int, code: str) -> None:
    async with world(tmp_path, Plan().with_limits(head_bytes=1024, target_bytes=100, fields=10)) as w:
        client = await connect(w, side)
        answer = await client.ask(request_head)
        assert said(answer) == (status, code)
        await client.rest()
        await met(w, limit, code, http_status=status)
        assert not w.upstream.heads


@SIDES
@pytest.mark.parametrize("whole", [True, False], ids=["in one piece", "later"])
async def test_body_bytes_that_are_announced(tmp_path: Path, side: str, whole: bool) -> None:
    """413 before anything is passed on: the upstream never hears of it."""
    async with world(tmp_path, Plan().with_limits(body_bytes=10)) as w:
        client = await connect(w, side)
        answer = await client.ask(POST + b"Content-Length: 11\r\n\r\n" + (b"x" * 11 if whole else b""))
        assert said(answer) == (413, "limit_body_bytes")
        line = await met(w, "body_bytes", "limit_body_bytes", http_status=413)
        assert line["direction"] == side
        assert line["decision"] == "allow", "policy let it pass"
        assert not w.upstream.heads
        other = await connect(w, side)
        assert (await other.ask(POST + b"Content-Length: 10\r\n\r\n" + b"x" * 10)).status == 200


async def test_body_bytes_of_a_caller_that_waits_for_100_continue(tmp_path: Path) -> None:
    async with world(tmp_path, Plan().with_limits(body_bytes=10)) as w:
        client = await w.caller()
        answer = await client.ask(POST + b"Expect: 100-continue\r\nContent-Length: 11\r\n\r\n")
        assert said(answer) == (413, "limit_body_bytes")


async def test_body_bytes_do_not_tell_who_may_not_ask_anything(tmp_path: Path) -> None:
    async with world(
        tmp_path, Plan(allow=(rule("spiffe://example.org/agent/other/*"),)).with_limits(body_bytes=1)
    ) as w:
        client = await w.caller()
        assert (await client.ask(POST + b"Content-Length: 11\r\n\r\n")).status == 403
        assert w.counted("limit_hits_total", "body_bytes") == 0


@SIDES
async def test_body_bytes_of_a_chunked_body(tmp_path: Path, side: str) -> None:
    """What is passed on is cut: the upstream cannot take it for a whole request."""
    async with world(tmp_path, Plan().with_limits(body_bytes=10)) as w:
        client = await connect(w, side)
        client.send(POST + b"Transfer-Encoding: chunked\r\n\r\n6\r\nsixsix\r\n")
        await w.eventually(lambda: len(w.upstream.heads) == 1)
        client.send(b"5\r\nfive!\r\n")
        answer = await client.response()
        assert said(answer) == (413, "limit_body_bytes")
        await client.rest()
        await met(w, "body_bytes", "limit_body_bytes", http_status=413)
        await w.eventually(lambda: w.upstream.open == 0)
        assert not w.upstream.bodies


async def test_body_bytes_where_an_answer_has_begun(tmp_path: Path) -> None:
    async def early(upstream: Upstream, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        upstream.heads.append(await read_head(reader))
        writer.write(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nhi\r\n")
        await reader.read(-1)

    async with world(tmp_path, Plan(upstream=Upstream(early)).with_limits(body_bytes=10)) as w:
        client = await w.caller()
        client.send(POST + b"Transfer-Encoding: chunked\r\n\r\n1\r\na\r\n")
        await client.until(lambda: b"hi\r\n" in client.buffer)
        client.send(b"a\r\n0123456789\r\n")
        assert b"\r\n0\r\n" not in await client.rest()
        assert not client.end.eof, "no close_notify: the answer is not whole"
        await met(w, "body_bytes", "limit_body_bytes", http_status=200)


# -- how many and how often -------------------------------------------------------------------------------------------


@SIDES
async def test_requests_per_connection(tmp_path: Path, side: str) -> None:
    """The last is answered as the others are, and says that it was the last; what was pipelined behind it is not taken."""
    async with world(tmp_path, Plan().with_limits(requests_per_connection=3)) as w:
        client = await connect(w, side)
        client.send(GET * 5)
        answers = [await client.response() for _ in range(3)]
        assert [answer.status for answer in answers] == [200] * 3
        assert [answer.field(b"connection") for answer in answers] == [None, None, b"close"]
        assert await client.rest() == b""
        assert len(w.upstream.heads) == 3
        code = "limit_requests_per_connection"
        (line,) = await w.logged(1, event="request", error=code, direction=side)
        assert (line["decision"], line["http.status"]) == ("allow", 200)
        # Our own connection to the other sidecar meets it there as well.
        assert w.counted("limit_hits_total", "requests_per_connection") == (2 if side == "outbound" else 1)


@SIDES
async def test_request_rate(tmp_path: Path, side: str) -> None:
    """429 with the time to wait; the upstream learns nothing of it, and after that time the same connection goes on."""
    shifted = Shifted()
    async with world(tmp_path, Plan(clock=shifted.clock)) as w:
        client = await connect(w, side)
        assert (await client.ask(GET)).status == 200
        w.hub.limits = Plan().with_limits(request_rate=1, request_burst=2).limits
        assert [(await client.ask(GET)).status for _ in range(2)] == [200, 200]
        answer = await client.ask(GET)
        assert said(answer) == (429, "limit_request_rate")
        assert answer.field(b"retry-after") == b"1"
        assert len(w.upstream.heads) == 3
        line = await met(w, "request_rate", "limit_request_rate", http_status=429, direction=side)
        assert (line["decision"], line["decision.reason"]) == ("deny", "limit_request_rate")
        assert json.loads(answer.body)["decision_id"] == line["decision.id"] != ""
        shifted.monotonic += 1
        assert (await client.ask(GET)).status == 200


async def test_request_rate_is_of_the_caller_whatever_connection_it_takes(tmp_path: Path) -> None:
    plan = Plan(allow=(rule("spiffe://example.org/agent/**"),)).with_limits(request_rate=1, request_burst=3)
    async with world(tmp_path, plan) as w:
        first, second = await w.caller(), await w.caller()
        other = await w.caller(w.ca.leaf("/agent/other/1", now=w.hub.clock.wall()))
        statuses = [(await client.ask(GET)).status for client in (first, second, first, second)]
        assert statuses == [200, 200, 200, 429]
        assert (await other.ask(GET)).status == 200


async def test_request_rate_of_a_body_that_nobody_reads(tmp_path: Path) -> None:
    async with world(tmp_path, Plan().with_limits(request_rate=1, request_burst=1)) as w:
        client = await w.plain()
        assert (await client.ask(GET)).status == 200
        answer = await client.ask(POST + b"Content-Length: 100\r\n\r\n")
        assert answer.status == 429
        assert answer.field(b"connection") == b"close"
        assert await client.rest() == b""


async def swept(w: World) -> None:
    """Returns when all deadlines have been looked at since this was called."""
    before = w.hub._timer
    await w.eventually(lambda: w.hub._timer is not before)


# -- times ------------------------------------------------------------------------------------------------------------


async def test_handshake_timeout(tmp_path: Path) -> None:
    shifted = Shifted()
    async with world(tmp_path, Plan(clock=shifted.clock)) as w:
        silent = await w.inbound_plain()
        await w.eventually(lambda: w.hub.handshakes == 1)
        shifted.monotonic += w.hub.limits.handshake_timeout + 1
        assert await silent.rest() == b""
        await met(w, "handshake_timeout", "limit_handshake_timeout", event="refused")


@SIDES
async def test_head_timeout(tmp_path: Path, side: str) -> None:
    shifted = Shifted()
    async with world(tmp_path, Plan(clock=shifted.clock)) as w:
        client = await connect(w, side)
        client.send(GET[:-2])
        await w.eventually(lambda: any(c._in_head for c in w.hub.connections))
        shifted.monotonic += w.hub.limits.head_timeout + 1
        answer = await client.response()
        assert said(answer) == (408, "limit_head_timeout")
        await met(w, "head_timeout", "limit_head_timeout", http_status=408)


@SIDES
async def test_idle_timeout(tmp_path: Path, side: str) -> None:
    shifted = Shifted()
    async with world(tmp_path, Plan(clock=shifted.clock)) as w:
        client = await connect(w, side)
        assert (await client.ask(GET)).status == 200
        shifted.monotonic += w.hub.limits.idle_timeout + 1
        assert await client.rest() == b""
        line = (await w.logged(1, event="closed", direction=side))[0]
        assert line["error"] == "limit_idle_timeout"
        assert line["src.addr"].startswith(LOOPBACK)
        assert w.counted("limit_hits_total", "idle_timeout") == len(await lines_of(w, "limit_idle_timeout"))


async def lines_of(w: World, code: str) -> list[dict[str, Any]]:
    return [line for line in w.log() if line.get("error") == code]


@SIDES
async def test_stall_timeout_of_a_sender(tmp_path: Path, side: str) -> None:
    shifted = Shifted()
    async with world(tmp_path, Plan(clock=shifted.clock)) as w:
        client = await connect(w, side)
        client.send(POST + b"Content-Length: 100000\r\n\r\nx")
        await w.eventually(lambda: len(w.upstream.heads) == 1)
        shifted.monotonic += w.hub.limits.stall_timeout + 1
        answer = await client.response()
        assert said(answer) == (408, "limit_stall_timeout")
        await w.logged(1, error="limit_stall_timeout", direction=side)
        assert w.counted("limit_hits_total", "stall_timeout") == len(await lines_of(w, "limit_stall_timeout"))


async def silent(upstream: Upstream, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    upstream.heads.append(await read_head(reader))
    await reader.read(-1)


async def streaming(upstream: Upstream, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    upstream.heads.append(await read_head(reader))
    writer.write(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nhi\r\n")
    with suppress(ConnectionError):
        await reader.read(-1)


async def test_upstream_timeout(tmp_path: Path) -> None:
    shifted = Shifted()
    async with world(tmp_path, Plan(clock=shifted.clock, upstream=Upstream(silent))) as w:
        client = await w.caller()
        client.send(GET)
        await w.eventually(lambda: len(w.upstream.heads) == 1)
        shifted.monotonic += w.hub.limits.upstream_timeout + 1
        assert said(await client.response()) == (504, "upstream_timeout")
        await met(w, "upstream_timeout", "upstream_timeout", http_status=504)


async def test_connect_timeout(tmp_path: Path) -> None:
    """Nobody answers the hello: a listener that accepts and does nothing more."""
    with socket.create_server((LOOPBACK, 0)) as listener:
        plan = Plan(connect_port=listener.getsockname()[1]).with_limits(connect_timeout=0.2)
        async with world(tmp_path, plan) as w:
            client = await w.plain()
            assert said(await client.ask(GET)) == (504, "upstream_connect_timeout")
            await met(w, "connect_timeout", "upstream_connect_timeout", http_status=504)


async def test_upstream_idle_timeout(tmp_path: Path) -> None:
    """Counted and not logged: nothing ends but a spare connection."""
    shifted = Shifted()
    async with world(tmp_path, Plan(clock=shifted.clock)) as w:
        client = await w.caller()
        assert (await client.ask(GET)).status == 200
        shifted.monotonic += w.hub.limits.upstream_idle_timeout + 0.5
        await w.eventually(lambda: w.counted("limit_hits_total", "upstream_idle_timeout") == 1)
        assert (await client.ask(GET)).status == 200


async def test_stream_idle_timeout(tmp_path: Path) -> None:
    shifted = Shifted()
    plan = Plan(clock=shifted.clock, upstream=Upstream(streaming)).with_limits(stream_idle_timeout=60.0)
    async with world(tmp_path, plan) as w:
        client = await w.caller()
        client.send(GET)
        await client.until(lambda: b"hi\r\n" in client.buffer)
        shifted.monotonic += w.hub.limits.stream_idle_timeout + 1
        await swept(w)
        shifted.monotonic += w.hub.limits.stream_idle_timeout + 1
        assert b"\r\n0\r\n" not in await client.rest()
        await w.logged(1, event="request", error="limit_stream_idle_timeout")
        assert w.counted("limit_hits_total", "stream_idle_timeout") == 1


@pytest.mark.parametrize("script", [silent, streaming], ids=["before an answer", "in an answer"])
@pytest.mark.parametrize("total", [2.0, 20.0], ids=["short", "long"])
async def test_total_timeout(tmp_path: Path, script: Callable[..., Awaitable[None]], total: float) -> None:
    """However much moves: 504 before an answer began, else the connection is cut."""
    shifted = Shifted()
    plan = Plan(clock=shifted.clock, upstream=Upstream(script))
    async with world(tmp_path, plan.with_limits(total_timeout=total)) as w:
        client = await w.caller()
        client.send(GET)
        await w.eventually(lambda: len(w.upstream.heads) == 1)
        if script is streaming:
            await client.until(lambda: b"hi\r\n" in client.buffer)
        if total > 10:
            shifted.monotonic += 11
            await w.logged(1, event="open")
        shifted.monotonic += total / 2
        if script is silent:
            await swept(w)
            assert not client.buffer
        shifted.monotonic += total / 2 + 0.5
        if script is silent:
            assert said(await client.response()) == (504, "limit_total_timeout")
        else:
            assert b"\r\n0\r\n" not in await client.rest()
            assert not client.end.eof
        await met(w, "total_timeout", "limit_total_timeout", event="request")
        assert len([line for line in w.log() if line["event"] == Event.OPEN]) == (total > 10)
        await w.eventually(lambda: w.upstream.open == 0)


async def test_a_connection_whose_request_took_too_long_serves_the_next(tmp_path: Path) -> None:
    shifted = Shifted()
    answers = iter([silent, keep_answering])

    async def script(upstream: Upstream, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await next(answers)(upstream, reader, writer)

    async with world(
        tmp_path, Plan(clock=shifted.clock, upstream=Upstream(script)).with_limits(total_timeout=2.0)
    ) as w:
        client = await w.caller()
        client.send(GET)
        await w.eventually(lambda: len(w.upstream.heads) == 1)
        shifted.monotonic += 3
        assert (await client.response()).status == 504
        answer = await client.ask(GET)
        assert (answer.status, answer.body) == (200, HELLO[-5:])


# -- upstreams --------------------------------------------------------------------------------------------------------


async def test_tls_records(tmp_path: Path) -> None:
    """A bound that is no key: an idle connection which it ends has a line too."""
    async with world(tmp_path) as w:
        client = await w.caller()
        await w.eventually(lambda: len(w.hub.connections) == 1)
        (connection,) = w.hub.connections
        connection.stream.cut_off(ProxyCode.LIMIT_TLS_RECORDS)
        await client.rest()
        await met(w, "tls_records", "limit_tls_records", event="closed")


@pytest.mark.parametrize("script", [silent, streaming], ids=["before an answer", "in an answer"])
async def test_tls_records_of_an_upstream(tmp_path: Path, script: Callable[..., Awaitable[None]]) -> None:
    """The request that it cost has the name of the limit in its line, and is not sent again."""
    async with world(tmp_path, Plan(upstream=Upstream(script))) as w:
        client = await w.plain()
        client.send(GET)
        await w.eventually(lambda: len(w.upstream.heads) == 1)
        if script is streaming:
            await client.until(lambda: b"hi\r\n" in client.buffer)
        (upstream,) = w.outbound.service.pool._live
        upstream.settled = True  # as one that was kept, whose break would be worth another try
        upstream.stream.cut_off(ProxyCode.LIMIT_TLS_RECORDS)
        if script is silent:
            assert said(await client.response()) == (502, "upstream_bad_response")
        else:
            assert b"\r\n0\r\n" not in await client.rest()
        await met(w, "tls_records", "limit_tls_records", event="request", direction="outbound")
        assert w.counted("retries_total", "outbound", "tools") == 0
        assert len(w.upstream.heads) == 1

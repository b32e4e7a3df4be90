"""What an upstream may do wrong, and what of it reaches a client: nothing that could be taken for something else."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import pytest

from tests.support.clock import Shifted
from tests.support.pair import HELLO, Plan, Upstream, keep_answering, read_head, world

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable
    from pathlib import Path

    Script = Callable[[Upstream, asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]

GET = b"GET /mcp HTTP/1.1\r\nHost: tools.internal\r\n\r\n"
POST = b"POST /mcp HTTP/1.1\r\nHost: tools.internal\r\nContent-Length: 5\r\n\r\nhello"
OK = b"HTTP/1.1 200 OK\r\n"


def saying(answer: bytes, *, end: bool = False) -> Plan:
    """An upstream that answers every request with these bytes, and then ends or waits for more."""

    async def script(upstream: Upstream, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while True:
            upstream.heads.append(await read_head(reader))
            writer.write(answer)
            if end:
                return

    return Plan(upstream=Upstream(script))


# -- malformed --------------------------------------------------------------------------------------------------------

MALFORMED = {
    "both_lengths": OK + b"Content-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
    "duplicate_content_length": OK + b"Content-Length: 5\r\nContent-Length: 6\r\n\r\nhello!",
    "bad_content_length": OK + b"Content-Length: +5\r\n\r\nhello",
    "bad_field_name": OK + b"X(1): a\r\nContent-Length: 0\r\n\r\n",
    "bad_field": OK + b"X: a\r\nSet-Cookie\r\nContent-Length: 0\r\n\r\n",
    "bare_lf": OK + b"X: a\nSet-Cookie: b\r\nContent-Length: 0\r\n\r\n",
    "bare_cr": OK + b"X: a\rSet-Cookie: b\r\nContent-Length: 0\r\n\r\n",
    "obs_fold": OK + b"X: a\r\n b\r\nContent-Length: 0\r\n\r\n",
    "bad_status_line": b"HTTP/2 200 OK\r\nContent-Length: 0\r\n\r\n",
    "unsupported_transfer_encoding": OK + b"Transfer-Encoding: gzip, chunked\r\n\r\n0\r\n\r\n",
    "transfer_encoding_http10": b"HTTP/1.0 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
    "forbidden_body": b"HTTP/1.1 204 No Content\r\nContent-Length: 5\r\n\r\nhello",
    "head_too_large": OK + b"X: " + b"a" * 70_000 + b"\r\n\r\n",
    "too_many_fields": OK + b"X: a\r\n" * 200 + b"\r\n",
    "too_many_informational": b"HTTP/1.1 102 Processing\r\n\r\n" * 200 + HELLO,
}


@pytest.mark.threat(37)
@pytest.mark.parametrize("code", MALFORMED)
async def test_threat_37_a_malformed_response_is_502_and_its_connection_is_discarded(tmp_path: Path, code: str) -> None:
    async with world(tmp_path, saying(MALFORMED[code])) as w:
        agent = await w.plain()
        for number in (1, 2):
            response = await agent.ask(GET)
            while response.status < 200:
                response = await agent.response()
            assert response.status == 502
            assert b'"error":"upstream_bad_response"' in response.body
            assert b"hello" not in response.body
            await w.logged(number, direction="inbound", http_status=502, error=code, decision="allow")
            await w.eventually(lambda: w.upstream.open == 0)
            assert w.upstream.connections == number  # and it was not tried again
        assert w.counted("requests_total", "inbound", "tools", "allow", "5xx") == 2


@pytest.mark.threat(38)
async def test_threat_38_an_unsolicited_101_is_502_and_no_tunnel(tmp_path: Path) -> None:
    switching = b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: h2c\r\nConnection: Upgrade\r\n\r\nraw bytes"
    async with world(tmp_path, saying(switching)) as w:
        agent = await w.plain()
        upgrade = GET.replace(b"\r\n\r\n", b"\r\nConnection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\n\r\n")
        response = await agent.ask(upgrade)
        assert response.status == 502
        agent.send(b"more raw bytes\r\n\r\n")
        assert b"raw bytes" not in await agent.rest()
        assert b"upgrade" not in w.upstream.heads[0].lower()
        await w.logged(1, error="unsolicited_upgrade", direction="inbound")


@pytest.mark.threat(38)
async def test_threat_38_a_plain_answer_to_an_upgrade_leaves_the_connection_http(tmp_path: Path) -> None:
    async with world(tmp_path) as w:
        agent = await w.plain()
        upgrade = GET.replace(b"\r\n\r\n", b"\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n")
        agent.send(upgrade + GET)
        assert (await agent.response()).body == b"hello"
        assert (await agent.response()).body == b"hello"
        assert [b"pgrade" in head for head in w.upstream.heads] == [False, False]


@pytest.mark.threat(37)
@pytest.mark.parametrize("extra", [b"X", HELLO, b"\r\n", b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\npoisoned!"])
async def test_threat_37_bytes_behind_a_response_reach_no_client(tmp_path: Path, extra: bytes) -> None:
    async with world(tmp_path, saying(OK + b"Content-Length: 2\r\n\r\nok" + extra)) as w:
        agents = [await w.plain(), await w.plain()]
        for number in range(6):
            assert (await agents[number % 2].ask(GET)).body == b"ok"
        assert w.upstream.connections == 6
        await w.eventually(lambda: w.upstream.open == 0)
        assert not agents[0].buffer
        assert not agents[1].buffer


@pytest.mark.threat(37)
async def test_threat_37_bytes_behind_a_response_are_no_answer_to_a_pipelined_request(tmp_path: Path) -> None:
    poisoned = OK + b"Content-Length: 2\r\n\r\nok" + OK + b"Content-Length: 9\r\n\r\npoisoned!"
    async with world(tmp_path, saying(poisoned)) as w:
        agent = await w.plain()
        agent.send(GET * 5)
        for _ in range(5):
            assert (await agent.response()).body == b"ok"
        assert w.upstream.connections == 5


@pytest.mark.threat(37)
async def test_threat_37_a_pooled_connection_that_became_readable_is_not_used(tmp_path: Path) -> None:
    writers: list[asyncio.StreamWriter] = []

    async def chatty(upstream: Upstream, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writers.append(writer)
        await keep_answering(upstream, reader, writer)

    async with world(tmp_path, Plan(upstream=Upstream(chatty))) as w:
        agent = await w.plain()
        assert (await agent.ask(GET)).body == b"hello"
        writers[0].write(OK + b"Content-Length: 9\r\n\r\npoisoned!")
        await w.eventually(lambda: w.upstream.open == 0)
        assert (await agent.ask(GET)).body == b"hello"
        assert w.upstream.connections == 2


@pytest.mark.threat(37)
async def test_threat_37_bytes_that_lie_in_the_kernel_are_seen_before_a_connection_is_taken(tmp_path: Path) -> None:
    writers: list[asyncio.StreamWriter] = []

    async def chatty(upstream: Upstream, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writers.append(writer)
        await keep_answering(upstream, reader, writer)

    async with world(tmp_path, Plan(upstream=Upstream(chatty))) as w:
        agent = await w.plain()
        assert (await agent.ask(GET)).body == b"hello"
        pool = w.inbound.service.pool
        (idle,) = pool._idle
        idle.stream.pause_reading()  # the event loop has not come to it yet
        writers[0].write(OK + b"Content-Length: 9\r\n\r\npoisoned!")
        await w.eventually(lambda: not idle.usable())
        assert (await agent.ask(GET)).body == b"hello"
        assert w.upstream.connections == 2


@pytest.mark.threat(37)
async def test_threat_37_a_body_behind_an_answer_to_head_reaches_nobody_else(tmp_path: Path) -> None:
    async def careless(upstream: Upstream, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while True:
            head = await read_head(reader)
            upstream.heads.append(head)
            writer.write(OK + b"Content-Length: 45\r\n\r\n")
            if head.startswith(b"HEAD"):
                await asyncio.sleep(0)  # in a packet of its own, when the answer is long complete
            writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 7\r\n\r\npoison!")

    async with world(tmp_path, Plan(upstream=Upstream(careless))) as w:
        for _ in range(20):
            attacker, victim = await w.plain(), await w.plain()
            attacker.send(GET.replace(b"GET", b"HEAD"))
            assert (await attacker.response(b"HEAD")).status == 200
            answer = await victim.ask(GET)
            assert answer.field(b"content-length") == b"45"


async def test_an_upstream_that_speaks_before_it_is_asked_leaves_nothing_for_others(tmp_path: Path) -> None:
    async def greeting(upstream: Upstream, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(HELLO.replace(b"\r\n\r\n", b"\r\nConnection: close\r\n\r\n"))
        upstream.heads.append(await reader.read())

    async with world(tmp_path, Plan(upstream=Upstream(greeting))) as w:
        agent = await w.plain()
        for _ in range(5):
            # Whether it spoke before or after our request is the kernel's secret; either way nothing is left over.
            assert (await agent.ask(GET)).status in {200, 502}
        await w.eventually(lambda: w.inbound.service.pool.size == 0)


# -- truncated --------------------------------------------------------------------------------------------------------

TRUNCATED = {
    "length": OK + b"Content-Length: 100\r\n\r\nsome of it",
    "chunk": OK + b"Transfer-Encoding: chunked\r\n\r\n64\r\nsome of it",
    "chunks": OK + b"Transfer-Encoding: chunked\r\n\r\n2\r\nab\r\n",
    "trailers": OK + b"Transfer-Encoding: chunked\r\n\r\n2\r\nab\r\n0\r\nX: 1\r\n",
}


@pytest.mark.threat(43)
@pytest.mark.parametrize("how", TRUNCATED)
async def test_threat_43_a_truncated_response_never_looks_whole(tmp_path: Path, how: str) -> None:
    async with world(tmp_path, saying(TRUNCATED[how], end=True)) as w:
        agent = await w.plain()
        agent.send(GET)
        rest = await agent.rest()
        assert rest.startswith(OK)
        assert b"\r\n0\r\n" not in rest
        assert b"Content-Length: 100" in rest or b"chunked" in rest
        for direction in ("inbound", "outbound"):
            await w.logged(1, direction=direction, error="truncated_body", http_status=200)
        await w.eventually(lambda: w.upstream_connections == 0)


@pytest.mark.threat(43)
@pytest.mark.parametrize("how", TRUNCATED)
async def test_threat_43_over_tls_a_truncated_response_ends_without_close_notify(tmp_path: Path, how: str) -> None:
    async with world(tmp_path, saying(TRUNCATED[how], end=True)) as w:
        caller = await w.caller()
        caller.send(GET)
        await caller.rest()
        assert b"\r\n0\r\n" not in caller.buffer
        assert not caller.end.eof
        assert caller.end.alerts == []


async def test_over_tls_a_whole_response_that_closes_ends_with_close_notify(tmp_path: Path) -> None:
    async with world(tmp_path) as w:
        caller = await w.caller()
        caller.send(GET.replace(b"\r\n\r\n", b"\r\nConnection: close\r\n\r\n"))
        assert (await caller.rest()).endswith(b"hello")
        assert caller.end.eof


@pytest.mark.threat(43)
async def test_threat_43_a_truncated_response_to_http_1_0_ends_with_a_reset(tmp_path: Path) -> None:
    async with world(tmp_path, saying(TRUNCATED["chunks"], end=True)) as w:
        agent = await w.plain()
        agent.send(b"GET / HTTP/1.0\r\nHost: tools.internal\r\n\r\n")
        await agent.rest()
        assert agent.reset  # nothing else tells the end of such a body from its being cut


@pytest.mark.threat(43)
async def test_threat_43_a_reset_in_the_middle_of_a_response_is_a_truncation(tmp_path: Path) -> None:
    async def breaking(upstream: Upstream, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        upstream.heads.append(await read_head(reader))
        writer.write(OK + b"\r\nuntil the connection ends")
        await asyncio.wait_for(upstream_seen.wait(), 5)
        upstream_reset(writer)

    upstream_seen = asyncio.Event()
    async with world(tmp_path, Plan(upstream=Upstream(breaking))) as w:
        agent = await w.plain()
        agent.send(GET)
        await agent.until(lambda: b"connection ends" in agent.buffer)
        upstream_seen.set()
        rest = await agent.rest()
        assert not rest.endswith(b"0\r\n\r\n")
        await w.logged(1, direction="inbound", error="upstream_truncated")


def upstream_reset(writer: asyncio.StreamWriter) -> None:
    import socket
    import struct

    sock = writer.get_extra_info("socket")
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    writer.transport.abort()


@pytest.mark.parametrize("part", [b"", b"HTTP/1.1 20", OK + b"Content-Length: 5\r\n"])
async def test_an_upstream_that_ends_before_its_head_is_whole_is_502(tmp_path: Path, part: bytes) -> None:
    async with world(tmp_path, saying(part, end=True)) as w:
        agent = await w.plain()
        response = await agent.ask(POST)
        assert response.status == 502
        assert b"upstream_reset" in response.body
        assert w.upstream.connections == 1
        # The request was read whole, so the client's connection lives on.
        assert (await agent.ask(POST)).status == 502


# -- once more, or not ------------------------------------------------------------------------------------------------


def closing_after(answers: int) -> Plan:
    """Upstream connections that answer so many requests and are closed by the next one, without a word."""

    async def script(upstream: Upstream, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        for _ in range(answers):
            upstream.heads.append(await read_head(reader))
            if upstream.heads[-1].startswith(b"POST"):
                upstream.bodies.append(await reader.readexactly(5))
            writer.write(upstream.answer)
        upstream.heads.append(await read_head(reader))

    return Plan(upstream=Upstream(script))


@pytest.mark.threat(42)
async def test_threat_42_a_stale_connection_costs_a_get_one_retry(tmp_path: Path) -> None:
    async with world(tmp_path, closing_after(1)) as w:
        agent = await w.plain()
        assert (await agent.ask(GET)).body == b"hello"
        assert (await agent.ask(GET)).body == b"hello"
        assert w.upstream.connections == 2
        assert len(w.upstream.heads) == 3
        await w.logged(4, http_status=200)


@pytest.mark.threat(42)
async def test_threat_42_a_post_is_never_sent_twice(tmp_path: Path) -> None:
    async with world(tmp_path, closing_after(1)) as w:
        agent = await w.plain()
        assert (await agent.ask(POST)).body == b"hello"
        response = await agent.ask(POST)
        assert response.status == 502
        assert b"upstream_reset" in response.body
        assert len(w.upstream.heads) == 2
        await w.logged(1, direction="inbound", http_status=502, error="no_response")


@pytest.mark.threat(42)
@pytest.mark.parametrize("method", [b"POST", b"PATCH", b"QUERY", b"BREW"])
async def test_threat_42_a_method_that_is_not_idempotent_is_never_sent_twice(tmp_path: Path, method: bytes) -> None:
    async with world(tmp_path, closing_after(1)) as w:
        agent = await w.plain()
        assert (await agent.ask(GET)).body == b"hello"
        assert (await agent.ask(GET.replace(b"GET", method))).status == 502
        assert len(w.upstream.heads) == 2


@pytest.mark.threat(42)
@pytest.mark.parametrize(
    ("fields", "body"),
    [
        (b"Content-Length: 5", b"hello"),
        (b"Content-Length: 60000", b"x" * 60_000),
        (b"Transfer-Encoding: chunked", b"5\r\nhello\r\n0\r\n\r\n"),
    ],
)
async def test_threat_42_an_idempotent_request_whose_body_is_held_costs_one_retry(
    tmp_path: Path, fields: bytes, body: bytes
) -> None:
    async with world(tmp_path, closing_after(1)) as w:
        agent = await w.plain()
        assert (await agent.ask(GET)).body == b"hello"
        w.upstream.script = keep_answering  # for the connection that comes
        put = b"PUT /mcp HTTP/1.1\r\nHost: tools.internal\r\n" + fields + b"\r\n\r\n" + body
        assert (await agent.ask(put)).body == b"hello"
        assert [head[:4] for head in w.upstream.heads] == [b"GET ", b"PUT ", b"PUT "]
        assert w.upstream.bodies == [body]
        await w.logged(2, http_status=200, bytes_received=60_000 if len(body) > 100 else 5)
        assert w.counted("retries_total", "inbound", "tools") == 1


@pytest.mark.threat(42)
async def test_threat_42_a_body_that_is_too_large_to_be_held_is_not_sent_twice(tmp_path: Path) -> None:
    async with world(tmp_path, closing_after(1)) as w:
        agent = await w.plain()
        assert (await agent.ask(GET)).body == b"hello"
        put = b"PUT /mcp HTTP/1.1\r\nHost: tools.internal\r\nContent-Length: 100000\r\n\r\n"
        assert (await agent.ask(put + b"x" * 100_000)).status == 502
        assert len(w.upstream.heads) == 2
        assert w.counted("retries_total", "inbound", "tools") == 0


@pytest.mark.threat(42)
async def test_threat_42_a_new_connection_that_breaks_is_not_tried_again(tmp_path: Path) -> None:
    async with world(tmp_path, closing_after(0)) as w:
        agent = await w.plain()
        for number in (1, 2, 3):
            assert (await agent.ask(GET)).status == 502
            assert w.upstream.connections == number


@pytest.mark.threat(42)
async def test_threat_42_an_answer_that_has_begun_is_not_asked_for_again(tmp_path: Path) -> None:
    async def half(upstream: Upstream, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        upstream.heads.append(await read_head(reader))
        writer.write(HELLO)
        upstream.heads.append(await read_head(reader))
        writer.write(b"HTTP/1.1 2")

    async with world(tmp_path, Plan(upstream=Upstream(half))) as w:
        agent = await w.plain()
        assert (await agent.ask(GET)).status == 200
        assert (await agent.ask(GET)).status == 502
        assert len(w.upstream.heads) == 2


@pytest.mark.threat(42)
async def test_threat_42_retries_are_at_most_one_in_five_requests_after_the_first_few(tmp_path: Path) -> None:
    async with world(tmp_path, closing_after(1)) as w:
        agent = await w.plain()
        statuses = [(await agent.ask(GET)).status for _ in range(200)]
        failed = statuses.count(502)
        retries = len(w.upstream.heads) - len(statuses)
        assert statuses.count(200) + failed == 200
        assert failed > 0
        assert retries <= 10 + 200 / 5
        assert w.counted("retries_total", "inbound", "tools") == retries
        assert w.counted("limit_hits_total", "retries") == failed
        await w.logged(failed, direction="inbound", http_status=502, error="limit_retries")


async def test_an_upstream_that_closed_an_idle_connection_costs_nobody_an_error(tmp_path: Path) -> None:
    async def impatient(upstream: Upstream, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        upstream.heads.append(await read_head(reader))
        upstream.bodies.append(await reader.readexactly(5))
        writer.write(upstream.answer)

    async with world(tmp_path, Plan(upstream=Upstream(impatient))) as w:
        agent = await w.plain()
        for number in (1, 2, 3):
            assert (await agent.ask(POST)).body == b"hello"
            await w.eventually(lambda: w.inbound.service.pool.size == 0)
            assert w.upstream.connections == number


# -- slow readers -----------------------------------------------------------------------------------------------------


async def test_an_upstream_that_stops_reading_a_body_is_504_and_one_that_reads_slowly_is_waited_for(
    tmp_path: Path,
) -> None:
    shifted = Shifted()
    size = 16_000_000
    go_on = asyncio.Event()

    async def deaf(upstream: Upstream, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        upstream.heads.append(await read_head(reader))
        await go_on.wait()
        upstream.bodies.append(await reader.read(1_000_000))
        await asyncio.get_running_loop().create_future()

    async with world(tmp_path, Plan(upstream=Upstream(deaf), clock=shifted.clock)) as w:
        caller = await w.caller()
        caller.send(POST.replace(b"5\r\n\r\nhello", b"%d\r\n\r\n" % size) + b"x" * size)
        await w.eventually(lambda: any(s.writing_paused for s in w.hub.streams))
        (pooled,) = w.inbound.service.pool._live
        stall = w.hub.limits.stall_timeout
        pooled._write_mark -= 1_000_000  # as if it had read so much since
        shifted.monotonic += stall + 1
        await w.eventually(lambda: pooled.stream.write_deadline > w.hub.clock.monotonic())
        assert not caller.buffer
        assert pooled._write_mark == pooled.stream.delivered
        shifted.monotonic += stall + 1
        response = await caller.response()
        assert response.status == 504
        assert b"upstream_stalled" in response.body
        await w.logged(1, error="upstream_stalled", direction="inbound", event="request")


# -- silence ----------------------------------------------------------------------------------------------------------


async def test_an_upstream_that_does_not_answer_is_504_in_its_time(tmp_path: Path) -> None:
    shifted = Shifted()
    async with world(tmp_path, Plan(upstream=saying(b"").upstream, clock=shifted.clock)) as w:
        agent = await w.plain()
        agent.send(GET)
        await w.eventually(lambda: len(w.upstream.heads) == 1)
        shifted.monotonic += w.hub.limits.upstream_timeout + 1
        response = await agent.response()
        assert response.status == 504
        await w.logged(1, error="upstream_timeout", http_status=504, direction="outbound")
        await w.eventually(lambda: w.upstream.open == 0)


async def test_a_response_that_falls_silent_is_cut_after_stream_idle_timeout_and_not_before(tmp_path: Path) -> None:
    shifted = Shifted()
    go_on = asyncio.Event()

    async def dozing(upstream: Upstream, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await read_head(reader)
        writer.write(OK + b"Transfer-Encoding: chunked\r\n\r\n1\r\na\r\n")
        await go_on.wait()
        writer.write(b"1\r\nb\r\n")
        await reader.read()

    plan = Plan(upstream=Upstream(dozing), clock=shifted.clock).with_limits(stream_idle_timeout=600.0)
    async with world(tmp_path, plan) as w:
        agent = await w.plain()
        agent.send(GET)
        await agent.until(lambda: agent.buffer.endswith(b"1\r\na\r\n"))
        go_on.set()
        await agent.until(lambda: agent.buffer.endswith(b"1\r\nb\r\n"))
        limit = w.hub.limits.stream_idle_timeout
        shifted.monotonic += limit + 1
        deadlines = [stream for stream in w.hub.streams if stream.read_deadline < float("inf")]
        assert deadlines
        await w.eventually(lambda: all(s.read_deadline > w.hub.clock.monotonic() for s in deadlines))
        assert not agent.ended  # something had come since the last look
        shifted.monotonic += limit + 1
        assert not (await agent.rest()).endswith(b"0\r\n\r\n")
        assert len([line for line in w.log() if line.get("error") == "limit_stream_idle_timeout"]) >= 1


async def test_an_idle_pooled_connection_is_closed_before_the_upstream_would(tmp_path: Path) -> None:
    shifted = Shifted()
    async with world(tmp_path, Plan(clock=shifted.clock)) as w:
        agent = await w.plain()
        assert (await agent.ask(GET)).status == 200
        shifted.monotonic += w.hub.limits.upstream_idle_timeout + 1
        await w.eventually(lambda: w.upstream_connections == 0)
        await w.eventually(lambda: w.upstream.open == 0)
        assert (await agent.ask(GET)).status == 200
        assert w.upstream.connections == 2
        assert w.counted("handshakes_total", "server", "ok", "true") == 1

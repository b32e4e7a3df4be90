"""One request and its response, through both sidecars: what goes on, how it is framed, and when it leaves."""

from __future__ import annotations

import asyncio
import socket
from typing import TYPE_CHECKING

import pytest

from tests.support.pair import Plan, Upstream, keep_answering, read_head, world

if TYPE_CHECKING:
    from pathlib import Path

GET = b"GET /mcp HTTP/1.1\r\nHost: tools.internal\r\n\r\n"
POST = b"POST /mcp HTTP/1.1\r\nHost: tools.internal\r\nContent-Length: 5\r\n\r\nhello"
CHUNKED = b"POST /mcp HTTP/1.1\r\nHost: tools.internal\r\nTransfer-Encoding: chunked\r\n\r\n"


def answering(answer: bytes) -> Plan:
    return Plan(upstream=Upstream(answer=answer))


async def test_a_body_with_a_length_goes_both_ways_unchanged(tmp_path: Path) -> None:
    body = bytes(range(256)) * 1000
    answer = b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%b" % (len(body), body)
    async with world(tmp_path, answering(answer)) as w:
        agent = await w.plain()
        head = b"PUT /x HTTP/1.1\r\nHost: tools.internal\r\nContent-Length: %d\r\n\r\n" % len(body)
        response = await agent.ask(head + body)
        assert response.body == body
        assert w.upstream.bodies == [body]
        for direction in ("inbound", "outbound"):
            await w.logged(1, direction=direction, bytes_sent=len(body), bytes_received=len(body), http_status=200)


async def test_a_chunked_body_goes_both_ways_and_its_extensions_do_not(tmp_path: Path) -> None:
    answer = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3;a=b\r\nabc\r\n2\r\nde\r\n0\r\n\r\n"
    async with world(tmp_path, answering(answer)) as w:
        agent = await w.plain()
        response = await agent.ask(CHUNKED + b'5;secret="x"\r\nhello\r\n1\r\n!\r\n0\r\n\r\n')
        assert response.body == b"abcde"
        assert b"Transfer-Encoding: chunked\r\n" in w.upstream.heads[0]
        assert b"secret" not in w.upstream.bodies[0]
        assert w.upstream.bodies[0].endswith(b"hello!\r\n0\r\n\r\n")
        await w.logged(2, bytes_sent=5, bytes_received=6)


async def test_a_request_with_content_length_zero_keeps_it(tmp_path: Path) -> None:
    async with world(tmp_path) as w:
        agent = await w.plain()
        response = await agent.ask(b"POST /x HTTP/1.1\r\nHost: tools.internal\r\nContent-Length: 0\r\n\r\n")
        assert response.status == 200
        assert b"Content-Length: 0\r\n" in w.upstream.heads[0]


async def test_an_event_leaves_when_it_arrives(tmp_path: Path) -> None:
    released = asyncio.Event()

    async def events(upstream: Upstream, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        upstream.heads.append(await read_head(reader))
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n")
        for number in range(3):
            writer.write(b"9\r\ndata: %d\n\n\r\n" % number)
            await released.wait()
            released.clear()
        writer.write(b"0\r\n\r\n")
        await reader.read()

    async with world(tmp_path, Plan(upstream=Upstream(events))) as w:
        agent = await w.plain()
        agent.send(GET)
        for number in range(3):
            await agent.until(lambda n=number: b"data: %d\n\n" % n in agent.buffer)  # type: ignore[misc]
            assert b"\r\n0\r\n\r\n" not in agent.buffer
            released.set()
        assert (await agent.response()).chunks == (b"data: 0\n\n", b"data: 1\n\n", b"data: 2\n\n")


@pytest.mark.parametrize("framing", [b"Content-Length: 10", b"Transfer-Encoding: chunked"])
async def test_a_piece_of_a_body_arrives_before_the_request_ends(tmp_path: Path, framing: bytes) -> None:
    arrived = bytearray()
    first, second = (b"hello", b"world") if b"Length" in framing else (b"5\r\nhello\r\n", b"5\r\nworld\r\n0\r\n\r\n")

    async def listen(upstream: Upstream, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        upstream.heads.append(await read_head(reader))
        while not arrived.endswith(second):
            arrived.extend(await reader.read(1000))
        writer.write(upstream.answer)
        await reader.read()

    async with world(tmp_path, Plan(upstream=Upstream(listen))) as w:
        agent = await w.plain()
        agent.send(b"POST /x HTTP/1.1\r\nHost: tools.internal\r\n%b\r\n\r\n%b" % (framing, first))
        await w.eventually(lambda: bytes(arrived) == first)
        response = await agent.ask(second)
        assert response.body == b"hello"
        assert bytes(arrived) == first + second


async def test_connections_are_kept_and_reused_on_all_three_hops(tmp_path: Path) -> None:
    async with world(tmp_path) as w:
        agent = await w.plain()
        for _ in range(5):
            assert (await agent.ask(GET)).body == b"hello"
            assert (await agent.ask(POST)).body == b"hello"
        assert w.upstream.connections == 1
        assert w.counted("handshakes_total", "server", "ok", "false") == 1
        assert len(w.hub.connections) == 2  # the agent's and the peer's
        await w.logged(20, event="request", decision="allow", http_status=200)


async def test_a_connection_of_another_agent_takes_the_pooled_one(tmp_path: Path) -> None:
    async with world(tmp_path) as w:
        for _ in range(3):
            assert (await w.ask(GET.replace(b"\r\n\r\n", b"\r\nConnection: close\r\n\r\n"))).endswith(b"hello")
        assert w.upstream.connections == 1
        assert w.counted("handshakes_total", "client", "ok", "false") == 1


async def test_connection_close_of_the_client_ends_its_connection_alone(tmp_path: Path) -> None:
    async with world(tmp_path) as w:
        answer = await w.ask(GET.replace(b"\r\n\r\n", b"\r\nConnection: close\r\n\r\n") + GET)
        assert answer.count(b"HTTP/1.1 200") == 1
        assert b"Connection: close\r\n" in answer
        assert w.upstream.open == 1
        assert b"close" not in w.upstream.heads[0].lower()


async def test_connection_close_of_the_upstream_is_not_passed_on(tmp_path: Path) -> None:
    answer = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nConnection: close\r\n\r\nok"
    async with world(tmp_path, answering(answer)) as w:
        agent = await w.plain()
        for _ in range(2):
            response = await agent.ask(GET)
            assert response.body == b"ok"
            assert response.field(b"connection") is None
        assert w.upstream.connections == 2
        await w.eventually(lambda: w.upstream.open == 0)


# -- HTTP/1.0 ---------------------------------------------------------------------------------------------------------


async def test_http_1_0_without_keep_alive_is_answered_and_closed(tmp_path: Path) -> None:
    async with world(tmp_path) as w:
        answer = await w.ask(b"GET /x HTTP/1.0\r\nHost: tools.internal\r\n\r\n")
        assert answer.startswith(b"HTTP/1.1 200 OK\r\n")
        assert b"Connection: close\r\n" in answer
        assert answer.endswith(b"\r\n\r\nhello")


async def test_http_1_0_with_keep_alive_is_told_so(tmp_path: Path) -> None:
    async with world(tmp_path) as w:
        agent = await w.plain()
        for _ in range(2):
            response = await agent.ask(b"GET /x HTTP/1.0\r\nHost: tools.internal\r\nConnection: keep-alive\r\n\r\n")
            assert response.field(b"connection") == b"keep-alive"
        assert b"HTTP/1.1\r\n" in w.upstream.heads[0]


async def test_so_is_one_that_we_answer_ourselves(tmp_path: Path) -> None:
    async with world(tmp_path) as w:
        agent = await w.plain()
        for _ in range(2):
            response = await agent.ask(b"GET /x HTTP/1.0\r\nHost: elsewhere\r\nConnection: keep-alive\r\n\r\n")
            assert (response.status, response.field(b"connection")) == (403, b"keep-alive")


async def test_a_chunked_answer_to_http_1_0_ends_with_its_connection(tmp_path: Path) -> None:
    answer = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n"
    async with world(tmp_path, answering(answer)) as w:
        got = await w.ask(b"GET /x HTTP/1.0\r\nHost: tools.internal\r\nConnection: keep-alive\r\n\r\n")
        head, _, body = got.partition(b"\r\n\r\n")
        assert body == b"hello"
        assert b"transfer-encoding" not in head.lower()
        assert b"Connection: close" in head


async def test_an_http_1_0_upstream_is_closed_and_its_body_becomes_chunked(tmp_path: Path) -> None:
    async def old(upstream: Upstream, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        upstream.heads.append(await read_head(reader))
        writer.write(b"HTTP/1.0 200 OK\r\nContent-Type: text/plain\r\n\r\nuntil the end")

    async with world(tmp_path, Plan(upstream=Upstream(old))) as w:
        agent = await w.plain()
        for number in (1, 2):
            response = await agent.ask(GET)
            assert response.head.startswith(b"HTTP/1.1 200 OK\r\n")
            assert response.field(b"transfer-encoding") == b"chunked"
            assert response.body == b"until the end"
            assert w.upstream.connections == number


# -- bodies that are not there ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("method", "answer", "length"),
    [
        (b"HEAD", b"HTTP/1.1 200 OK\r\nContent-Length: 1234\r\n\r\n", b"1234"),
        (b"HEAD", b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n", None),
        (b"GET", b"HTTP/1.1 204 No Content\r\n\r\n", None),
        (b"GET", b'HTTP/1.1 304 Not Modified\r\nContent-Length: 99\r\nETag: "a"\r\n\r\n', b"99"),
        (b"GET", b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n", b"0"),
    ],
)
async def test_an_answer_without_a_body_keeps_the_callers_connection(
    tmp_path: Path, method: bytes, answer: bytes, length: bytes | None
) -> None:
    """And the upstream's where nobody could think that a body follows: see threat 37."""
    certain = method != b"HEAD" and b" 200 " in answer
    async with world(tmp_path, answering(answer)) as w:
        agent = await w.plain()
        for _ in range(3):
            response = await agent.ask(method + b" /x HTTP/1.1\r\nHost: tools.internal\r\n\r\n")
            assert response.field(b"content-length") == length
        assert w.upstream.connections == (1 if certain else 3)
        await w.logged(6, bytes_sent=0)


# -- interim responses ------------------------------------------------------------------------------------------------


async def hints(upstream: Upstream, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    while True:
        upstream.heads.append(await read_head(reader))
        writer.write(b"HTTP/1.1 103 Early Hints\r\nLink: </a>\r\nConnection: x\r\nX: 1\r\n\r\n" + upstream.answer)


async def test_an_interim_response_is_passed_on_without_hop_by_hop_fields(tmp_path: Path) -> None:
    async with world(tmp_path, Plan(upstream=Upstream(hints))) as w:
        agent = await w.plain()
        agent.send(GET)
        assert await agent.head() == b"HTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\n"
        assert (await agent.response()).status == 200


async def test_http_1_0_gets_no_interim_response(tmp_path: Path) -> None:
    async with world(tmp_path, Plan(upstream=Upstream(hints))) as w:
        answer = await w.ask(b"GET /x HTTP/1.0\r\nHost: tools.internal\r\nExpect: 100-continue\r\n\r\n")
        assert answer.startswith(b"HTTP/1.1 200 OK\r\n")
        assert b"expect" not in w.upstream.heads[0].lower()


async def test_a_client_that_expects_100_continue_gets_the_upstreams(tmp_path: Path) -> None:
    async def careful(upstream: Upstream, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        upstream.heads.append(await read_head(reader))
        writer.write(b"HTTP/1.1 100 Continue\r\n\r\n")
        upstream.bodies.append(await reader.readexactly(5))
        writer.write(upstream.answer)
        await reader.read()

    async with world(tmp_path, Plan(upstream=Upstream(careful))) as w:
        agent = await w.plain()
        agent.send(POST.replace(b"\r\n\r\nhello", b"\r\nExpect: 100-continue\r\n\r\n"))
        assert await agent.head() == b"HTTP/1.1 100 Continue\r\n\r\n"
        assert w.upstream.bodies == []
        assert (await agent.ask(b"hello")).status == 200
        assert w.upstream.bodies == [b"hello"]


async def test_an_upstream_that_refuses_an_expectation_is_heard_and_its_connection_not_used_again(
    tmp_path: Path,
) -> None:
    async def refusing(upstream: Upstream, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        upstream.heads.append(await read_head(reader))
        writer.write(b"HTTP/1.1 417 Expectation Failed\r\nContent-Length: 0\r\n\r\n")
        upstream.bodies.append(await reader.read())

    async with world(tmp_path, Plan(upstream=Upstream(refusing))) as w:
        agent = await w.plain()
        agent.send(POST.replace(b"\r\n\r\nhello", b"\r\nExpect: 100-continue\r\n\r\n"))
        answer = await agent.rest()
        assert answer.startswith(b"HTTP/1.1 417 ")
        assert b"Connection: close\r\n" in answer
        await w.eventually(lambda: w.upstream.bodies == [b""])


async def test_an_upstream_that_never_invites_the_body_is_the_one_at_fault(tmp_path: Path) -> None:
    async def silent(upstream: Upstream, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read()

    async with world(tmp_path, Plan(upstream=Upstream(silent)).with_limits(stall_timeout=0.1)) as w:
        agent = await w.plain()
        agent.send(POST.replace(b"\r\n\r\nhello", b"\r\nExpect: 100-continue\r\n\r\n"))
        assert (await agent.response()).status == 504
        await w.logged(1, direction="outbound", http_status=504, error="upstream_timeout")


# -- trailers ---------------------------------------------------------------------------------------------------------


@pytest.mark.threat(14, 40)
async def test_threats_14_40_trailers_go_on_but_none_that_states_identity_or_frames(tmp_path: Path) -> None:
    async def both(upstream: Upstream, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        upstream.heads.append(await read_head(reader))
        upstream.bodies.append(await reader.readuntil(b"\r\n0\r\n") + await reader.readuntil(b"\r\n\r\n"))
        writer.write(
            b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nConnection: X-Hop\r\n\r\n1\r\na\r\n0\r\n"
            b"Server-Timing: db;dur=1\r\nX_Sidecar_Caller: me\r\nX-Hop: 1\r\nContent-Length: 3\r\n\r\n"
        )
        await reader.read()

    async with world(tmp_path, Plan(upstream=Upstream(both))) as w:
        agent = await w.plain()
        trailers = (
            b"X-Checksum: 1\r\nX-Forwarded-Client-Cert: By=x\r\nx_sidecar_caller: y\r\nHost: evil\r\n"
            b"Authorization: Bearer x\r\nContent-Length: 1\r\nTransfer-Encoding: chunked\r\n"
        )
        response = await agent.ask(CHUNKED + b"2\r\nhi\r\n0\r\n" + trailers + b"\r\n")
        assert w.upstream.bodies == [b"2\r\nhi\r\n0\r\nX-Checksum: 1\r\n\r\n"]
        assert response.trailers == b"Server-Timing: db;dur=1\r\n"


# -- pipelining -------------------------------------------------------------------------------------------------------


async def test_pipelined_requests_are_answered_one_after_the_other_in_order(tmp_path: Path) -> None:
    count = 3000

    async def echo(upstream: Upstream, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while True:
            path = (await read_head(reader)).split(b" ")[1]
            upstream.heads.append(path)
            writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%b" % (len(path), path))

    async with world(tmp_path, Plan(upstream=Upstream(echo))) as w:
        agent = await w.plain()
        agent.send(b"".join(b"GET /%d HTTP/1.1\r\nHost: localhost\r\n\r\n" % number for number in range(count)))
        for number in range(count):
            assert (await agent.response()).body == b"/%d" % number
        assert w.upstream.connections == 1
        assert w.upstream.heads == [b"/%d" % number for number in range(count)]


async def test_thousands_of_pipelined_denials_need_no_deeper_stack_than_one(tmp_path: Path) -> None:
    count = 3000
    async with world(tmp_path) as w:
        agent = await w.plain()
        agent.send(b"GET / HTTP/1.1\r\nHost: nowhere\r\n\r\n" * count)
        for _ in range(count):
            assert (await agent.response()).status == 403
        assert w.upstream.connections == 0
        assert w.counted("denied_total", "host_not_served") == count


async def test_bodies_and_next_requests_in_one_segment_are_told_apart(tmp_path: Path) -> None:
    async with world(tmp_path) as w:
        agent = await w.plain()
        agent.send((POST + CHUNKED + b"5\r\nworld\r\n0\r\n\r\n" + GET) * 20)
        for _ in range(60):
            assert (await agent.response()).status == 200
        assert w.upstream.bodies == [b"hello", b"5\r\nworld\r\n0\r\n\r\n"] * 20
        assert len(w.upstream.heads) == 60


# -- who goes first ---------------------------------------------------------------------------------------------------


@pytest.mark.threat(36)
@pytest.mark.parametrize("body", [b"", b"x" * 1000], ids=["before any of the body", "in the middle of it"])
async def test_threat_36_an_answer_before_the_request_ends_is_delivered_and_ends_both_connections(
    tmp_path: Path, body: bytes
) -> None:
    async def hasty(upstream: Upstream, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        upstream.heads.append(await read_head(reader))
        await reader.readexactly(len(body))
        writer.write(upstream.answer)
        upstream.bodies.append(await reader.read())

    async with world(tmp_path, Plan(upstream=Upstream(hasty))) as w:
        agent = await w.plain()
        agent.send(b"POST /x HTTP/1.1\r\nHost: tools.internal\r\nContent-Length: 400000\r\n\r\n" + body)
        response = await agent.response()
        assert response.status == 200
        assert response.field(b"connection") == b"close"
        agent.send(b"y" * 300_000)
        assert await agent.rest() == b""
        assert not agent.reset
        assert w.upstream_connections == 0, "at once, and not when it has been idle for long"
        await w.eventually(lambda: w.upstream.open == 0)
        again = await w.plain()
        w.upstream.script = keep_answering
        assert (await again.ask(GET)).body == b"hello"
        assert w.upstream.heads[-1].startswith(b"GET /mcp ")


@pytest.mark.threat(36)
async def test_threat_36_an_answer_while_the_request_lies_unsent_ends_the_upstream_connection(tmp_path: Path) -> None:
    size = 60_000  # less than what makes us pause the client, more than the kernel takes below
    ending = asyncio.Event()

    async def deaf(upstream: Upstream, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        upstream.heads.append(await read_head(reader))
        writer.write(upstream.answer)
        await reader.readuntil(b"Content-Length: ")
        writer.transport.pause_reading()  # type: ignore[attr-defined]
        await started.wait()
        writer.write(upstream.answer)
        await ending.wait()

    started = asyncio.Event()
    async with world(tmp_path, Plan(upstream=Upstream(deaf))) as w:
        assert w.upstream._server is not None
        w.upstream._server.sockets[0].setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 2048)
        caller = await w.caller()
        assert (await caller.ask(GET)).status == 200
        (pooled,) = w.inbound.service.pool._idle
        assert pooled.stream._transport is not None
        pooled.stream._transport.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 2048)
        caller.send(b"POST /x HTTP/1.1\r\nHost: tools.internal\r\nContent-Length: %d\r\n\r\n" % size + b"x" * size)
        await w.eventually(lambda: pooled.exchange is not None and pooled.exchange.request_done)
        assert pooled.stream.unsent > 0
        started.set()
        assert (await caller.response()).body == b"hello"
        assert w.inbound.service.pool.size == 0
        ending.set()


async def test_an_agent_that_leaves_cancels_its_request_everywhere(tmp_path: Path) -> None:
    async def slow(upstream: Upstream, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        upstream.heads.append(await read_head(reader))
        await reader.read()

    async with world(tmp_path, Plan(upstream=Upstream(slow))) as w:
        agent = await w.plain()
        agent.send(GET)
        await w.eventually(lambda: len(w.upstream.heads) == 1)
        agent.close()
        await w.eventually(lambda: w.upstream.open == 0)
        await w.logged(2, error="client_closed", decision="allow")
        await w.eventually(lambda: not w.hub.connections)


async def test_an_agent_that_leaves_after_a_body_that_had_to_wait_for_the_dial_is_noticed(tmp_path: Path) -> None:
    async def slow(upstream: Upstream, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        upstream.heads.append(await read_head(reader))
        await reader.read()

    async with world(tmp_path, Plan(upstream=Upstream(slow))) as w:
        agent = await w.plain()
        agent.send(POST)
        await w.eventually(lambda: len(w.upstream.heads) == 1)
        agent.close()
        await w.eventually(lambda: w.upstream.open == 0)
        await w.logged(2, error="client_closed")


async def test_an_agent_that_resets_its_connection_cancels_too(tmp_path: Path) -> None:
    async def endless(upstream: Upstream, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        upstream.heads.append(await read_head(reader))
        writer.write(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n1\r\na\r\n")
        await reader.read()

    async with world(tmp_path, Plan(upstream=Upstream(endless))) as w:
        agent = await w.plain()
        agent.send(GET)
        await agent.until(lambda: b"\r\n\r\n1\r\na" in agent.buffer)
        agent.abort()
        await w.eventually(lambda: w.upstream.open == 0)
        await w.logged(2, error="client_closed", http_status=200, bytes_sent=1)


async def test_a_cancelled_answer_that_ends_with_its_connection_does_not_look_whole(tmp_path: Path) -> None:
    async def endless(upstream: Upstream, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        upstream.heads.append(await read_head(reader))
        writer.write(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n1\r\na\r\n")
        await reader.read()

    async with world(tmp_path, Plan(upstream=Upstream(endless))) as w:
        agent = await w.plain()
        agent.send(b"GET /x HTTP/1.0\r\nHost: tools.internal\r\n\r\n")
        await agent.until(lambda: agent.buffer.endswith(b"a"))
        agent.writer.write_eof()
        await agent.rest()
        assert agent.reset


async def test_an_agent_that_leaves_during_the_dial_leaves_nothing_behind(tmp_path: Path) -> None:
    async with world(tmp_path) as w:
        for _ in range(20):
            agent = await w.plain()
            agent.send(POST)
            await w.eventually(lambda: w.outbound.service.pool.size > 0)
            agent.abort()
        w.outbound.service.pool.retire()  # what was just quick enough to come into the pool
        await w.eventually(lambda: not w.hub.connections)
        assert w.outbound.service.pool.size == 0
        assert w.hub.handshakes == 0

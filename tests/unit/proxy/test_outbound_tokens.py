"""Tokens on their way out: exactly one, ours, and no request without it."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

import pytest

from sidecar.proxy.lane import Lane, Lanes
from sidecar.proxy.outbound import OutboundService
from sidecar.tokens.credential import Field
from sidecar.tokens.lease import Lease
from sidecar.tokens.settings import FileSource, Keeping
from tests.support.clock import Shifted
from tests.support.leases import CANARY, KEPT, Scripted, all_of, down, tools_for, waiter
from tests.support.pair import Plan, Upstream, World, keep_answering, own, read_head, world
from tests.support.websocket import asking, echo

if TYPE_CHECKING:
    from pathlib import Path

GET = b"GET /mcp HTTP/1.1\r\nHost: tools.internal\r\n\r\n"
POST = b"POST /mcp HTTP/1.1\r\nHost: tools.internal\r\nContent-Length: 5\r\n\r\nhello"
OK = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"
BEARER = Field()
REJECTED = b"HTTP/1.1 401 Unauthorized\r\nContent-Length: 2\r\n\r\nno"


def with_tokens(w: World, folder: Path, field: Field = BEARER, keeping: Keeping = KEPT, **script: Any) -> Scripted:
    """Gives the outbound entry a token source."""
    service = w.outbound.service
    source = Scripted(w.hub.clock, **script)
    settings = FileSource("mesh", folder / "token", keeping)
    tools = tools_for(w.hub.clock, w.hub.metrics, folder / "said")
    lease = Lease(settings, source, field, tools, entry="tools", hardware=False)
    us = own(w.planner)
    lanes = Lanes(Lane(service.pool, lease, us.svid.not_after), w.hub.clock)
    w.outbound.service = OutboundService(w.hub, "tools", us, service.routes, lanes, None)
    return source


def authorizations(head: bytes) -> list[bytes]:
    return [line for line in head.split(b"\r\n") if line.lower().startswith(b"authorization:")]


async def test_a_request_gets_the_token_and_the_next_the_same(tmp_path: Path) -> None:
    async with world(tmp_path) as w:
        source = with_tokens(w, tmp_path)
        agent = await w.plain()
        assert (await agent.ask(GET)).status == 200
        assert (await agent.ask(POST)).status == 200
        wanted = [f"Authorization: Bearer {CANARY}-1".encode()]
        assert [authorizations(head) for head in w.upstream.heads] == [wanted, wanted]
        assert w.upstream.bodies == [b"hello"]
        assert source.fetches == 1


@pytest.mark.threat(20)
async def test_threat_20_a_websocket_begins_with_our_token_and_not_with_the_agents(tmp_path: Path) -> None:
    async with world(tmp_path, Plan(upstream=Upstream(echo))) as w:
        with_tokens(w, tmp_path)
        agent = await w.plain()
        agent.send(asking(b"Authorization: Bearer of-the-agent"))
        assert (await agent.head()).startswith(b"HTTP/1.1 101 ")
        assert authorizations(w.upstream.heads[0]) == [f"Authorization: Bearer {CANARY}-1".encode()]


@pytest.mark.threat(20)
@pytest.mark.parametrize("name", [b"Authorization", b"authorization", b"AUTHORIZATION"])
async def test_threat_20_the_agents_own_is_replaced(tmp_path: Path, name: bytes) -> None:
    async with world(tmp_path) as w:
        with_tokens(w, tmp_path)
        agent = await w.plain()
        request = GET[:-2] + name + b": Bearer of-the-agent\r\nConnection: " + name + b"\r\n\r\n"
        assert (await agent.ask(request)).status == 200
        assert authorizations(w.upstream.heads[0]) == [f"Authorization: Bearer {CANARY}-1".encode()]
        assert b"of-the-agent" not in w.upstream.heads[0]


@pytest.mark.threat(20)
@pytest.mark.parametrize("name", [b"X-Api-Key", b"x_api_key", b"X-API_Key", b"x.api.key"])
async def test_threat_20_in_whatever_field_and_spelling(tmp_path: Path, name: bytes) -> None:
    async with world(tmp_path) as w:
        with_tokens(w, tmp_path, Field(b"X-Api-Key", b""))
        agent = await w.plain()
        fields = (name + b": of-the-agent\r\n") * 2 + b"Authorization: Basic kept\r\n\r\n"
        assert (await agent.ask(GET[:-2] + fields)).status == 200
        head = w.upstream.heads[0]
        assert b"of-the-agent" not in head
        assert f"\r\nX-Api-Key: {CANARY}-1\r\n".encode() in head
        assert b"\r\nAuthorization: Basic kept\r\n" in head  # another field, and none of ours


@pytest.mark.threat(20)
@pytest.mark.parametrize("name", [b"X-Api-Key", b"x_api_key", b"X.API-key"])
async def test_threat_20_nor_behind_the_body(tmp_path: Path, name: bytes) -> None:
    async with world(tmp_path) as w:
        with_tokens(w, tmp_path, Field(b"X-Api-Key", b""))
        agent = await w.plain()
        chunked = GET[:-2].replace(b"GET", b"POST") + b"Transfer-Encoding: chunked\r\n\r\n"
        trailers = b"2\r\nab\r\n0\r\n" + name + b": of-the-agent\r\n\r\n"
        assert (await agent.ask(chunked + trailers)).status == 200
        sent = w.upstream.heads[0] + w.upstream.bodies[0]
        assert b"of-the-agent" not in sent
        assert sent.count(CANARY.encode()) == 1


@pytest.mark.threat(20)
async def test_threat_20_two_of_them_are_refused_in_either_direction(tmp_path: Path) -> None:
    twice = GET[:-2] + b"Authorization: Bearer a\r\nauthorization: Bearer b\r\n\r\n"
    async with world(tmp_path) as w:
        with_tokens(w, tmp_path)
        assert (await w.ask(twice)).startswith(b"HTTP/1.1 400 ")
        caller = await w.caller()
        assert (await caller.ask(twice)).status == 400
        assert w.upstream.heads == []
        await w.logged(2, error="duplicate_authorization")


async def test_a_body_waits_for_the_token(tmp_path: Path) -> None:
    async with world(tmp_path) as w:
        source = with_tokens(w, tmp_path)
        source.gate.clear()
        reader, writer = await w.agent()
        writer.write(b"PUT /mcp HTTP/1.1\r\nHost: tools.internal\r\nContent-Length: 300000\r\n\r\n" + b"a" * 100_000)
        await w.eventually(lambda: source.fetches == 1)
        writer.write(b"a" * 200_000)
        assert w.upstream.heads == []
        source.gate.set()
        assert (await read_head(reader)).startswith(b"HTTP/1.1 200 ")
        assert w.upstream.bodies == [b"a" * 300_000]
        writer.close()


async def test_without_a_token_nothing_is_sent(tmp_path: Path) -> None:
    async with world(tmp_path) as w:
        source = with_tokens(w, tmp_path, failing=down())
        agent = await w.plain()
        for _ in range(3):
            response = await agent.ask(GET)
            assert response.status == 503
            assert b'"error":"token_unavailable"' in response.body
        assert source.fetches == 1
        assert w.upstream.connections == 0
        await w.logged(3, direction="outbound", error="issuer_unreachable", decision="allow", http_status=503)
        source.failing = None
        w.outbound.service.lanes.present.lease._not_before = 0.0
        assert (await agent.ask(GET)).status == 200


async def test_a_denied_request_asks_for_no_token(tmp_path: Path) -> None:
    async with world(tmp_path) as w:
        source = with_tokens(w, tmp_path)
        agent = await w.plain()
        assert (await agent.ask(GET.replace(b"tools.internal", b"elsewhere.internal"))).status == 403
        assert source.fetches == 0


async def test_an_agent_that_leaves_while_it_waits_leaves_nothing_behind(tmp_path: Path) -> None:
    async with world(tmp_path) as w:
        source = with_tokens(w, tmp_path)
        source.gate.clear()
        _, writer = await w.agent()
        writer.write(GET)
        await w.eventually(lambda: source.fetches == 1)
        writer.close()
        await w.logged(1, direction="outbound", error="client_closed")
        source.gate.set()
        assert w.upstream.heads == []


async def test_the_token_is_in_no_log(tmp_path: Path) -> None:
    async with world(tmp_path) as w:
        with_tokens(w, tmp_path)
        agent = await w.plain()
        assert (await agent.ask(GET)).status == 200
        await w.logged(2, http_status=200)
        assert CANARY not in w.log_path.read_text() + (tmp_path / "stderr").read_text()


# --- an upstream that says 401


def rejecting(times: int, answer: bytes = REJECTED) -> Upstream:
    """An upstream that rejects the first requests, and answers the others."""

    async def script(upstream: Upstream, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        upstream.answer = answer if len(upstream.heads) < times else OK
        while True:
            try:
                head = await read_head(reader)
            except asyncio.IncompleteReadError:
                return
            upstream.heads.append(head)
            lower = head.lower()
            size = int(lower.split(b"content-length: ")[1].split(b"\r\n")[0]) if b"length: " in lower else 0
            if b"Transfer-Encoding" in head:
                upstream.bodies.append(await reader.readuntil(b"0\r\n\r\n"))
            elif size:
                upstream.bodies.append(await reader.readexactly(size))
            writer.write(answer if len(upstream.heads) <= times else OK)
            await writer.drain()

    return Upstream(script)


def sent(w: World) -> list[bytes]:
    return [authorizations(head)[0].rpartition(b"-")[2] for head in w.upstream.heads]


@pytest.mark.parametrize(
    ("request_bytes", "body"),
    [
        (GET, b""),
        (POST, b"hello"),
        (
            b"POST /mcp HTTP/1.1\r\nHost: tools.internal\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n",
            b"5\r\nhello\r\n0\r\n\r\n",
        ),
    ],
)
async def test_a_stale_token_is_replaced_and_the_request_sent_again(
    tmp_path: Path, request_bytes: bytes, body: bytes
) -> None:
    async with world(tmp_path, Plan(upstream=rejecting(1))) as w:
        source = with_tokens(w, tmp_path)
        agent = await w.plain()
        response = await agent.ask(request_bytes)
        assert (response.status, response.body) == (200, b"ok")
        assert sent(w) == [b"1", b"2"]
        assert w.upstream.bodies == ([body, body] if body else [])
        assert source.fetches == 2
        assert (await agent.ask(GET)).status == 200
        assert source.fetches == 2
        await w.logged(2, direction="outbound", http_status=200)


@pytest.mark.parametrize(
    "answer",
    [
        b"HTTP/1.1 401 Unauthorized\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nno\r\n0\r\n\r\n",
        b"HTTP/1.1 401 Unauthorized\r\nContent-Length: 100000\r\n\r\n" + b"n" * 100_000,
        b"HTTP/1.1 401 Unauthorized\r\nContent-Length: 0\r\n\r\n",
        REJECTED + OK,  # bytes that nobody asked for: they belong to no answer
    ],
)
async def test_whatever_the_401_looks_like(tmp_path: Path, answer: bytes) -> None:
    async with world(tmp_path, Plan(upstream=rejecting(1, answer))) as w:
        with_tokens(w, tmp_path)
        agent = await w.plain()
        response = await agent.ask(GET)
        assert (response.status, response.body) == (200, b"ok")
        assert (await agent.ask(GET)).body == b"ok"
        assert sent(w)[:2] == [b"1", b"2"]


async def test_all_that_are_under_way_with_a_stale_token_are_sent_again(tmp_path: Path) -> None:
    many = 20
    arrived, go_on = asyncio.Event(), asyncio.Event()

    async def script(upstream: Upstream, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while True:
            try:
                head = await read_head(reader)
            except asyncio.IncompleteReadError:
                return
            upstream.heads.append(head)
            stale = f"{CANARY}-1\r\n".encode() in head
            if len(upstream.heads) == many:
                arrived.set()
            if stale:
                await go_on.wait()
            writer.write(REJECTED if stale else OK)
            await writer.drain()

    async with world(tmp_path, Plan(upstream=Upstream(script))) as w:
        source = with_tokens(w, tmp_path)
        agents = [await w.plain() for _ in range(many)]
        asking = [waiter(agent.ask(GET)) for agent in agents]
        await asyncio.wait_for(arrived.wait(), 10)
        go_on.set()
        assert [response.status for response in await all_of(asking)] == [200] * many
        assert source.fetches == 2


async def test_a_second_401_is_the_answer(tmp_path: Path) -> None:
    async with world(tmp_path, Plan(upstream=rejecting(100))) as w:
        source = with_tokens(w, tmp_path)
        agent = await w.plain()
        for _ in range(5):
            response = await agent.ask(GET)
            assert (response.status, response.body) == (401, b"no")
        assert source.fetches == 2  # and not one for each request
        assert len(w.upstream.heads) == 6


async def test_a_body_that_was_not_kept_is_not_sent_again(tmp_path: Path) -> None:
    async with world(tmp_path, Plan(upstream=rejecting(1))) as w:
        source = with_tokens(w, tmp_path)
        agent = await w.plain()
        head = b"PUT /x HTTP/1.1\r\nHost: tools.internal\r\nContent-Length: 200000\r\n\r\n"
        assert (await agent.ask(head + b"b" * 200_000)).status == 401
        assert len(w.upstream.heads) == 1
        assert (await agent.ask(GET)).status == 200  # with another token
        assert sent(w) == [b"1", b"2"]
        assert source.fetches == 2


async def test_a_401_before_the_whole_request_was_sent_is_the_answer(tmp_path: Path) -> None:
    async def early(upstream: Upstream, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        upstream.heads.append(await read_head(reader))
        writer.write(REJECTED)
        await writer.drain()
        await reader.read(-1)

    async with world(tmp_path, Plan(upstream=Upstream(early))) as w:
        with_tokens(w, tmp_path)
        reader, writer = await w.agent()
        writer.write(b"PUT /x HTTP/1.1\r\nHost: tools.internal\r\nContent-Length: 10\r\n\r\nhalf")
        assert (await read_head(reader)).startswith(b"HTTP/1.1 401 ")
        assert len(w.upstream.heads) == 1
        writer.close()


async def test_when_no_new_token_can_be_had_the_request_fails(tmp_path: Path) -> None:
    async with world(tmp_path, Plan(upstream=rejecting(1))) as w:
        source = with_tokens(w, tmp_path)
        agent = await w.plain()
        source_fetch = source.fetch

        async def once() -> Any:
            if source.fetches:
                source.failing = down()
            return await source_fetch()

        source.fetch = once  # type: ignore[method-assign]
        response = await agent.ask(GET)
        assert response.status == 503
        assert b"token_unavailable" in response.body


async def test_an_agent_that_leaves_while_the_request_is_sent_again(tmp_path: Path) -> None:
    async with world(tmp_path, Plan(upstream=rejecting(1))) as w:
        source = with_tokens(w, tmp_path)
        warm = await w.plain()
        await w.outbound.service.lanes.present.lease.obtain()
        source.gate.clear()
        reader, writer = await w.agent()
        writer.write(GET)
        await w.eventually(lambda: source.fetches == 2)
        writer.close()
        await w.logged(1, direction="outbound", error="client_closed")
        source.gate.set()
        assert (await warm.ask(GET)).status == 200
        assert await reader.read(-1) == b""


async def test_no_token_at_rest_is_fetched_for_each_request(tmp_path: Path) -> None:
    async with world(tmp_path) as w:
        source = with_tokens(w, tmp_path, keeping=Keeping(cache=False))
        agent = await w.plain()
        for number in (1, 2, 3):
            assert (await agent.ask(GET)).status == 200
            assert sent(w)[-1] == b"%d" % number
        assert source.fetches == 3


async def test_a_renewal_under_way_keeps_nobody_waiting(tmp_path: Path) -> None:
    shifted = Shifted()
    async with world(tmp_path, Plan(clock=shifted.clock, upstream=Upstream(keep_answering))) as w:
        source = with_tokens(w, tmp_path, lifetime=100.0)
        agent = await w.plain()
        assert (await agent.ask(GET)).status == 200
        source.gate.clear()
        shifted.monotonic += 85
        shifted.wall += 85
        again = await w.plain()
        assert (await again.ask(GET)).status == 200
        await w.eventually(lambda: source.fetches == 2)
        assert (await again.ask(GET)).status == 200
        source.gate.set()
        await w.eventually(lambda: w.counted("tokens_refreshed_total", "mesh", "ok") == 2)
        assert (await again.ask(GET)).status == 200
        assert sent(w)[1:] == [b"1", b"1", b"2"]

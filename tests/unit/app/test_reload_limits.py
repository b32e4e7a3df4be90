"""Limits that a reload changes hold for what is under way already."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import pytest

from tests.support.clock import Shifted
from tests.support.eventually import soon
from tests.support.pair import HELLO, Upstream, read_head
from tests.support.server import running
from tests.support.websocket import asking, echo
from tests.support.wire import Plain

if TYPE_CHECKING:
    from pathlib import Path

    from tests.support.pair import Script
    from tests.support.server import Running

GET = b"GET /1 HTTP/1.1\r\nHost: localhost\r\n\r\n"
WEBSOCKET = asking().replace(b"tools.internal", b"localhost")


async def events(upstream: Upstream, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    upstream.heads.append(await read_head(reader))
    writer.write(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nhi\r\n")
    await reader.read()


def lines(r: Running, word: str) -> int:
    r.server.hub.access_log.flush()
    return (r.folder / "access.log").read_text().count(word)


@pytest.mark.parametrize(("request_", "script"), [(GET, events), (WEBSOCKET, echo)], ids=["events", "websocket"])
async def test_a_shorter_total_timeout_ends_what_has_lived_for_that_long(
    tmp_path: Path, request_: bytes, script: Script
) -> None:
    shifted = Shifted()
    async with running(tmp_path, Upstream(script), clock=shifted.clock) as r:
        agent = await Plain.connect(r.port("outbound"))
        agent.send(request_)
        await agent.head()
        shifted.pass_by(11)
        await soon(lambda: lines(r, '"event":"open"') == 2, "both sides to say that it lives for long")
        r.config["limits"] = {"total_timeout": "60s"}
        assert await r.reload()
        shifted.pass_by(40)
        r.server.hub._sweep()
        assert not agent.ended
        shifted.pass_by(10)
        await agent.rest()
        await soon(lambda: lines(r, '"error":"limit_total_timeout"') >= 1, "the line that says why")
        assert lines(r, '"event":"open"') == 2, "it was said before"
        agent.abort()


async def test_a_longer_total_timeout_lets_it_live(tmp_path: Path) -> None:
    shifted = Shifted()
    async with running(tmp_path, Upstream(events), clock=shifted.clock) as r:
        r.config["limits"] = {"total_timeout": "20s"}
        assert await r.reload()
        agent = await Plain.connect(r.port("outbound"))
        agent.send(GET)
        await agent.head()
        shifted.pass_by(11)
        await soon(lambda: lines(r, '"event":"open"') == 2, "both sides to say that it lives for long")
        r.config["limits"] = {"total_timeout": "60s"}
        assert await r.reload()
        shifted.pass_by(30)
        r.server.hub._sweep()
        assert not agent.ended
        agent.abort()


async def test_more_connections_to_an_upstream_are_for_those_who_wait(tmp_path: Path) -> None:
    go_on = asyncio.Event()

    async def slow(upstream: Upstream, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        upstream.heads.append(await read_head(reader))
        await go_on.wait()
        writer.write(HELLO)
        await reader.read()

    upstream = Upstream(slow)
    async with running(tmp_path, upstream) as r:
        r.config["limits"] = {"upstream_connections": 1, "connect_timeout": "60s"}
        assert await r.reload()
        agents = [await Plain.connect(r.port("outbound")) for _ in range(3)]
        for agent in agents:
            agent.send(GET)
        pool = r.server.generation.services[
            "outbound", next(iter(r.server.generation.loaded.config.outbound)).listen
        ].pool
        await soon(lambda: len(pool._line.turns) == 2, "two of them to wait")
        r.config["limits"]["upstream_connections"] = 3
        assert await r.reload()
        await soon(lambda: len(upstream.heads) == 3, "all of them to be served")
        go_on.set()
        assert [(await agent.response()).status for agent in agents] == [200] * 3
        for agent in agents:
            agent.abort()

"""What all connections share: the sweep over deadlines, the line of a long request, identifiers."""

from __future__ import annotations

import asyncio
import re
from typing import TYPE_CHECKING

from sidecar.proxy.ids import BATCH, Ids
from tests.support.clock import Shifted
from tests.support.pair import Plan, Upstream, read_head, world

if TYPE_CHECKING:
    from pathlib import Path

GET = b"GET /mcp HTTP/1.1\r\nHost: tools.internal\r\n\r\n"


async def test_a_long_stream_writes_an_open_line_once_and_its_request_line_at_the_end(tmp_path: Path) -> None:
    shifted = Shifted()
    go_on = asyncio.Event()

    async def stream(upstream: Upstream, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await read_head(reader)
        writer.write(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n")
        await go_on.wait()
        writer.write(b"5\r\nworld\r\n0\r\n\r\n")
        await reader.read()

    async with world(tmp_path, Plan(upstream=Upstream(stream), clock=shifted.clock)) as w:
        agent = await w.plain()
        agent.send(GET)
        await agent.until(lambda: b"hello" in agent.buffer)
        shifted.monotonic += 9
        w.hub._sweep()
        assert w.log() == []
        shifted.monotonic += 2
        await w.logged(2, event="open", bytes_sent=5, http_status=200, decision="allow")
        shifted.monotonic += 20
        w.hub._sweep()
        go_on.set()
        assert (await agent.response()).body == b"helloworld"
        lines = await w.logged(2, event="request", bytes_sent=10)
        await w.logged(2, event="open")
        assert all(line["duration_ms"] > 30_000 for line in lines)
        assert w.counted("requests_total", "inbound", "tools", "allow", "2xx") == 1
        opened = {line["decision.id"] for line in w.log() if line["event"] == "open"}
        assert opened == {line["decision.id"] for line in lines}


async def test_a_request_that_still_waits_for_its_upstream_writes_one_too(tmp_path: Path) -> None:
    shifted = Shifted()

    async def silent(upstream: Upstream, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read()

    async with world(tmp_path, Plan(upstream=Upstream(silent), clock=shifted.clock)) as w:
        caller = await w.caller()
        caller.send(GET)
        await w.eventually(lambda: w.upstream.open == 1)
        shifted.monotonic += 11
        (line,) = await w.logged(1, event="open")
        assert "http.status" not in line


async def test_a_sweep_goes_on_after_a_stream_that_breaks_it(tmp_path: Path) -> None:
    shifted = Shifted()
    async with world(tmp_path, Plan(clock=shifted.clock)) as w:
        first, second = await w.plain(), await w.plain()
        await w.eventually(lambda: len(w.hub.connections) == 2)
        broken = next(iter(w.hub.connections))
        broken.expired = None  # type: ignore[assignment, method-assign]
        shifted.pass_by(w.hub.limits.idle_timeout + 1)
        await w.eventually(lambda: len(w.hub.connections) == 1)
        await w.eventually(lambda: bool(w.internal_errors))
        assert [type(context["exception"]) for context in w.internal_errors] == [TypeError]
        w.internal_errors.clear()
        first.close()
        second.close()
        await w.eventually(lambda: not w.hub.connections)


def test_identifiers_are_32_hex_digits_and_never_the_same() -> None:
    ids = Ids()
    made = [ids.next() for _ in range(3 * BATCH)]
    assert len(set(made)) == len(made)
    assert all(re.fullmatch(r"[0-9a-f]{32}", one) for one in made)


async def test_a_hub_may_be_stopped_twice(tmp_path: Path) -> None:
    async with world(tmp_path) as w:
        w.hub.stop()
        w.hub.stop()


async def test_each_issuer_has_threads_of_its_own(tmp_path: Path) -> None:
    async with world(tmp_path) as w:
        one, other = (w.hub.issuer_workers("tokens", issuer) for issuer in ("https://a.example", "https://b.example"))
        assert w.hub.issuer_workers("tokens", "https://a.example") is one
        assert len({one, other, w.hub.issuer_workers("keys", "https://a.example")}) == 3

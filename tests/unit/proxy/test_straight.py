"""The straight path: an agent's request through both sidecars and back."""

from __future__ import annotations

from typing import TYPE_CHECKING

from sidecar.proxy.target import TcpTarget
from tests.support.pair import LOOPBACK, world
from tests.support.processes import free_port

if TYPE_CHECKING:
    from pathlib import Path


async def test_a_request_goes_there_and_back(tmp_path: Path) -> None:
    async with world(tmp_path) as w:
        answer = await w.ask(b"GET /mcp?x=1 HTTP/1.1\r\nHost: tools.internal\r\nConnection: close\r\n\r\n")
        assert answer.startswith(b"HTTP/1.1 200 OK\r\n")
        assert answer.endswith(b"hello")
        head = w.upstream.heads[0]
        assert head.startswith(b"GET /mcp?x=1 HTTP/1.1\r\nHost: tools.internal\r\n")
        assert b"x-sidecar-caller: spiffe://example.org/agent/planner/1\r\n" in head
        await w.eventually(lambda: len(w.log()) == 2)
        inbound, outbound = sorted(w.log(), key=lambda line: line["direction"])
        assert inbound["src.identity"] == outbound["src.identity"] == "spiffe://example.org/agent/planner/1"
        assert inbound["dst.identity"] == outbound["dst.identity"] == "spiffe://example.org/agent/tools/1"
        assert inbound["trace.id"] == outbound["trace.id"]
        assert inbound["http.path"] == "/mcp"


async def test_each_line_of_the_log_is_of_its_own_request(tmp_path: Path) -> None:
    """Also where connections and heads are the same but for what it says."""
    asked = [
        ("GET", "/a", "tools.internal"),
        ("DELETE", "/a", "tools.internal"),
        ("DELETE", "/b", "tools.internal"),
        ("DELETE", "/b", "localhost"),
    ]
    async with world(tmp_path) as w:
        agent = await w.plain()
        for method, path, host in asked:
            assert (await agent.ask(f"{method} {path} HTTP/1.1\r\nHost: {host}\r\n\r\n".encode())).status == 200
        outbound = await w.logged(4, direction="outbound")
        assert [(line["http.method"], line["http.path"], line["dst.name"]) for line in outbound] == asked
        inbound = await w.logged(4, direction="inbound")
        assert [(line["http.method"], line["http.path"]) for line in inbound] == [each[:2] for each in asked]


async def test_who_answered_is_said_of_the_request_that_was_answered(tmp_path: Path) -> None:
    get = b"GET /a HTTP/1.1\r\nHost: tools.internal\r\n\r\n"
    async with world(tmp_path) as w:
        destination = w.outbound.service.pool.destination
        there, destination._target = destination._target, TcpTarget(LOOPBACK, free_port())
        agent = await w.plain()
        assert (await agent.ask(get)).status == 502
        destination._target = there
        assert (await agent.ask(get)).status == 200
        lines = await w.logged(2, direction="outbound")
        assert [line.get("dst.identity") for line in lines] == [None, "spiffe://example.org/agent/tools/1"]

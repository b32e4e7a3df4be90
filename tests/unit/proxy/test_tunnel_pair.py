"""Two sidecars in one loop whose entries are tunnels: agent --plain--> outbound --mTLS--> inbound --plain--> upstream."""

from __future__ import annotations

from typing import TYPE_CHECKING

from tests.support.pair import Plan, Upstream, world

if TYPE_CHECKING:
    import asyncio
    from pathlib import Path

MEGABYTE = 1024 * 1024


async def echo(_: Upstream, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Sends back what comes, and ends when the other side does."""
    while data := await reader.read(65536):
        writer.write(data)
        await writer.drain()
    writer.write_eof()


def plan(script: object = echo, **more: object) -> Plan:
    return Plan(tcp=True, upstream=Upstream(script), **more)  # type: ignore[arg-type]


async def test_bytes_go_through_both_ways_and_each_side_writes_one_line(tmp_path: Path) -> None:
    async with world(tmp_path, plan()) as w:
        agent = await w.plain()
        agent.send(b"\x00\xffnot HTTP\r\n\r\n")
        await agent.until(lambda: agent.buffer == b"\x00\xffnot HTTP\r\n\r\n")
        agent.writer.write_eof()
        assert await agent.rest() == b"\x00\xffnot HTTP\r\n\r\n"
        assert not agent.reset
        for direction, other in (("outbound", "tools"), ("inbound", "tools")):
            (line,) = await w.logged(1, event="tunnel", direction=direction)
            assert line["src.identity"] == "spiffe://example.org/agent/planner/1"
            assert line["dst.identity"] == f"spiffe://example.org/agent/{other}/1"
            assert (line["bytes_sent"], line["bytes_received"]) == (14, 14)
            assert line["decision"] == "allow"
            assert line["policy.version"] == "0123456789abcdef"
            assert line["duration_ms"] > 0
            assert "error" not in line
            assert w.counted("tunnels_total", direction, "tools", "allow") == 1
            assert w.counted("tunnel_bytes_total", direction, "tools", "sent") == 14
            assert w.counted("tunnel_bytes_total", direction, "tools", "received") == 14
        assert len(w.log()) == 2


async def test_much_goes_through_both_ways(tmp_path: Path) -> None:
    async with world(tmp_path, plan()) as w:
        agent = await w.plain()
        sent = bytes(range(256)) * 4096 * 8
        agent.send(sent)
        agent.writer.write_eof()
        assert await agent.rest() == sent
        lines = await w.logged(2, event="tunnel")
        assert all((line["bytes_sent"], line["bytes_received"]) == (8 * MEGABYTE, 8 * MEGABYTE) for line in lines)

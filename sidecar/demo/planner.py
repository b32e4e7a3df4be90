"""The planner agent: a real MCP client, that knows nothing of TLS. ``HTTP_PROXY=… python -m sidecar.demo.planner``.

Its sidecar is its HTTP proxy: the usual variable is all that an agent needs. Prints one line of JSON; ``sent`` in it names
every header field of its requests.
"""

from __future__ import annotations

import json
from typing import Any

import anyio
import httpx2
from mcp import Client
from mcp.client.streamable_http import streamable_http_client

from sidecar.demo.stage import TOOLS_HOST

_SECONDS = 30.0


async def main() -> None:
    """Speaks the three parts of an MCP session and prints what came back."""
    notes: list[float] = []
    sent: set[str] = set()

    async def note(progress: float, total: float | None, message: str | None) -> None:
        del total, message
        notes.append(progress)

    async def look(request: httpx2.Request) -> None:
        sent.update(name.lower() for name in request.headers)

    http = httpx2.AsyncClient(timeout=_SECONDS, event_hooks={"request": [look]})
    transport = streamable_http_client(f"http://{TOOLS_HOST}/mcp", http_client=http)
    # "legacy" is the era of protocol versions that begin with the initialize handshake.
    async with http, Client(transport, mode="legacy") as client:
        listed = await client.list_tools()
        added = await client.call_tool("add", {"a": 2, "b": 3})
        called = await client.call_tool("who_calls", {}, progress_callback=note)
        report: dict[str, Any] = {
            "protocol": client.protocol_version,
            "server": client.server_info.name if client.server_info else None,
            "tools": sorted(tool.name for tool in listed.tools),
            "sum": (added.structured_content or {}).get("result"),
            "progress": notes,
            "seen": called.structured_content,
        }
    report["sent"] = sorted(sent)
    print(json.dumps(report))  # noqa: T201 - this is a program


if __name__ == "__main__":
    anyio.run(main)

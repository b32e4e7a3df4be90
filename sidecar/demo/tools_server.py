"""The tools agent: a real MCP server, that knows nothing of TLS. ``python -m sidecar.demo.tools_server PORT``."""

from __future__ import annotations

import sys

import anyio
from mcp.server.mcpserver import Context, MCPServer
from mcp.server.transport_security import TransportSecuritySettings
from starlette.requests import Request
from starlette.responses import JSONResponse

from sidecar.demo.ports import HOST
from sidecar.demo.stage import TOOLS_HOST

server = MCPServer("tools", version="1.0", log_level="WARNING")


@server.tool()
async def who_calls(ctx: Context) -> dict[str, str]:
    """Says what the server was told of its caller, after two progress notes on the way."""
    request = ctx.request_context.request
    for part in (1, 2):
        await ctx.report_progress(part, 2)
        await anyio.sleep(0.05)
    if not isinstance(request, Request):
        return {}
    return {name: request.headers.get(name, "") for name in ("host", "x-sidecar-caller", "x-forwarded-client-cert")}


@server.tool()
async def add(a: int, b: int) -> int:
    """Adds two numbers."""
    return a + b


@server.custom_route("/headers", methods=["GET"])  # type: ignore[untyped-decorator] # mcp does not say what it returns
async def headers(request: Request) -> JSONResponse:
    """Returns the header fields of the request exactly as they arrived, duplicates included."""
    return JSONResponse([[name.decode("latin-1"), value.decode("latin-1")] for name, value in request.headers.raw])


if __name__ == "__main__":
    # The MCP server looks at `Host` (against DNS rebinding) and takes the one name that the planner calls it by.
    server.run(
        "streamable-http",
        host=HOST,
        port=int(sys.argv[1]),
        transport_security=TransportSecuritySettings(allowed_hosts=[TOOLS_HOST]),
    )

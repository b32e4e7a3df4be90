"""A real MCP server with tools that stop half-way, so that a client can see when what arrives.

``python -m tests.support.mcp_server PORT``. It looks at `Host`, against DNS rebinding, and takes ``tools.internal`` alone.
``POST /go`` lets one waiting tool take its next step; ``GET /state`` says what has happened to the tools.
"""

from __future__ import annotations

import sys

import anyio
from mcp.server.mcpserver import Context, MCPServer
from mcp.server.transport_security import TransportSecuritySettings
from pydantic import BaseModel
from starlette.requests import Request
from starlette.responses import JSONResponse

server = MCPServer("tools", version="1.0", log_level="ERROR")
state = {"cancelled": 0, "lingering": 0}
steps = anyio.Semaphore(0)


class Consent(BaseModel):
    yes: bool


@server.tool()
async def add(a: int, b: int) -> int:
    """Adds two numbers."""
    return a + b


@server.tool()
async def seen(ctx: Context) -> dict[str, str]:
    """Says which header fields the request came with."""
    request = ctx.request_context.request
    return dict(request.headers) if isinstance(request, Request) else {}


@server.tool()
async def walk(count: int, ctx: Context) -> int:
    """Reports progress, each step only when it was told to go on."""
    for step in range(1, count + 1):
        await ctx.report_progress(step, count)
        await steps.acquire()
    return count


@server.tool()
async def announce(ctx: Context) -> str:
    """Tells the client that there are other tools now: belongs to no request, so it goes over the GET stream."""
    await ctx.session.send_tool_list_changed()
    return "announced"


@server.tool()
async def consult(ctx: Context) -> bool:
    """Asks the client, in the middle of the call, and returns what it said."""
    result = await ctx.elicit("go on?", Consent)
    return result.action == "accept" and result.data.yes


@server.tool()
async def linger() -> None:
    """Never ends by itself."""
    state["lingering"] += 1
    try:
        await anyio.sleep_forever()
    finally:
        state["lingering"] -= 1
        state["cancelled"] += 1


@server.custom_route("/go", methods=["POST"])  # type: ignore[untyped-decorator] # mcp does not say what it returns
async def go(request: Request) -> JSONResponse:
    """Lets one step happen."""
    steps.release()
    return JSONResponse({})


@server.custom_route("/state", methods=["GET"])  # type: ignore[untyped-decorator] # as above
async def show(request: Request) -> JSONResponse:
    """What has happened to the tools."""
    return JSONResponse(state)


if __name__ == "__main__":
    server.run(
        "streamable-http",
        host="127.0.0.1",
        port=int(sys.argv[1]),
        transport_security=TransportSecuritySettings(allowed_hosts=["tools.internal"]),
    )

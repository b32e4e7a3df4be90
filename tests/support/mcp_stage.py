"""An MCP server of the `mcp` package behind one sidecar, its client behind the other, mutual TLS between them.

The client uses the sidecar as its HTTP proxy, as an agent does with ``HTTP_PROXY``; the server refuses any `Host` but the
one that the client calls it by, so a proxy that rewrites it would be found out at once.
"""

from __future__ import annotations

import asyncio
import subprocess
import sys
from contextlib import asynccontextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tests.support.eventually import eventually
from tests.support.processes import LOOPBACK, ask, free_port, listens

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Coroutine

    from mcp import Client

    from tests.support.processes import Sidecar, Site

ROOT = Path(__file__).parents[2]
#: The two eras of the protocol: with the ``initialize`` handshake, a session and a GET stream; and with requests that each
#: stand for themselves.
ERAS = ["legacy", "2026-07-28"]
SECONDS = 20


class Stage:
    """The server process, both sidecars, and a way to be the client."""

    def __init__(self, site: Site) -> None:
        #: Sessions begun, each of which ends with a DELETE.
        self.sessions = 0
        self.port = free_port()
        self.server = site.process(
            *(sys.executable, "-m", "tests.support.mcp_server", str(self.port)),
            cwd=ROOT,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        self.site = site
        self.tools: Sidecar = site.tools(self.port).launch()
        self.planner: Sidecar = site.planner(self.tools).start()
        self.tools.await_ready()
        eventually(lambda: listens(self.port), "the MCP server")

    @asynccontextmanager
    async def client(self, era: str, **callbacks: Any) -> AsyncIterator[Client]:
        import httpx2
        from mcp import Client
        from mcp.client.streamable_http import streamable_http_client

        self.sessions += era == "legacy"
        proxy = f"http://{LOOPBACK}:{self.planner.port('outbound')}"
        async with httpx2.AsyncClient(proxy=proxy, timeout=SECONDS) as http:
            transport = streamable_http_client("http://tools.internal/mcp", http_client=http)
            async with Client(transport, mode=era, **callbacks) as client:
                yield client

    def go(self) -> None:
        """Lets a waiting tool take one step, past the sidecars."""
        assert ask(self.site.at(f"{LOOPBACK}:{self.port}"), "POST", "/go").status == 200

    def state(self) -> dict[str, int]:
        state: dict[str, int] = ask(self.site.at(f"{LOOPBACK}:{self.port}"), "GET", "/state").json
        return state


def play(part: Coroutine[Any, Any, None]) -> None:
    """Runs a client's part to its end, or fails when nothing moves any more."""
    asyncio.run(asyncio.wait_for(part, SECONDS))

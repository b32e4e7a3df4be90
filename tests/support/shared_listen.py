"""Two outbound entries on one listener, in one process: `tools` for requests, `db` for connections, and what is behind them.

agent --plain--> 127.0.0.1:PORT --mTLS--> inbound `tools` --plain--> Upstream
                               \\--mTLS--> inbound `db`    --plain--> an echo
"""

from __future__ import annotations

import asyncio
import json
from contextlib import asynccontextmanager
from copy import deepcopy
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from tests.support.echo import echoing
from tests.support.pair import LOOPBACK, Upstream
from tests.support.processes import free_port
from tests.support.server import running
from tests.support.wire import Plain

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable
    from pathlib import Path

    from tests.support.server import Running

HOSTS = ["tools.internal", "tools.internal:8080"]
DB = "db.internal:5432"


@dataclass
class Shared:
    """What a test needs; ``http`` and ``tcp`` record what arrived behind each entry."""

    at: Running
    http: Upstream
    tcp: Upstream
    clients: list[Plain] = field(default_factory=list)

    @property
    def port(self) -> int:
        return self.at.port("outbound")

    @property
    def entries(self) -> list[dict[str, Any]]:
        found: list[dict[str, Any]] = self.at.config["outbound"]
        return found

    async def agent(self) -> Plain:
        self.clients.append(await Plain.connect(self.port))
        return self.clients[-1]

    async def connected(self, authority: str) -> Plain:
        """Connects by CONNECT."""
        agent = await self.agent()
        agent.send(connect(authority))
        assert (await agent.head()).startswith(b"HTTP/1.1 200 ")
        agent.buffer.clear()
        return agent

    async def logged(self, count: int = 1, **fields: object) -> list[dict[str, Any]]:
        """Waits for so many lines with these fields (``_`` for ``.``); more of them fail the test."""
        wanted = {name.replace("_", "."): value for name, value in fields.items()}
        found: list[dict[str, Any]] = []

        def there() -> bool:
            self.at.server.hub.access_log.flush()
            text = (self.at.folder / "access.log").read_bytes()
            lines = map(json.loads, text[: text.rfind(b"\n") + 1].splitlines())
            found[:] = [line for line in lines if wanted.items() <= line.items()]
            return len(found) >= count

        await until(there)
        assert len(found) == count, found
        return found

    @property
    def dialled(self) -> int:
        """Connections that were made, or are being made, for the agent."""
        generation = self.at.server.generation
        return sum(pool.size for pool in generation.pools.values()) + sum(d.size for d in generation.diallers.values())


def connect(authority: str, *fields: str, version: str = "1.1") -> bytes:
    lines = [f"CONNECT {authority} HTTP/{version}", f"Host: {authority}", *fields]
    return "".join(f"{line}\r\n" for line in [*lines, ""]).encode()


async def until(condition: Callable[[], bool]) -> None:
    for _ in range(2000):
        if condition():
            return
        await asyncio.sleep(0.005)
    raise AssertionError("the condition did not come true")


@asynccontextmanager
async def shared(folder: Path, **behind: Upstream) -> AsyncIterator[Shared]:
    """Starts everything and ends it."""
    tcp = behind.get("tcp") or echoing()
    async with tcp, running(folder, http := behind.get("http") or Upstream()) as at:
        inbound, outbound = at.config["inbound"], at.config["outbound"]
        inbound.append(
            deepcopy(inbound[0])
            | {"name": "db", "listen": f"{LOOPBACK}:{free_port()}", "forward": f"tcp://{LOOPBACK}:{tcp.port}"}
        )
        outbound[0]["hosts"] = HOSTS
        outbound.append(
            deepcopy(outbound[0]) | {"name": "db", "hosts": [DB], "protocol": "tcp", "connect": inbound[1]["listen"]}
        )
        assert await at.reload()
        made = Shared(at, http, tcp)
        try:
            yield made
        finally:
            for client in made.clients:
                client.abort()
            await until(lambda: not at.server.hub.open["outbound"])

"""The composition root in one process: both ends of the pair are one server, whose outbound entry calls its inbound one."""

from __future__ import annotations

import asyncio
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any

import yaml

from sidecar.app.server import Server
from sidecar.clock import Clock
from sidecar.config.load import load
from tests.support.ca import Ca
from tests.support.pair import LOOPBACK, Upstream, turns
from tests.support.processes import free_port

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

OWN = "/agent/both/1"


def configuration(folder: Path, upstream: int) -> dict[str, Any]:
    now = Clock().wall()
    ca = Ca(now=now)
    (folder / "ca.crt").write_bytes(ca.pem)
    ca.leaf(OWN, now=now).write(folder)
    return {
        "version": 1,
        "identity": {"certificate": "tls.crt", "key": "tls.key", "trust": {"example.org": "ca.crt"}},
        "inbound": [
            {
                "name": "tools",
                "listen": f"{LOOPBACK}:{free_port()}",
                "forward": f"http://{LOOPBACK}:{upstream}",
                "allow": [{"caller": "spiffe://example.org/agent/both/*"}],
            }
        ],
        "outbound": [
            {
                "name": "tools",
                "listen": f"{LOOPBACK}:{free_port()}",
                "connect": f"{LOOPBACK}:1",
                "peer": "spiffe://example.org/agent/both/*",
            }
        ],
        "admin": {"listen": f"unix:{folder}/admin.sock"},
        "access_log": "access.log",
        "drain_timeout": "1s",
    }


class Running:
    def __init__(self, folder: Path, config: dict[str, Any], server: Server) -> None:
        self.folder = folder
        self.config = config
        self.server = server

    def write(self) -> None:
        (self.folder / "sidecar.yaml").write_text(yaml.safe_dump(self.config))

    async def reload(self) -> bool:
        self.write()
        return await self.server.reload("a test")

    def port(self, direction: str) -> int:
        return int(self.config[direction][0]["listen"].rpartition(":")[2])

    def pools(self) -> dict[str, object]:
        return {service.direction: service.pool for service in self.server.generation.services.values()}


@asynccontextmanager
async def running(
    folder: Path, upstream: Upstream | None = None, *, tcp: bool = False, clock: Clock | None = None
) -> AsyncIterator[Running]:
    """Starts the server and ends it. ``tcp``: both entries are tunnels."""
    async with upstream or Upstream() as server_behind:
        config = configuration(folder, server_behind.port)
        if tcp:
            config["inbound"][0]["forward"] = f"tcp://{LOOPBACK}:{server_behind.port}"
            config["outbound"][0]["protocol"] = "tcp"
        # One process is both ends here: the outbound entry calls the inbound one.
        config["outbound"][0]["connect"] = config["inbound"][0]["listen"]
        (folder / "sidecar.yaml").write_text(yaml.safe_dump(config))
        clock = clock or Clock()
        server = Server(load(folder / "sidecar.yaml", now=clock.wall()), clock, asyncio.get_running_loop())
        try:
            await server.start()
            yield Running(folder, config, server)
        finally:
            server.begin_drain()
            await server.ended
            await server.close()
            await turns()  # whoever was accepted a moment ago is let go

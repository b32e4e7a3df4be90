"""The `websockets` library at both ends, each behind its sidecar: its client dials the planner's listener, or CONNECTs."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import subprocess
import sys
from contextlib import asynccontextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from tests.support.eventually import eventually
from tests.support.processes import LOOPBACK, PLANNER, Site, free_port, listens

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Coroutine, Iterator

    from websockets.asyncio.client import ClientConnection

    from tests.support.processes import Sidecar

pytestmark = pytest.mark.needs("websockets")

ROOT = Path(__file__).parents[2]
SECONDS = 20
#: How the agent reaches the planner's sidecar: as the server itself, or as its proxy.
WAYS = ["directly", "by-connect"]


class Stage:
    def __init__(self, site: Site) -> None:
        self.port = free_port()
        self.server = site.process(
            *(sys.executable, "-m", "tests.support.websocket_server", str(self.port)),
            cwd=ROOT,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        self.tools: Sidecar = site.tools(self.port).start()
        self.planner: Sidecar = site.planner(self.tools).start()
        eventually(lambda: listens(self.port), "the WebSocket server")

    @asynccontextmanager
    async def client(self, way: str = "directly", path: str = "/ws", **more: Any) -> AsyncIterator[ClientConnection]:
        from websockets import Subprotocol
        from websockets.asyncio.client import connect

        listener = self.planner.port("outbound")
        more |= {"proxy": f"http://{LOOPBACK}:{listener}"} if way == "by-connect" else {"proxy": None}
        if way == "directly":
            more |= {"host": LOOPBACK, "port": listener}
        async with connect(
            f"ws://tools.internal{path}", subprotocols=[Subprotocol("mcp")], max_size=None, **more
        ) as client:
            yield client


@pytest.fixture
def stage(site: Site) -> Iterator[Stage]:
    return Stage(site)


def play(part: Coroutine[Any, Any, None]) -> None:
    asyncio.run(asyncio.wait_for(part, SECONDS))


@pytest.mark.parametrize("way", WAYS)
def test_messages_in_both_directions(stage: Stage, way: str) -> None:
    large = os.urandom(3_000_000)

    async def part() -> None:
        async with stage.client(way) as client:
            assert client.subprotocol == "mcp"
            for message in ("hello", b"\x00\xff", "", large):
                await client.send(message)
                assert await client.recv() == message
            await client.ping()
            await client.send("fields")
            fields = {name.lower(): value for name, value in json.loads(await client.recv()).items()}
            assert fields["x-sidecar-caller"] == PLANNER
            assert "proxy-connection" not in fields

    play(part())
    for sidecar in (stage.planner, stage.tools):
        (line,) = sidecar.await_log(http_path="/ws")
        assert (line["http.method"], line["http.status"], line["decision"]) == ("GET", 101, "allow")
        assert line["bytes_sent"] > len(large) < line["bytes_received"]
        assert "error" not in line


def test_the_server_ends_it_and_says_why(stage: Stage) -> None:
    from websockets.exceptions import ConnectionClosedOK

    async def part() -> None:
        async with stage.client() as client:
            await client.send("bye")
            with pytest.raises(ConnectionClosedOK) as ended:
                await client.recv()
            assert ended.value.rcvd is not None
            assert (ended.value.rcvd.code, ended.value.rcvd.reason) == (1000, "as you wish")

    play(part())


def test_a_client_that_reads_slowly_gets_everything_in_order(stage: Stage) -> None:
    count = 4000

    async def part() -> None:
        async with stage.client() as client:
            await client.send(f"count {count}")
            for number in range(count):
                if number % 1000 == 0:
                    await asyncio.sleep(0.05)  # long enough for everything in between to fill
                assert await client.recv() == number.to_bytes(4, "big") * 256

    play(part())


def test_an_answer_that_is_no_101_is_an_ordinary_one(stage: Stage) -> None:
    from websockets.exceptions import InvalidStatus

    async def part() -> None:
        with pytest.raises(InvalidStatus) as refused:
            async with stage.client(path="/nothing"):
                pass
        assert refused.value.response.status_code == 404
        assert refused.value.response.body == b"there is nothing\n"

    play(part())
    assert stage.planner.await_log(http_path="/nothing", http_status=404)


def test_a_reload_that_removes_the_caller_cuts_it(stage: Stage) -> None:
    from websockets.exceptions import ConnectionClosedError

    async def part() -> None:
        async with stage.client() as client:
            await client.send("still here")
            assert await client.recv() == "still here"
            stage.tools.config["inbound"][0]["allow"] = [{"caller": "spiffe://example.org/agent/other/1"}]
            await asyncio.to_thread(stage.tools.reload)
            with pytest.raises(ConnectionClosedError):
                await client.recv()

    play(part())
    assert stage.tools.await_log(http_path="/ws", error="caller_not_named")


def test_a_server_that_dies_is_no_good_end(stage: Stage) -> None:
    from websockets.exceptions import ConnectionClosedError

    async def part() -> None:
        async with stage.client() as client:
            await client.send("first")
            await client.recv()
            stage.server.send_signal(signal.SIGKILL)
            with pytest.raises(ConnectionClosedError):
                await client.recv()

    play(part())

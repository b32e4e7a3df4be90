"""A reload looks at every live WebSocket: what is no longer permitted ends at once, everything else goes on."""

from __future__ import annotations

import asyncio
import json
import os
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any

import pytest

from sidecar.clock import Clock
from sidecar.proxy.upgrade import WebSocket
from sidecar.sockets import Peer
from tests.support.ca import DAY, Ca
from tests.support.clock import Shifted
from tests.support.eventually import soon
from tests.support.pair import LOOPBACK, Upstream, read_head
from tests.support.processes import free_port
from tests.support.server import OWN, Running, running
from tests.support.websocket import agreeing, asking, echo, key_in
from tests.support.wire import Plain

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable
    from pathlib import Path

OTHER_PIN = "sha256:" + "A" * 43 + "="
ASKING = asking().replace(b"tools.internal", b"localhost")


@asynccontextmanager
async def standing(folder: Path, **more: Any) -> AsyncIterator[tuple[Running, Plain]]:
    """A server with a live WebSocket through both of its entries."""
    async with running(folder, Upstream(echo), **more) as r:
        agent = await Plain.connect(r.port("outbound"))
        agent.send(ASKING)
        assert (await agent.head()).startswith(b"HTTP/1.1 101 ")
        await talks(agent, b"before")
        assert len(r.server.hub.connections) == 2
        yield r, agent
        agent.abort()


async def talks(agent: Plain, word: bytes) -> None:
    agent.buffer.clear()
    agent.send(word)
    await agent.until(lambda: agent.buffer == word)


async def lines(r: Running, count: int) -> dict[str, dict[str, Any]]:
    """The lines of requests that are over, by their direction."""

    def found() -> list[dict[str, Any]]:
        r.server.hub.access_log.flush()
        log = [json.loads(line) for line in (r.folder / "access.log").read_text().splitlines()]
        return [line for line in log if line["event"] == "request"]

    await soon(lambda: len(found()) >= count, f"{count} lines")
    assert len(found()) == count
    return {line["direction"]: line for line in found()}


async def test_a_websocket_that_is_still_permitted_has_the_new_policys_permit(tmp_path: Path) -> None:
    async with standing(tmp_path) as (r, agent):
        r.config["inbound"][0]["allow"] = [
            {"caller": "spiffe://example.org/agent/both/1", "paths": ["/chat"], "methods": ["GET"], "name": "by-name"}
        ]
        assert await r.reload()
        new = r.server.generation.policy_version
        await talks(agent, b"after")
        assert {connection.details()["policy.version"] for connection in r.server.hub.connections} == {new}
        agent.writer.write_eof()
        assert await agent.rest() == b"after"
        ended = await lines(r, 2)
        assert {line["policy.version"] for line in ended.values()} == {new}
        assert {line["http.status"] for line in ended.values()} == {101}
        assert ended["inbound"]["decision.rule"] == "by-name"
        assert not [line for line in ended.values() if "error" in line]


def inbound(**changes: Any) -> Callable[[dict[str, Any]], None]:
    return lambda entries: entries["inbound"][0].update(changes)


def rule(**changes: Any) -> Callable[[dict[str, Any]], None]:
    return lambda entries: entries["inbound"][0]["allow"][0].update(changes)


def outbound(**changes: Any) -> Callable[[dict[str, Any]], None]:
    return lambda entries: entries["outbound"][0].update(changes)


def gone(entries: dict[str, Any]) -> None:
    del entries["inbound"]


def tunnels(entries: dict[str, Any]) -> None:
    entries["inbound"][0]["forward"] = entries["inbound"][0]["forward"].replace("http:", "tcp:")


@pytest.mark.threat(11, 12)
@pytest.mark.parametrize(
    ("change", "direction", "code"),
    [
        (rule(caller="spiffe://example.org/agent/other/*"), "inbound", "caller_not_named"),
        (rule(pins=[OTHER_PIN]), "inbound", "pin_mismatch"),
        (rule(paths=["/other"]), "inbound", "path_not_allowed"),
        (rule(methods=["POST"]), "inbound", "method_not_allowed"),
        (inbound(forward=f"http://{LOOPBACK}:{free_port()}"), "inbound", "entry_changed"),
        (inbound(listen=f"{LOOPBACK}:{free_port()}"), "inbound", "entry_removed"),
        (gone, "inbound", "entry_removed"),
        (tunnels, "inbound", "entry_changed"),
        (outbound(peer="spiffe://example.org/agent/other/*"), "outbound", "peer_name_mismatch"),
        (outbound(pins=[OTHER_PIN]), "outbound", "peer_pin_mismatch"),
        (outbound(connect=f"{LOOPBACK}:{free_port()}"), "outbound", "entry_changed"),
        (outbound(server_name="tools.internal"), "outbound", "entry_changed"),
        (outbound(listen=f"{LOOPBACK}:{free_port()}"), "outbound", "entry_removed"),
        (outbound(paths=["/other"]), "outbound", "path_not_allowed"),
        (outbound(protocol="tcp"), "outbound", "entry_changed"),
    ],
)
async def test_threats_11_12_a_websocket_that_is_no_longer_permitted_ends_at_once(
    tmp_path: Path, change: Callable[[dict[str, Any]], None], direction: str, code: str
) -> None:
    async with standing(tmp_path) as (r, agent):
        change(r.config)
        assert await r.reload()
        await agent.rest()
        assert agent.reset, "what was cut must not look like the end of what was sent"
        ended = await lines(r, 2)
        assert (ended[direction]["error"], ended[direction]["http.status"]) == (code, 101)
        other = "outbound" if direction == "inbound" else "inbound"
        assert ended[other]["error"] in {"upstream_reset", "client_reset"}
        assert not r.server.hub.connections


@pytest.mark.threat(61)
async def test_threat_61_a_websocket_of_a_user_that_is_not_served_any_more_ends_at_once(tmp_path: Path) -> None:
    async with standing(tmp_path) as (r, agent):
        (ours,) = [each for each in r.server.hub.connections if each.listener.service.direction == "outbound"]
        ours.stream.client = Peer(None, os.geteuid() + 1)
        outbound(uids=[os.geteuid() + 1])(r.config)
        assert await r.reload()
        await talks(agent, b"after")
        del r.config["outbound"][0]["uids"]
        assert await r.reload()
        await agent.rest()
        assert agent.reset
        assert (await lines(r, 2))["outbound"]["error"] == "uid_not_allowed"


@pytest.mark.parametrize(
    "change",
    [
        lambda own: rule(pins=[OTHER_PIN, own]),
        lambda own: inbound(name="renamed"),
        lambda own: outbound(pins=[own]),
        lambda own: outbound(peer="spiffe://example.org/agent/**"),
        lambda own: outbound(name="renamed"),
        lambda own: outbound(host="tools.internal"),
        lambda own: lambda entries: entries.update(limits={"stream_idle_timeout": "2h"}, drain_timeout="2s"),
    ],
)
async def test_what_still_permits_it_leaves_a_websocket_alone(
    tmp_path: Path, change: Callable[[str], Callable[[dict[str, Any]], None]]
) -> None:
    async with standing(tmp_path) as (r, agent):
        change(r.server.generation.own.pin)(r.config)
        assert await r.reload()
        await talks(agent, b"after")


@pytest.mark.threat(11)
async def test_threat_11_a_websocket_whose_peers_bundle_has_changed_ends(tmp_path: Path) -> None:
    async with standing(tmp_path) as (r, agent):
        with (tmp_path / "ca.crt").open("ab") as bundle:
            bundle.write(Ca(key="another", now=Clock().wall()).pem)
        assert await r.reload()
        await agent.rest()
        assert agent.reset
        ended = await lines(r, 2)
        assert "trust_changed" in {line["error"] for line in ended.values()}


async def test_our_own_renewed_certificate_leaves_it_alone_until_the_old_one_ends(tmp_path: Path) -> None:
    shifted = Shifted()
    async with standing(tmp_path, clock=shifted.clock) as (r, agent):
        now = Clock().wall()
        Ca(now=now).leaf(OWN, now=now, lifetime=DAY).write(tmp_path)
        assert await r.reload()
        await talks(agent, b"after")
        shifted.pass_by(3601)
        await agent.rest()
        assert agent.reset
        ended = await lines(r, 2)
        assert "certificate_expired" in {line["error"] for line in ended.values()}


@pytest.mark.threat(11)
async def test_threat_11_a_websocket_that_began_under_another_name_of_ours_ends(tmp_path: Path) -> None:
    async with standing(tmp_path) as (r, agent):
        now = Clock().wall()
        Ca(now=now).leaf("/agent/both/2", now=now, lifetime=DAY).write(tmp_path)
        assert await r.reload()
        await agent.rest()
        assert agent.reset
        assert "entry_changed" in {line["error"] for line in (await lines(r, 2)).values()}


async def test_connections_to_a_peer_rest_on_our_own_certificate_too(tmp_path: Path) -> None:
    async with standing(tmp_path) as (r, _):
        pool: Any = r.pools()["outbound"]
        assert pool.destination._not_after == r.server.generation.own.svid.not_after


@pytest.mark.threat(11)
async def test_threat_11_a_reload_while_the_upstream_thinks_counts_as_if_it_came_later(tmp_path: Path) -> None:
    go_on = asyncio.Event()

    async def thinking(upstream: Upstream, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = await read_head(reader)
        upstream.heads.append(head)
        await go_on.wait()
        writer.write(agreeing(key_in(head)))
        upstream.bodies.append(await reader.read())

    upstream = Upstream(thinking)
    async with running(tmp_path, upstream) as r:
        agent = await Plain.connect(r.port("outbound"))
        agent.send(ASKING + b"too early")
        await soon(lambda: len(upstream.heads) == 1, "the request")
        rule(paths=["/other"])(r.config)
        assert await r.reload()
        go_on.set()
        assert (await agent.response()).status == 503
        await soon(lambda: upstream.bodies == [b""], "the upstream's connection to end")
        ended = await lines(r, 2)
        assert (ended["inbound"]["error"], ended["inbound"]["http.status"]) == ("path_not_allowed", 503)
        assert not any(isinstance(connection, WebSocket) for connection in r.server.hub.connections)
        agent.abort()


async def test_a_drain_lets_it_run_until_its_time_is_over(tmp_path: Path) -> None:
    async with standing(tmp_path) as (r, agent):
        r.server.begin_drain()
        await talks(agent, b"still here")
        assert await asyncio.wait_for(r.server.ended, 10) == 0
        await agent.rest()
        assert {line["error"] for line in (await lines(r, 2)).values()} <= {"draining", "upstream_reset"}

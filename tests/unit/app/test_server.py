"""The composition root in one process: what a reload keeps, what it replaces, and what it refuses."""

from __future__ import annotations

import asyncio
from contextlib import suppress
from copy import deepcopy
from typing import TYPE_CHECKING, Any

import pytest
import yaml

from sidecar.app.server import Server
from sidecar.clock import Clock
from sidecar.config.load import load
from sidecar.proxy.failure import BindCode, BindError
from sidecar.proxy.listener import Listener
from sidecar.telemetry.record import Event
from tests.support.ca import Ca
from tests.support.eventually import eventually, soon
from tests.support.pair import LOOPBACK, Upstream, turns
from tests.support.processes import free_port, listens
from tests.support.server import Running, configuration, running
from tests.support.wire import Plain

if TYPE_CHECKING:
    from pathlib import Path


async def ask(running: Running, path: str = "/") -> bytes:
    port = int(running.config["outbound"][0]["listen"].rpartition(":")[2])
    reader, writer = await asyncio.open_connection(LOOPBACK, port)
    writer.write(b"GET %b HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n" % path.encode())
    answer = await asyncio.wait_for(reader.read(), 5)
    writer.close()
    return answer


async def test_a_reload_that_changes_nothing_keeps_listeners_and_pools(tmp_path: Path) -> None:
    async with running(tmp_path) as r:
        listeners, pools = dict(r.server.listeners), r.pools()
        assert await r.reload()
        assert dict(r.server.listeners) == listeners
        assert r.pools() == pools


async def test_new_pins_give_the_entry_a_new_pool_and_retire_the_old_one(tmp_path: Path) -> None:
    async with running(tmp_path) as r:
        assert (await ask(r)).startswith(b"HTTP/1.1 200")
        old = r.pools()
        r.config["outbound"][0]["pins"] = [r.server.generation.own.pin]
        assert await r.reload()
        assert r.pools()["inbound"] is old["inbound"]
        assert r.pools()["outbound"] is not old["outbound"]
        assert old["outbound"].retired  # type: ignore[attr-defined]
        assert (await ask(r)).startswith(b"HTTP/1.1 200")


async def test_a_pin_that_no_longer_matches_is_refused_at_once(tmp_path: Path) -> None:
    async with running(tmp_path) as r:
        assert (await ask(r)).startswith(b"HTTP/1.1 200")
        r.config["outbound"][0]["pins"] = ["sha256:" + "A" * 43 + "="]
        assert await r.reload()
        assert b'"error":"upstream_tls"' in await ask(r)


async def test_a_policy_that_names_nobody_else_is_in_force_for_the_next_request(tmp_path: Path) -> None:
    async with running(tmp_path) as r:
        assert (await ask(r)).startswith(b"HTTP/1.1 200")
        version = r.server.generation.policy_version
        r.config["inbound"][0]["allow"] = [{"caller": "spiffe://example.org/agent/other/*"}]
        assert await r.reload()
        assert r.server.generation.policy_version != version
        assert (await ask(r)).startswith(b"HTTP/1.1 403")


@pytest.mark.parametrize("change", ["admin", "health"])
async def test_what_cannot_be_reloaded_refuses_the_reload_as_a_whole(tmp_path: Path, change: str) -> None:
    async with running(tmp_path) as r:
        before = r.server.generation
        r.config["inbound"][0]["allow"] = [{"caller": "spiffe://example.org/agent/other/*"}]
        new = {"admin": "unix:other.sock", "health": f"{LOOPBACK}:{free_port()}"}
        r.config[change] = {"listen": new[change]}
        assert not await r.reload()
        assert r.server.generation is before
        assert r.server.metrics.reloads_total.labels("failed").read() == 1
        assert (await ask(r)).startswith(b"HTTP/1.1 200")


async def test_another_access_log_takes_over_without_losing_a_line(tmp_path: Path) -> None:
    async with running(tmp_path) as r:
        await ask(r, "/first")
        r.config["access_log"] = "other.log"
        assert await r.reload()
        await ask(r, "/second")
        r.server.hub.access_log.flush()
        first, other = tmp_path / "access.log", tmp_path / "other.log"
        eventually(lambda: other.read_text().count("/second") == 2, "both lines of the second request")
        assert first.read_text().count("/first") == 2
        assert "/second" not in first.read_text()
        assert not r.server.hub.access_log.full


async def test_an_access_log_that_cannot_be_opened_refuses_the_reload(tmp_path: Path) -> None:
    async with running(tmp_path) as r:
        before = r.server.hub.access_log
        r.config["access_log"] = "no/such/folder/access.log"
        assert not await r.reload()
        assert r.server.hub.access_log is before


@pytest.mark.threat(24)
async def test_threat_24_a_reload_with_faults_leaves_everything_as_it_was(tmp_path: Path) -> None:
    async with running(tmp_path) as r:
        before = r.server.generation
        (tmp_path / "ca.crt").write_bytes(b"")
        assert not await r.reload()
        assert r.server.generation is before
        assert (await ask(r)).startswith(b"HTTP/1.1 200")


@pytest.mark.threat(11)
async def test_threat_11_a_handshake_that_began_under_the_old_bundle_has_to_begin_again(tmp_path: Path) -> None:
    async with running(tmp_path) as r:
        port = int(r.config["inbound"][0]["listen"].rpartition(":")[2])
        reader, writer = await asyncio.open_connection(LOOPBACK, port)
        await soon(lambda: r.server.hub.handshakes, "the handshake to begin")
        assert await r.reload()
        assert r.server.hub.handshakes == 1, "nothing about trust has changed"
        with (tmp_path / "ca.crt").open("ab") as bundle:
            bundle.write(Ca(key="another", now=Clock().wall()).pem)
        assert await r.reload()
        with suppress(ConnectionResetError):
            assert await asyncio.wait_for(reader.read(), 5) == b""
        assert r.server.hub.handshakes == 0
        writer.close()


async def test_reloads_that_come_at_once_are_taken_one_after_the_other(tmp_path: Path) -> None:
    async with running(tmp_path) as r:
        entry = r.config["inbound"][0]
        r.config["inbound"] = [entry, deepcopy(entry) | {"name": "second", "listen": f"{LOOPBACK}:{free_port()}"}]
        r.write()
        assert await asyncio.gather(*(r.server.reload("a test") for _ in range(20))) == [True] * 20


async def test_a_new_address_that_is_taken_refuses_the_reload_and_opens_nothing(tmp_path: Path) -> None:
    async with running(tmp_path) as r, Upstream() as other:
        before, free = r.server.generation, free_port()
        entry = r.config["inbound"][0]
        r.config["inbound"] += [deepcopy(entry) | {"name": "free", "listen": f"{LOOPBACK}:{free}"}]
        r.config["inbound"] += [deepcopy(entry) | {"name": "taken", "listen": f"{LOOPBACK}:{other.port}"}]
        assert not await r.reload()
        assert r.server.generation is before
        eventually(lambda: '"error":"address_in_use"' in (tmp_path / "access.log").read_text(), "the log line")
        assert not listens(free)


@pytest.mark.parametrize("scheme", ["http", "tcp"])
async def test_who_connects_while_a_reload_fails_is_not_served_by_what_was_refused(
    tmp_path: Path, scheme: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    start, agents = Listener.start, []

    async def start_one_alone(listener: Listener[Any]) -> None:
        if agents:
            raise BindError(BindCode.IN_USE, "taken meanwhile")
        await start(listener)
        agents.append(await Plain.connect(int(listener.address.rpartition(":")[2])))
        await soon(lambda: any(c.listener is listener for c in listener.hub.connections), "the connection")

    async with running(tmp_path) as r:
        monkeypatch.setattr(Listener, "start", start_one_alone)
        entry = r.config["outbound"][0] | {"protocol": scheme}
        more = [entry | {"name": f"more-{n}", "listen": f"{LOOPBACK}:{free_port()}"} for n in range(2)]
        r.config["outbound"] += more
        assert not await r.reload()
        (agent,) = agents
        await agent.rest()
        agent.abort()
        assert not r.server.hub.connections


async def test_listeners_come_and_go_with_their_entries(tmp_path: Path) -> None:
    async with running(tmp_path) as r:
        port = free_port()
        entry = r.config["inbound"][0]
        r.config["inbound"] = [entry, deepcopy(entry) | {"name": "second", "listen": f"{LOOPBACK}:{port}"}]
        assert await r.reload()
        assert listens(port)
        await turns()  # or what was just accepted may be left over in a listener that goes
        r.config["inbound"] = [entry]
        assert await r.reload()
        await soon(lambda: not listens(port), "the listener to go, in the loop's next turn at the latest")


async def test_a_reload_during_a_drain_is_ignored(tmp_path: Path) -> None:
    async with running(tmp_path) as r:
        r.server.begin_drain()
        await r.server.ended
        (tmp_path / "access.log").rename(tmp_path / "access.log.1")
        assert not await r.reload()
        r.server.write(Event.DRAIN)
        await soon((tmp_path / "access.log").exists, "the log to be where its readers look for it all the same")


async def test_an_address_in_use_is_a_start_error_before_any_port_opens(tmp_path: Path) -> None:
    async with Upstream() as other:
        config = configuration(tmp_path, other.port)
        free = int(config["inbound"][0]["listen"].rpartition(":")[2])
        config["inbound"][0]["forward"] = f"http://{LOOPBACK}:1"
        config["outbound"][0]["listen"] = f"{LOOPBACK}:{other.port}"
        (tmp_path / "sidecar.yaml").write_text(yaml.safe_dump(config))
        clock = Clock()
        server = Server(load(tmp_path / "sidecar.yaml", now=clock.wall()), clock, asyncio.get_running_loop())
        with pytest.raises(BindError, match=str(other.port)) as caught:
            await server.start()
        assert caught.value.code == "address_in_use"
        assert not listens(free)
        assert not (tmp_path / "admin.sock").exists()
        await server.close()


async def test_asked_twice_to_stop_it_ends_at_once_with_an_error(tmp_path: Path) -> None:
    async with running(tmp_path) as r:
        r.server.stop()
        r.server.stop()
        assert await r.server.ended == 1

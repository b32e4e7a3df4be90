"""A reload looks at every live tunnel: what is no longer permitted ends at once, everything else goes on."""

from __future__ import annotations

import asyncio
import json
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any

import pytest

from sidecar.clock import Clock
from sidecar.identity.pins import Pin
from sidecar.proxy.tunnel import Tunnel
from tests.support.ca import DAY, Ca
from tests.support.clock import Shifted
from tests.support.echo import echoing
from tests.support.eventually import soon
from tests.support.pair import LOOPBACK, Upstream
from tests.support.processes import free_port
from tests.support.server import OWN, Running, running
from tests.support.wire import Plain

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable
    from pathlib import Path

OTHER_PIN = "sha256:" + "A" * 43 + "="
NOBODY = [{"caller": "spiffe://example.org/agent/other/*"}]


@asynccontextmanager
async def tunnelled(folder: Path, **more: Any) -> AsyncIterator[tuple[Running, Plain]]:
    """A server with a live tunnel through both of its entries."""
    async with running(folder, echoing(), tcp=True, **more) as r:
        agent = await Plain.connect(r.port("outbound"))
        await talks(agent, b"before")
        yield r, agent
        agent.abort()


async def talks(agent: Plain, word: bytes) -> None:
    agent.buffer.clear()
    agent.send(word)
    await agent.until(lambda: agent.buffer == word)


async def lines(r: Running, count: int, *directions: str) -> dict[str, dict[str, Any]]:
    """The lines of ended tunnels by their direction."""

    def found() -> list[dict[str, Any]]:
        r.server.hub.access_log.flush()
        log = [json.loads(line) for line in (r.folder / "access.log").read_text().splitlines()]
        return [x for x in log if x["event"] == "tunnel" and x["direction"] in (directions or ("inbound", "outbound"))]

    await soon(lambda: len(found()) >= count, f"{count} lines")
    assert len(found()) == count
    return {line["direction"]: line for line in found()}


async def test_a_reload_that_changes_nothing_leaves_a_tunnel_alone(tmp_path: Path) -> None:
    async with tunnelled(tmp_path) as (r, agent):
        assert await r.reload()
        await talks(agent, b"after")


async def test_a_tunnel_that_is_still_permitted_has_the_new_policys_permit(tmp_path: Path) -> None:
    async with tunnelled(tmp_path) as (r, agent):
        old = r.server.generation.policy_version
        r.config["inbound"][0]["allow"] = [{"caller": "spiffe://example.org/agent/both/1", "name": "by-name"}]
        assert await r.reload()
        new = r.server.generation.policy_version
        assert new != old
        await talks(agent, b"after")
        shown = [connection.details() for connection in r.server.hub.connections]
        assert {each["policy.version"] for each in shown} == {new}
        agent.writer.write_eof()
        assert await agent.rest() == b"after"
        ended = await lines(r, 2)
        assert {line["policy.version"] for line in ended.values()} == {new}
        assert ended["inbound"]["decision.rule"] == "by-name"
        assert not [line for line in ended.values() if "error" in line]


def remove_caller(entries: dict[str, Any]) -> None:
    entries["inbound"][0]["allow"] = NOBODY


def pin_caller(entries: dict[str, Any]) -> None:
    entries["inbound"][0]["allow"][0]["pins"] = [OTHER_PIN]


def lead_elsewhere(entries: dict[str, Any]) -> None:
    entries["inbound"][0]["forward"] = f"tcp://{LOOPBACK}:{free_port()}"


def move_inbound(entries: dict[str, Any]) -> None:
    entries["inbound"][0]["listen"] = f"{LOOPBACK}:{free_port()}"


def remove_inbound(entries: dict[str, Any]) -> None:
    del entries["inbound"]


def inbound_http(entries: dict[str, Any]) -> None:
    entries["inbound"][0]["forward"] = entries["inbound"][0]["forward"].replace("tcp:", "http:")


def another_peer(entries: dict[str, Any]) -> None:
    entries["outbound"][0]["peer"] = "spiffe://example.org/agent/other/*"


def pin_peer(entries: dict[str, Any]) -> None:
    entries["outbound"][0]["pins"] = [OTHER_PIN]


def connect_elsewhere(entries: dict[str, Any]) -> None:
    entries["outbound"][0]["connect"] = f"{LOOPBACK}:{free_port()}"


def another_server_name(entries: dict[str, Any]) -> None:
    entries["outbound"][0]["server_name"] = "tools.internal"


def move_outbound(entries: dict[str, Any]) -> None:
    entries["outbound"][0]["listen"] = f"{LOOPBACK}:{free_port()}"


def outbound_http(entries: dict[str, Any]) -> None:
    entries["outbound"][0]["protocol"] = "http"


@pytest.mark.threat(11)
@pytest.mark.parametrize(
    ("change", "direction", "code"),
    [
        (remove_caller, "inbound", "caller_not_named"),
        (pin_caller, "inbound", "pin_mismatch"),
        (lead_elsewhere, "inbound", "entry_changed"),
        (move_inbound, "inbound", "entry_removed"),
        (remove_inbound, "inbound", "entry_removed"),
        (inbound_http, "inbound", "entry_changed"),
        (another_peer, "outbound", "peer_name_mismatch"),
        (pin_peer, "outbound", "peer_pin_mismatch"),
        (connect_elsewhere, "outbound", "entry_changed"),
        (another_server_name, "outbound", "entry_changed"),
        (move_outbound, "outbound", "entry_removed"),
        (outbound_http, "outbound", "entry_changed"),
    ],
    ids=lambda value: getattr(value, "__name__", ""),
)
async def test_threat_11_a_tunnel_that_is_no_longer_permitted_ends_at_once(
    tmp_path: Path, change: Callable[[dict[str, Any]], None], direction: str, code: str
) -> None:
    async with tunnelled(tmp_path) as (r, agent):
        change(r.config)
        assert await r.reload()
        await agent.rest()
        assert agent.reset, "what was cut must not look like the end of what was sent"
        ended = await lines(r, 2)
        assert ended[direction]["error"] == code
        other = "outbound" if direction == "inbound" else "inbound"
        assert ended[other]["error"] in {"upstream_reset", "client_reset"}
        assert not r.server.hub.connections


@pytest.mark.parametrize(
    "change",
    [
        lambda entries, own: entries["inbound"][0]["allow"][0].update(pins=[OTHER_PIN, own]),
        lambda entries, own: entries["inbound"][0].update(name="renamed"),
        lambda entries, own: entries["outbound"][0].update(pins=[own]),
        lambda entries, own: entries["outbound"][0].update(peer="spiffe://example.org/agent/**"),
        lambda entries, own: entries["outbound"][0].update(name="renamed"),
        lambda entries, own: entries.update(limits={"tunnel_lifetime": "2h"}, drain_timeout="2s"),
    ],
)
async def test_what_still_names_both_ends_leaves_a_tunnel_alone(
    tmp_path: Path, change: Callable[[dict[str, Any], str], None]
) -> None:
    async with tunnelled(tmp_path) as (r, agent):
        change(r.config, r.server.generation.own.pin)
        assert await r.reload()
        await talks(agent, b"after")


@pytest.mark.threat(11)
async def test_threat_11_a_tunnel_whose_peers_bundle_has_changed_ends(tmp_path: Path) -> None:
    async with tunnelled(tmp_path) as (r, agent):
        with (tmp_path / "ca.crt").open("ab") as bundle:
            bundle.write(Ca(key="another", now=Clock().wall()).pem)
        assert await r.reload()
        await agent.rest()
        assert agent.reset
        ended = await lines(r, 2)
        assert "trust_changed" in {line["error"] for line in ended.values()}


async def test_our_own_renewed_certificate_leaves_a_tunnel_alone_until_the_old_one_ends(tmp_path: Path) -> None:
    shifted = Shifted()
    async with tunnelled(tmp_path, clock=shifted.clock) as (r, agent):
        now = Clock().wall()
        Ca(now=now).leaf(OWN, now=now, lifetime=DAY).write(tmp_path)
        assert await r.reload()
        assert r.server.generation.own.svid.not_after > now + DAY - 10
        await talks(agent, b"after")
        # The caller's certificate of that handshake is the old one too: nothing is left to stand on after an hour.
        shifted.wall += 3600
        shifted.monotonic += 3600
        await agent.rest()
        assert agent.reset
        ended = await lines(r, 2)
        assert "certificate_expired" in {line["error"] for line in ended.values()}


# -- what has not become a tunnel yet -----------------------------------------------------------------------------------


async def test_a_tunnel_that_is_being_dialled_is_looked_at_by_what_is_in_force_when_its_peer_is_proven(
    tmp_path: Path,
) -> None:
    """The handshake is held back by a relay until the reload is over."""
    gate = asyncio.Event()

    async def relay(_: Upstream, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await gate.wait()
        there = await asyncio.open_connection(LOOPBACK, r.port("inbound"))
        await asyncio.gather(copy(reader, there[1]), copy(there[0], writer))

    async with running(tmp_path, echoing(), tcp=True) as r, Upstream(relay) as between:
        r.config["outbound"][0]["connect"] = f"{LOOPBACK}:{between.port}"
        assert await r.reload()
        kept = await Plain.connect(r.port("outbound"))
        kept.send(b"kept")
        await soon(lambda: between.connections == 1, "the dial")
        r.config["outbound"][0]["pins"] = [r.server.generation.own.pin]
        assert await r.reload()
        pinned = await Plain.connect(r.port("outbound"))
        pinned.send(b"secret")
        await soon(lambda: between.connections == 2, "the second dial")
        gate.set()
        await kept.until(lambda: kept.buffer == b"kept")
        await pinned.until(lambda: pinned.buffer == b"secret")
        gate.clear()
        late = await Plain.connect(r.port("outbound"))
        late.send(b"never to be seen")
        await soon(lambda: between.connections == 3, "the third dial")
        r.config["outbound"][0]["pins"] = [OTHER_PIN]
        assert await r.reload()
        gate.set()
        for agent in (kept, pinned, late):
            await agent.rest()
            assert agent.reset
            agent.abort()
        ended = await lines(r, 3, "outbound")
        assert ended["outbound"]["error"] == "peer_pin_mismatch"


async def copy(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    try:
        while data := await reader.read(65536):
            writer.write(data)
    except ConnectionError:
        pass  # the proxy has reset it, which the test looks at from its own side
    writer.close()


@pytest.mark.threat(11)
@pytest.mark.parametrize("tcp", [True, False], ids=["tcp", "http"])
@pytest.mark.parametrize("change", ["bundle", "kind"])
async def test_threat_11_a_handshake_that_a_reload_overtakes_has_to_begin_again(
    tmp_path: Path, change: str, tcp: bool
) -> None:
    async with running(tmp_path, echoing(), tcp=tcp) as r:
        caller = await Plain.connect(r.port("inbound"))
        await soon(lambda: r.server.hub.handshakes, "the handshake to begin")
        assert await r.reload()
        assert r.server.hub.handshakes == 1, "nothing that matters to it has changed"
        if change == "kind":
            swap_kind(r, "inbound", tcp=not tcp)
        else:
            with (tmp_path / "ca.crt").open("ab") as bundle:
                bundle.write(Ca(key="another", now=Clock().wall()).pem)
        assert await r.reload()
        assert await caller.rest() == b""
        caller.abort()
        assert r.server.hub.handshakes == 0
        assert not r.server.hub.connections


@pytest.mark.threat(11)
@pytest.mark.parametrize("tcp", [True, False], ids=["tcp to http", "http to tcp"])
@pytest.mark.parametrize("direction", ["inbound", "outbound"])
async def test_threat_11_a_connection_accepted_for_one_kind_of_entry_never_serves_another(
    tmp_path: Path, direction: str, tcp: bool
) -> None:
    """Between being accepted and being connected, the loop may have run a reload."""
    async with running(tmp_path, echoing() if tcp else Upstream(), tcp=tcp) as r:
        (listener,) = [each for place, each in r.server.listeners.items() if place[0] == direction]
        stream = listener._accept()
        swap_kind(r, direction, tcp=not tcp)
        assert await r.reload()
        async with Upstream() as somebody:
            await r.server.loop.create_connection(lambda: stream, LOOPBACK, somebody.port)
            await soon(lambda: not r.server.hub.streams, "the connection to be let go")
            assert somebody.heads == []
        assert not r.server.hub.handshakes


def swap_kind(r: Running, direction: str, *, tcp: bool) -> None:
    if direction == "outbound":
        r.config["outbound"][0]["protocol"] = "tcp" if tcp else "http"
    else:
        scheme, _, rest = r.config["inbound"][0]["forward"].partition(":")
        assert scheme == ("http" if tcp else "tcp")
        r.config["inbound"][0]["forward"] = f"{'tcp' if tcp else 'http'}:{rest}"


async def test_an_entry_that_turns_from_requests_to_bytes_takes_no_further_request(tmp_path: Path) -> None:
    async with running(tmp_path) as r:
        agent = await Plain.connect(r.port("outbound"))
        request = b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n"
        assert (await agent.ask(request)).status == 200
        swap_kind(r, "outbound", tcp=True)
        swap_kind(r, "inbound", tcp=True)
        assert await r.reload()
        assert await agent.rest() == b""
        agent.abort()
        fresh = await Plain.connect(r.port("outbound"))
        assert (await fresh.ask(request)).status == 200, "the same bytes now go through a tunnel"
        fresh.abort()
        await soon(lambda: not r.server.hub.connections, "the tunnel to end")
        assert len(await lines(r, 2)) == 2


async def test_a_defect_in_looking_at_one_connection_ends_that_one_and_no_other_escapes(tmp_path: Path) -> None:
    async with tunnelled(tmp_path) as (r, agent):
        broken, whole = list(r.server.hub.connections)
        assert isinstance(broken, Tunnel)

        def fails(_: object) -> None:
            raise ZeroDivisionError

        broken.review = fails  # type: ignore[method-assign]
        remove_caller(r.config)
        assert await r.reload()
        await agent.rest()
        assert agent.reset
        ended = await lines(r, 2)
        assert "internal" in {line["error"] for line in ended.values()}
        assert r.server.metrics.internal_errors_total.labels("reload").value == 1
        assert whole not in r.server.hub.connections


async def test_the_limit_of_an_entrys_upstream_connections_outlives_a_reload(tmp_path: Path) -> None:
    async with tunnelled(tmp_path) as (r, _):
        now = Clock().wall()
        Ca(now=now).leaf(OWN, now=now, lifetime=DAY).write(tmp_path)
        r.config["limits"] = {"upstream_connections": 1}
        assert await r.reload()
        second = await Plain.connect(r.port("outbound"))
        await second.rest()
        assert second.reset
        second.abort()
        ended = await lines(r, 1)
        assert ended["outbound"]["error"] == "limit_upstream_connections"


def test_the_pin_that_nobody_has_is_one() -> None:
    assert str(Pin.parse(OTHER_PIN)) == OTHER_PIN

"""CONNECT to a service whose TLS is the agent's own: what may begin, and what never reaches the service."""

from __future__ import annotations

import asyncio
import socket
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any

import pytest

from sidecar.http.write import ESTABLISHED
from sidecar.proxy.tunnel import LOOK_SECONDS
from tests.support.ca import DAY
from tests.support.clock import Shifted
from tests.support.echo import echoing
from tests.support.pair import LOOPBACK, Upstream, turns
from tests.support.raw import RESET
from tests.support.server import Running, running
from tests.support.shared_listen import Shared, connect, until
from tests.unit.tls.test_hello import client_hello, records

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

    from sidecar.clock import Clock

HOST = "api.llm.example"
HELLO = client_hello(HOST)
AFTER = b"\x17\3\3\0\5after"

chunks = pytest.mark.parametrize("size", [1, 7, 100_000], ids=["bytes", "pieces", "whole"])


def entry(port: int, **more: Any) -> dict[str, Any]:
    return {
        "name": "llm",
        "connect": f"localhost:{port}",
        "hosts": [HOST, f"{HOST}:8443", "other.example"],
        "tls": "public",
        "passthrough": True,
        "unsafe_private_addresses": True,
    } | more


@asynccontextmanager
async def passing(
    folder: Path,
    service: Upstream | None = None,
    *,
    head_timeout: str = "10s",
    clock: Clock | None = None,
    **more: Any,
) -> AsyncIterator[Shared]:
    """One listener, whose only entry is for ciphertext; ``service`` records what it gets, and sends it back."""
    async with service or echoing() as behind, running(folder, http := Upstream(), clock=clock) as at:
        listen = at.config["outbound"][0]["listen"]
        at.config["outbound"] = [{"listen": listen} | entry(behind.port, **more)]
        at.config |= {"limits": {"head_timeout": head_timeout}}
        assert await at.reload()
        made = Shared(at, http, behind)
        try:
            yield made
        finally:
            for client in made.clients:
                client.abort()
            await until(lambda: not at.server.hub.connections)


def got(passed: Shared) -> bytes:
    """What the service received."""
    return b"".join(passed.tcp.bodies)


def refused(at: Running, code: str) -> bool:
    return code in (at.folder / "access.log").read_text()


@chunks
@pytest.mark.parametrize(
    "hello", [HELLO, records(HELLO[5:], 1), client_hello(HOST.title())], ids=["one", "many", "case"]
)
async def test_the_service_gets_the_agents_tls_as_it_is(tmp_path: Path, size: int, hello: bytes) -> None:
    async with passing(tmp_path) as s:
        agent = await s.agent()
        agent.send(connect(f"{HOST}:443"))
        assert await agent.head() == ESTABLISHED
        for start in range(0, len(hello), size):
            agent.send(hello[start : start + size])
            await turns(2)
        agent.send(AFTER)
        await agent.until(lambda: bytes(agent.buffer) == hello + AFTER)
        assert got(s) == hello + AFTER
        (shown,) = s.at.server.hub.connections
        assert shown.details()["dst.name"] == f"{HOST}:443"
        agent.writer.write_eof()
        await agent.rest()
        (line,) = await s.logged(event="tunnel")
        assert (line["listener"], line["dst.name"], line["dst.addr"]) == (
            "llm",
            f"{HOST}:443",
            f"{LOOPBACK}:{s.tcp.port}",
        )
        assert (line["decision.rule"], line["bytes_received"]) == ("outbound.llm", len(hello + AFTER))
        assert "error" not in line


async def test_a_hello_may_come_without_waiting_for_the_answer(tmp_path: Path) -> None:
    async with passing(tmp_path) as s:
        agent = await s.agent()
        agent.send(connect(f"{HOST}:8443") + HELLO + AFTER)
        assert await agent.head() == ESTABLISHED
        await agent.until(lambda: bytes(agent.buffer) == HELLO + AFTER)


BAD = {
    "another host": (client_hello("other.example"), "sni_mismatch"),
    "a host below": (client_hello(f"x.{HOST}"), "sni_mismatch"),
    "no name": (client_hello(None), "sni_mismatch"),
    "http": (b"GET / HTTP/1.1\r\nHost: api.llm.example\r\n\r\n", "hello_not_tls"),
    "an alert": (b"\x15\3\3\0\2\2\x28", "hello_not_tls"),
    "endless": (b"\x16\3\1\0\4\1\xff\xff\xff", "hello_too_large"),
    "odd": (b"\x16\3\1\0\x0a\1\0\0\6\3\3\0\0\0\0", "hello_malformed"),
}


@chunks
@pytest.mark.parametrize("ahead", [False, True], ids=["inside", "ahead"])
@pytest.mark.parametrize("case", BAD)
async def test_whatever_else_begins_ends_the_connection_and_not_a_byte_arrives(
    tmp_path: Path, case: str, size: int, *, ahead: bool
) -> None:
    data, code = BAD[case]
    async with passing(tmp_path) as s:
        agent = await s.agent()
        if ahead:
            agent.send(connect(f"{HOST}:443") + data + AFTER)
        else:
            agent.send(connect(f"{HOST}:443"))
            assert await agent.head() == ESTABLISHED
            for start in range(0, len(data), size):
                if agent.writer.is_closing():
                    break
                agent.send(data[start : start + size])
                await turns(2)
        await agent.rest()
        (line,) = await s.logged(direction="outbound", event="tunnel")
        assert (line["error"], line["decision"]) == (code, "allow")
        await until(lambda: s.tcp.open == 0)
        assert got(s) == b""
        assert s.tcp.connections == (0 if ahead else 1), "what is refused already is not dialled"


async def test_an_agent_that_says_nothing_is_not_waited_for(tmp_path: Path) -> None:
    async with passing(tmp_path, head_timeout="300ms") as s:
        for begin in (b"", HELLO[:100]):
            agent = await s.agent()
            agent.send(connect(f"{HOST}:443"))
            assert await agent.head() == ESTABLISHED
            agent.send(begin)
            assert await agent.rest() == b""
        assert len(await s.logged(2, event="tunnel", error="limit_head_timeout")) == 2
        assert got(s) == b""
        assert LOOK_SECONDS > 1  # the limit has a deadline of its own


async def test_an_agent_that_ends_before_its_hello_is_whole(tmp_path: Path) -> None:
    async with passing(tmp_path, head_timeout="300ms") as s:
        agent = await s.connected(f"{HOST}:443")
        agent.send(HELLO[:-1])
        agent.writer.write_eof()
        await agent.rest()
        await s.logged(event="tunnel", error="limit_head_timeout")
        assert got(s) == b""


async def reset_at_once(_: Upstream, __: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET)
    writer.transport.abort()


@pytest.mark.parametrize("begin", [b"", HELLO[:100]])
async def test_a_service_that_is_gone_before_the_hello_ends_the_tunnel(tmp_path: Path, begin: bytes) -> None:
    """Else the hello would go nowhere, and the agent wait for an answer until the tunnel is idle for too long."""
    async with passing(tmp_path, Upstream(reset_at_once), head_timeout="5m") as s:
        agent = await s.agent()
        agent.send(connect(f"{HOST}:443") + begin)
        await agent.rest()
        await s.logged(event="tunnel", error="upstream_reset")


@pytest.mark.threat(26)
@pytest.mark.parametrize("authority", ["169.254.169.254:443", "localhost:443", f"{HOST}:22", "evil.example:443"])
async def test_threat_26_what_is_not_named_is_403_and_not_dialled(tmp_path: Path, authority: str) -> None:
    async with passing(tmp_path) as s:
        agent = await s.agent()
        assert (await agent.ask(connect(authority))).status == 403
        await s.logged(decision_reason="host_not_served")
        assert (s.dialled, s.tcp.connections) == (0, 0)


async def test_requests_are_not_served(tmp_path: Path) -> None:
    async with passing(tmp_path) as s:
        for request in (b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n", b"GET http://other.example/ HTTP/1.1\r\n\r\n"):
            agent = await s.agent()
            agent.send(request.replace(b"HTTP/1.1\r\n\r\n", b"HTTP/1.1\r\nHost: other.example\r\n\r\n"))
            assert (await agent.response()).status == 403
        assert len(await s.logged(2, decision_reason="passthrough_only")) == 2
        assert s.tcp.connections == 0


async def test_a_service_that_is_not_there_is_an_answer(tmp_path: Path) -> None:
    async with passing(tmp_path, connect="localhost:1") as s:
        agent = await s.agent()
        answer = await agent.ask(connect(f"{HOST}:443") + HELLO)
        assert (answer.status, b'"error":"upstream_refused"' in answer.body) == (502, True)


@pytest.mark.threat(26, 27)
@pytest.mark.parametrize("ahead", [b"", HELLO], ids=["alone", "with its hello"])
@pytest.mark.parametrize(
    ("address", "code"),
    [
        ("127.0.0.1", "address_special_purpose"),
        ("::ffff:127.0.0.1", "address_special_purpose"),
        ("169.254.169.254", "address_metadata"),
    ],
)
async def test_threats_26_27_a_name_that_leads_to_our_own_network_is_not_dialled(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
    address: str,
    code: str,
    ahead: bytes,
) -> None:
    """What the name leads to is looked at for each tunnel, whatever it led to before."""
    async with passing(tmp_path, connect=f"{HOST}:443", unsafe_private_addresses=False) as s:

        def resolve(host: bytes, *_: object, **__: object) -> list[tuple[Any, ...]]:
            assert host == HOST.encode()
            family = socket.AF_INET6 if ":" in address else socket.AF_INET
            return [(family, socket.SOCK_STREAM, 6, "", (address, s.tcp.port, 0, 0)[: 4 if ":" in address else 2])]

        async def dialled(*_: object, **__: object) -> None:
            raise AssertionError("it was dialled")

        agent = await s.agent()
        with monkeypatch.context() as patch:
            patch.setattr(socket, "getaddrinfo", resolve)
            patch.setattr(asyncio.get_running_loop(), "create_connection", dialled)
            answer = await agent.ask(connect(f"{HOST}:443") + ahead)
        assert (answer.status, b'"error":"upstream_address_forbidden"' in answer.body) == (502, True)
        assert await agent.rest() == b"", "neither a 200 nor a tunnel"
        (line,) = await s.logged(event="tunnel")
        assert (line["error"], line["listener"], line["dst.name"]) == (
            "upstream_address_forbidden",
            "llm",
            f"{HOST}:443",
        )
        assert (line["decision"], line["decision.rule"]) == ("allow", "outbound.llm")
        assert (line["bytes_sent"], line["bytes_received"]) == (0, len(ahead))
        assert (s.dialled, s.tcp.connections) == (0, 0)
    said = capfd.readouterr().err
    assert f"{HOST}:443 is not dialled: " in said
    assert f"({code})" in said
    assert "unsafe_private_addresses: true" in said


async def test_a_reload_ends_what_it_takes_away_and_nothing_else(tmp_path: Path) -> None:
    async with passing(tmp_path) as s:
        agents = [await s.connected(f"{HOST}:443"), await s.connected("other.example:443")]
        for agent, name in zip(agents, (HOST, "other.example"), strict=True):
            agent.send(client_hello(name))
            await agent.until(lambda agent=agent: len(agent.buffer) > 100)
        waiting = await s.connected("other.example:443")
        s.entries[0]["hosts"] = [HOST]
        assert await s.at.reload()
        await agents[1].rest()
        await waiting.rest()
        await s.logged(2, event="tunnel", error="entry_removed")
        agents[0].send(AFTER)
        await agents[0].until(lambda: AFTER in agents[0].buffer)
        s.entries[0]["connect"] = "localhost:1"
        assert await s.at.reload()
        await agents[0].rest()
        await s.logged(event="tunnel", error="entry_changed")


async def test_it_rests_on_no_certificate_of_ours(tmp_path: Path) -> None:
    shifted = Shifted()
    async with passing(tmp_path, clock=shifted.clock) as s:
        agent = await s.connected(f"{HOST}:443")
        agent.send(HELLO)
        await agent.until(lambda: bytes(agent.buffer) == HELLO)
        (tunnel,) = s.at.server.hub.connections
        due = tunnel.stream.read_deadline
        shifted.wall += 10 * DAY
        shifted.monotonic += LOOK_SECONDS
        await until(lambda: tunnel.stream.read_deadline > due)
        agent.send(AFTER)
        await agent.until(lambda: bytes(agent.buffer) == HELLO + AFTER)


async def test_beside_another_entry_it_is_reached_by_connect_alone(tmp_path: Path) -> None:
    async with passing(tmp_path) as s:
        listen = s.entries[0]["listen"]
        s.entries.append({"name": "second", "listen": listen, "connect": f"localhost:{s.http.port}", "tls": "public"})
        s.entries[1] |= {"unsafe_private_addresses": True, "hosts": ["second.example"]}
        assert await s.at.reload()
        agent = await s.connected(f"{HOST}:443")
        agent.send(HELLO)
        await agent.until(lambda: bytes(agent.buffer) == HELLO)
        agent = await s.agent()
        assert (await agent.ask(f"GET http://{HOST}/ HTTP/1.1\r\nHost: {HOST}\r\n\r\n".encode())).status == 403
        agent = await s.agent()
        assert (await agent.ask(connect("second.example:443"))).status == 405
        await s.logged(listener="second", http_method="CONNECT", decision_reason="method_refused")


async def test_what_was_sent_is_whole_when_both_ends_are_slow(tmp_path: Path) -> None:
    """A megabyte behind the hello, in one piece, arrives byte for byte."""
    async with passing(tmp_path) as s:
        agent = await s.connected(f"{HOST}:443")
        large = HELLO + bytes(range(256)) * 4096
        agent.send(large)
        await asyncio.wait_for(agent.until(lambda: len(agent.buffer) >= len(large)), 20)
        assert bytes(agent.buffer) == large == got(s)

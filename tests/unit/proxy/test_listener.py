"""A bound address: its limits, floods, and what happens when there are no descriptors left."""

from __future__ import annotations

import asyncio
import json
import os
import resource
import socket
import struct
import subprocess
import sys
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from sidecar.proxy.downstream import Downstream
from sidecar.proxy.failure import BindCode, BindError
from sidecar.proxy.listener import BACKLOG, Listener, bind
from sidecar.proxy.tls_stream import TlsStream
from tests.support.clock import Shifted
from tests.support.pair import LOOPBACK, Plan, inbound_service, rule, world
from tests.support.wire import Caller, Plain

if TYPE_CHECKING:
    from collections.abc import Iterator

GET = b"GET /mcp HTTP/1.1\r\nHost: tools.internal\r\n\r\n"
#: Connections of a flood; with SIDECAR_SOAK as many as the case asks for.
FLOOD = 1000 if os.environ.get("SIDECAR_SOAK") else 200


def descriptors() -> int:
    return len(list(Path("/proc/self/fd").iterdir()))


async def test_the_kernels_backlog_is_what_was_asked_for(tmp_path: Path) -> None:
    async with world(tmp_path) as w:
        assert w.inbound._sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 32)[28:32] == struct.pack(
            "I", BACKLOG
        )  # tcpi_sacked: of a listener, the length of its queue


async def test_small_writes_leave_without_delay(tmp_path: Path) -> None:
    async with world(tmp_path) as w:
        await w.caller()
        await w.plain()
        await w.eventually(lambda: len(w.hub.connections) == 2)
        for connection in w.hub.connections:
            with socket.socket(fileno=os.dup(connection.stream.fileno)) as sock:
                assert sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)


# -- limits -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("side", ["outbound", "inbound"])
async def test_one_connection_too_many_is_closed_counted_and_logged_by_the_limits_name(
    tmp_path: Path, side: str
) -> None:
    async with world(tmp_path, Plan().with_limits(connections=2)) as w:
        connect = w.plain if side == "outbound" else w.inbound_plain
        kept = [await connect(), await connect()]
        await w.eventually(lambda: len(w.hub.connections) == 2)
        more = await connect()
        assert await more.rest() == b""
        (line,) = await w.logged(1, event="refused", direction=side, error="limit_connections")
        assert line["src.addr"].startswith("127.0.0.1:")
        assert w.counted("limit_hits_total", "connections") == 1
        assert w.counted("refused_total", "limit_connections") == 1
        kept[0].close()
        await w.eventually(lambda: len(w.hub.connections) == 1)
        agent = await w.plain()
        assert (await agent.ask(GET)).status == 200, "there is room again, and there always was in the other direction"


async def test_with_too_many_handshakes_the_oldest_gives_way_counted_and_logged_by_the_limits_name(
    tmp_path: Path,
) -> None:
    """Strangers who connect and say nothing cannot keep out those who do."""
    async with world(tmp_path, Plan().with_limits(handshakes=2)) as w:
        silent = [await w.inbound_plain() for _ in range(2)]
        await w.eventually(lambda: w.hub.handshakes == 2)
        agent = await w.plain()
        assert (await agent.ask(GET)).status == 200
        assert await silent[0].rest() == b""
        await w.logged(1, event="refused", error="limit_handshakes", direction="inbound")
        assert w.counted("limit_hits_total", "handshakes") == 1
        assert w.hub.handshakes == 1


@pytest.mark.parametrize("limit", ["handshakes", "connections"])
async def test_a_limit_holds_for_connections_that_come_all_at_once(tmp_path: Path, limit: str) -> None:
    async with world(tmp_path, Plan().with_limits(**{limit: 5})) as w:
        sockets = [socket.socket() for _ in range(50)]
        for sock in sockets:  # all of them wait in the kernel before the first is accepted
            sock.connect((LOOPBACK, w.inbound_port))
        worst = 0

        def done() -> bool:
            nonlocal worst
            worst = max(worst, w.hub.handshakes)
            return w.counted("limit_hits_total", limit) == 45 and len(w.hub.connections) == 5

        await w.eventually(done)
        assert worst <= 5
        await w.logged(45, event="refused", error=f"limit_{limit}")
        for sock in sockets:
            sock.close()
        await w.eventually(lambda: not w.hub.connections)
        assert w.hub.handshakes == 0


# -- floods -----------------------------------------------------------------------------------------------------------


@pytest.mark.soak
@pytest.mark.threat(46)
@pytest.mark.parametrize("sent", [b"", bytes.fromhex("16030100c8010000c40303")], ids=["nothing", "half a ClientHello"])
async def test_threat_46_connections_that_say_nothing_go_and_their_descriptors_come_back(
    tmp_path: Path, sent: bytes
) -> None:
    shifted = Shifted()
    async with world(tmp_path, Plan(clock=shifted.clock).with_limits(handshakes=FLOOD)) as w:
        base = descriptors()
        sockets = []
        for _ in range(FLOOD):
            reader, writer = await asyncio.open_connection(LOOPBACK, w.inbound_port)
            writer.write(sent)
            sockets.append((reader, writer))
        await w.eventually(lambda: w.hub.handshakes == FLOOD)
        shifted.monotonic += w.hub.limits.handshake_timeout + 0.5
        for reader, writer in sockets:
            assert await reader.read() == b""
            writer.close()
        await w.eventually(lambda: not w.hub.connections)
        await asyncio.gather(*(writer.wait_closed() for _, writer in sockets))
        assert w.hub.handshakes == 0
        await w.eventually(lambda: descriptors() <= base)
        await w.logged(FLOOD, event="refused", error="limit_handshake_timeout")
        agent = await w.plain()
        assert (await agent.ask(GET)).status == 200


async def test_clients_that_come_and_go_leave_nothing(tmp_path: Path) -> None:
    async with world(tmp_path) as w:
        agent = await w.plain()
        assert (await agent.ask(GET)).status == 200
        base = descriptors()
        for _ in range(20):
            agent, caller = await Plain.connect(w.outbound_port), await Caller.dial(w.inbound_port, w.planner)
            agent.send(GET)
            caller.abort()
            agent.abort()
        await w.eventually(lambda: not [c for c in w.hub.connections if c.peer is None and c.requests != 1])
        await w.eventually(lambda: descriptors() <= base + 8)  # but for pooled connections


# -- descriptors ------------------------------------------------------------------------------------------------------


@contextmanager
def descriptor_limit(spare: int) -> Iterator[None]:
    """Leaves the process that many descriptors, wherever among the open ones there was room for more."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    highest = max(int(path.name) for path in Path("/proc/self/fd").iterdir())
    resource.setrlimit(resource.RLIMIT_NOFILE, (highest + 1 + spare, hard))
    fillers: list[int] = []
    try:
        with suppress(OSError):
            while True:
                fillers.append(os.open("/dev/null", os.O_RDONLY))
        for _ in range(spare):
            os.close(fillers.pop())
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
        for filler in fillers:
            os.close(filler)


CLIENT = """
import socket, sys, time
sockets = [socket.create_connection(("127.0.0.1", int(sys.argv[1]))) for _ in range(40)]
print("connected", flush=True)
sys.stdin.readline()
"""


@pytest.mark.threat(51)
async def test_threat_51_without_descriptors_it_goes_on_and_serves_when_there_are_some(tmp_path: Path) -> None:
    async with world(tmp_path) as w:
        agent = await w.plain()
        assert (await agent.ask(GET)).status == 200
        flood = await asyncio.create_subprocess_exec(
            sys.executable, "-c", CLIENT, str(w.inbound_port), stdin=subprocess.PIPE, stdout=subprocess.PIPE
        )
        assert flood.stdout is not None
        with descriptor_limit(6):
            assert await flood.stdout.readline() == b"connected\n"
            await w.eventually(lambda: w.hub.handshakes > 0)
            await w.eventually(lambda: w.counted("accept_errors_total", "EMFILE") > 0)
            assert (await agent.ask(GET)).status == 200  # what is open goes on
            tries = w.counted("accept_errors_total", "EMFILE")
            await asyncio.sleep(0.2)
            assert w.counted("accept_errors_total", "EMFILE") <= tries + 8, "it backs off instead of spinning"
            assert w.hub.handshakes > 0, "who was accepted is not thrown out for others"
        await flood.communicate(b"\n")
        await w.eventually(lambda: w.hub.handshakes == 0)
        caller = await w.caller()
        assert (await caller.ask(GET)).status == 200
        told = (tmp_path / "stderr").read_text()
        assert told.count("cannot accept: newcomers wait") == 1, "once for all that time"
        assert "error=EMFILE" in told
        await w.eventually(lambda: "accepts again" in (tmp_path / "stderr").read_text())


@pytest.mark.threat(51)
async def test_threat_51_without_a_descriptor_for_the_upstream_the_request_is_503(tmp_path: Path) -> None:
    async with world(tmp_path) as w:
        agent = await w.plain()
        await w.eventually(lambda: len(w.hub.connections) == 1)
        with descriptor_limit(0):
            answer = await agent.ask(GET)
            assert (answer.status, json.loads(answer.body)["error"]) == (503, "out_of_resources")
        assert (await agent.ask(GET)).status == 200
        await w.logged(1, http_status=503, error="out_of_resources")
        assert "Too many open files" in (tmp_path / "stderr").read_text()


# -- starting and stopping --------------------------------------------------------------------------------------------


async def test_a_connection_that_is_accepted_while_the_listener_stops_is_let_go(tmp_path: Path) -> None:
    async with world(tmp_path) as w:
        other = Listener(w.hub, w.inbound.service, bind(LOOPBACK, 0))
        await other.start()
        connection = Downstream(other)
        other.stop()
        stream = connection.stream
        await w.hub.loop.create_connection(lambda: stream, LOOPBACK, w.upstream.port)
        await w.eventually(lambda: not w.hub.connections)
        assert w.hub.handshakes == 0


async def test_an_address_in_use_is_named(tmp_path: Path) -> None:
    async with world(tmp_path) as w:
        with pytest.raises(BindError) as caught:
            bind(LOOPBACK, w.inbound_port)
        assert caught.value.code is BindCode.IN_USE
        assert caught.value.hint
        assert str(w.inbound_port) in str(caught.value)


def test_an_address_of_another_machine_is_named() -> None:
    with pytest.raises(BindError) as caught:
        bind("192.0.2.1", 0)
    assert caught.value.code is BindCode.NOT_OURS


def test_every_failure_to_bind_has_a_hint() -> None:
    assert BindCode.of(OSError(13, "")) is BindCode.FORBIDDEN
    assert BindCode.of(OSError(99999, "")) is BindCode.FAILED
    assert all(code.hint for code in BindCode)


async def test_two_sockets_on_one_address_are_told_apart_at_the_start(tmp_path: Path) -> None:
    async with world(tmp_path) as w:
        first = bind(LOOPBACK, 0)
        second = socket.socket()
        second.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        second.bind(first.getsockname())  # both may bind as long as neither listens
        one, two = Listener(w.hub, w.inbound.service, first), Listener(w.hub, w.inbound.service, second)
        await one.start()
        with pytest.raises(BindError) as caught:
            await two.start()
        assert caught.value.code is BindCode.IN_USE
        one.stop()


def test_ipv6_is_bound_to_its_own_family() -> None:
    if not Path("/proc/net/if_inet6").exists():
        pytest.skip("this machine has no IPv6")
    sock = bind("::1", 0)
    assert sock.family is socket.AF_INET6
    sock.close()


async def test_a_listener_that_never_started_gives_its_socket_back(tmp_path: Path) -> None:
    async with world(tmp_path) as w:
        sock = bind(LOOPBACK, 0)
        Listener(w.hub, w.inbound.service, sock).stop()
        assert sock.fileno() == -1


@pytest.mark.threat(11)
async def test_threat_11_a_connection_accepted_before_a_reload_is_proven_by_what_is_in_force_after_it(
    tmp_path: Path,
) -> None:
    async with world(tmp_path) as w:
        stream = w.inbound._accept()
        assert isinstance(stream, TlsStream)
        new = inbound_service(w.hub, w.tools, w.ca, (rule(),), w.upstream.port)
        w.inbound.service = new
        near, far = socket.socketpair()
        transport, _ = await asyncio.get_running_loop().create_connection(lambda: stream, sock=near)
        assert stream.context is new.tls
        transport.abort()
        far.close()

"""Two sidecars' worth of listeners in one loop, and an upstream that records every byte it is sent.

agent --plain--> outbound --mTLS--> inbound --plain--> Upstream
"""

from __future__ import annotations

import asyncio
import json
import os
import time
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, Self, TypeVar

from sidecar.app.build import http_limits
from sidecar.clock import Clock
from sidecar.identity.pattern import IdPattern
from sidecar.keys import software
from sidecar.limits import Limits
from sidecar.policy.routes import ConnectionRoute, Route, RouteTable, listen_hosts
from sidecar.policy.rules import Rule
from sidecar.policy.table import Table
from sidecar.proxy.connection import Kind
from sidecar.proxy.dialler import Dialler
from sidecar.proxy.hub import Hub
from sidecar.proxy.inbound import InboundService
from sidecar.proxy.lane import Lane, Lanes
from sidecar.proxy.listener import Listener, bind
from sidecar.proxy.outbound import OutboundService, TlsDestination
from sidecar.proxy.pool import PlainDestination, Pool
from sidecar.proxy.service import Self as Own
from sidecar.proxy.target import TcpTarget
from sidecar.proxy.tunnel_service import InboundTunnels, OutboundTunnels, Wanted, Way
from sidecar.tasks import exception_handler
from sidecar.telemetry.access_log import AccessLog
from sidecar.telemetry.messages import Messages
from sidecar.telemetry.metrics import Metrics
from sidecar.telemetry.sink import Sink
from sidecar.tls.contexts import NO_ALPN, Credentials, client_context, server_context
from sidecar.tls.expectation import expect_peer
from tests.support.ca import HOUR, Ca, Identity
from tests.support.wire import Caller, Client, Plain

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable
    from pathlib import Path

    Script = Callable[["Upstream", asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]

LOOPBACK = "127.0.0.1"
AnyClient = TypeVar("AnyClient", bound=Client)

CLOCK = Clock()
UNDERSCORED = frozenset({"bytes_sent", "bytes_received", "duration_ms"})
HELLO = b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\nContent-Type: text/plain\r\n\r\nhello"


async def turns(count: int = 20) -> None:
    """Lets the event loop go round: long enough for every callback that leads to another."""
    for _ in range(count):
        await asyncio.sleep(0)


async def settled(value: Callable[[], object]) -> None:
    """Waits until a value has been the same for a tenth of a second."""
    last, same = value(), 0
    while same < 20:
        await asyncio.sleep(0.005)
        now = value()
        same, last = (same + 1 if now == last else 0), now


async def read_head(reader: asyncio.StreamReader) -> bytes:
    return await reader.readuntil(b"\r\n\r\n")


async def keep_answering(upstream: Upstream, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Answers every request, after reading its body, with the same small response."""
    while True:
        try:
            head = await read_head(reader)
        except asyncio.IncompleteReadError as error:
            upstream.heads += [error.partial] if error.partial else []
            return
        upstream.heads.append(head)
        lower = head.lower()
        if b"\r\ncontent-length: " in lower:
            size = int(lower.split(b"\r\ncontent-length: ")[1].split(b"\r\n")[0])
            upstream.bodies.append(await reader.readexactly(size))
        elif b"\r\ntransfer-encoding: chunked" in lower:
            upstream.bodies.append(await reader.readuntil(b"0\r\n\r\n"))
        writer.write(upstream.answer)
        await writer.drain()


class Upstream:
    """A plaintext server that records heads and bodies and follows a script."""

    def __init__(self, script: Script = keep_answering, answer: bytes = HELLO) -> None:
        self.script = script
        self.answer = answer
        self.heads: list[bytes] = []
        self.bodies: list[bytes] = []
        self.connections = 0
        self.open = 0
        self.port = 0
        self._server: asyncio.Server | None = None
        self._tasks: set[asyncio.Task[Any]] = set()

    async def __aenter__(self) -> Self:
        self._server = await asyncio.start_server(self._serve, LOOPBACK, 0, limit=2**20)
        self.port = self._server.sockets[0].getsockname()[1]
        return self

    async def __aexit__(self, *_: object) -> None:
        assert self._server is not None
        await turns()  # what was accepted a moment ago gets to its task, which closes it
        self._server.close()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await turns()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        self.connections += 1
        self.open += 1
        try:
            await self.script(self, reader, writer)
        except (ConnectionError, asyncio.IncompleteReadError, asyncio.CancelledError):
            pass  # what the proxy does to its upstream is what tests look at
        finally:
            self.open -= 1
            writer.close()
            self._tasks.discard(task)


@dataclass
class World:
    """Everything one test needs; `log()` gives the lines written so far."""

    hub: Hub
    ca: Ca
    planner: Identity
    tools: Identity
    upstream: Upstream
    inbound: Listener[Any]
    outbound: Listener[Any]
    log_path: Path
    internal_errors: list[dict[str, Any]] = field(default_factory=list)
    clients: list[Client] = field(default_factory=list)

    @property
    def inbound_port(self) -> int:
        return int(self.inbound.address.rpartition(":")[2])

    @property
    def upstream_connections(self) -> int:
        """Those of both pools: towards the inbound listener and towards the upstream."""
        return sum(connections_of(listener.service) for listener in (self.outbound, self.inbound))

    @property
    def outbound_port(self) -> int:
        return int(self.outbound.address.rpartition(":")[2])

    async def agent(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        """Connects as the planner agent does: plaintext, to the outbound listener."""
        return await asyncio.open_connection(LOOPBACK, self.outbound_port, limit=2**20)

    async def plain(self) -> Plain:
        """Connects as the planner agent does."""
        return self._kept(await Plain.connect(self.outbound_port))

    async def inbound_plain(self) -> Plain:
        """Connects to the inbound listener without speaking TLS."""
        return self._kept(await Plain.connect(self.inbound_port))

    async def caller(self, identity: Identity | None = None, **knobs: Any) -> Caller:
        """Connects to the inbound listener over TLS, as the planner unless somebody else is named."""
        caller = await self.dial(identity or self.planner, **knobs)
        await caller.until(lambda: caller.end.done)
        return caller

    async def dial(self, identity: Identity | None, **knobs: Any) -> Caller:
        """Begins a handshake with the inbound listener."""
        return self._kept(await Caller.dial(self.inbound_port, identity, **knobs))

    def _kept(self, client: AnyClient) -> AnyClient:
        self.clients.append(client)
        return client

    async def ask(self, request: bytes) -> bytes:
        """Sends bytes as the agent on a connection of their own and returns everything up to the end."""
        reader, writer = await self.agent()
        writer.write(request)
        data = await asyncio.wait_for(reader.read(-1), 10)
        writer.close()
        return data

    def log(self) -> list[dict[str, Any]]:
        self.hub.access_log.flush()
        deadline = time.monotonic() + 5
        while self.hub.access_log._writer.backlog and time.monotonic() < deadline:
            time.sleep(0.001)
        return [json.loads(line) for line in self.log_path.read_bytes().splitlines()]

    async def logged(self, count: int, **fields: object) -> list[dict[str, Any]]:
        """Waits for so many lines with these fields (``_`` for ``.``) and returns them; more of them fail the test."""
        wanted = {name if name in UNDERSCORED else name.replace("_", "."): value for name, value in fields.items()}

        def found() -> list[dict[str, Any]]:
            return [line for line in self.log() if wanted.items() <= line.items()]

        await self.eventually(lambda: len(found()) >= count)
        lines = found()
        assert len(lines) == count, lines
        return lines

    def counted(self, family: str, *labels: str) -> float:
        """What a counter stands at; 0 where nothing was counted."""
        child = getattr(self.hub.metrics, family).children.get(labels)
        return 0 if child is None else child.read()

    async def eventually(self, condition: Callable[[], bool], seconds: float = 5) -> None:
        """Polls until a condition holds."""
        deadline = time.monotonic() + seconds
        while not condition():
            assert time.monotonic() < deadline, "the condition did not come true"
            await asyncio.sleep(0.005)


@dataclass
class Plan:
    """What differs between tests; every part has a default that works."""

    limits: Limits = field(default_factory=Limits)
    allow: tuple[Rule, ...] = ()
    peer: str = "spiffe://example.org/agent/tools/*"
    pins: frozenset[Any] = frozenset()
    hosts: frozenset[bytes] = frozenset({b"tools.internal"})
    origins: frozenset[bytes] = frozenset()
    upstream: Upstream | None = None
    deny_when_full: bool = False
    connect_port: int | None = None
    clock: Clock = field(default_factory=Clock)
    ca: Ca | None = None
    #: How long both certificates live, in seconds.
    lifetime: float = HOUR
    #: Both entries are tunnels.
    tcp: bool = False

    def with_limits(self, **changes: Any) -> Plan:
        return replace(self, limits=replace(self.limits, **changes))


def rule(caller: str = "spiffe://example.org/agent/planner/*", **parts: Any) -> Rule:
    return Rule(id="inbound.tools.allow[0]", caller=IdPattern.parse(caller), **parts)


def credentials(identity: Identity) -> Credentials:
    return Credentials(identity.chain_pem, software.load(identity.key_pem))


def own(identity: Identity) -> Own:
    svid = identity.svid(CLOCK.wall())
    return Own(svid, str(svid.id), str(svid.pin), "software")


def inbound_service(hub: Hub, identity: Identity, ca: Ca, rules: tuple[Rule, ...], port: int) -> InboundService:
    tls = server_context(credentials(identity), ca.bundles)
    pool = Pool(PlainDestination(TcpTarget(LOOPBACK, port), hub), hub)
    return InboundService(hub, "tools", own(identity), tls, Table.compile(rules, "0123456789abcdef"), pool)


def inbound_tunnels(
    hub: Hub, identity: Identity, ca: Ca, rules: tuple[Rule, ...], port: int, version: str = "0123456789abcdef"
) -> InboundTunnels:
    tls = server_context(credentials(identity), ca.bundles, NO_ALPN)
    way = Way(PlainDestination(TcpTarget(LOOPBACK, port), hub), Dialler(hub), port)
    return InboundTunnels(hub, "tools", own(identity), tls, Table.compile(rules, version), way)


def outbound_tunnels(
    hub: Hub, identity: Identity, ca: Ca, plan: Plan, port: int, version: str = "0123456789abcdef"
) -> OutboundTunnels:
    expect = expect_peer(IdPattern.parse(plan.peer), plan.pins)
    tls = client_context(credentials(identity), ca.bundles, ca.domain, expect, NO_ALPN)
    way = Way(TlsDestination(TcpTarget(LOOPBACK, port), None, tls, hub), Dialler(hub), port)
    route = ConnectionRoute("outbound.tools", version)
    return OutboundTunnels(hub, "tools", own(identity), route, way, Wanted(expect, ca.domain))


def connections_of(service: Any) -> int:
    """The connections to upstreams that a service knows of."""
    return int(service.pool.size if service.kind is Kind.HTTP else service.way.dialler.size)


def outbound_service(hub: Hub, identity: Identity, ca: Ca, plan: Plan, listen: int, port: int) -> OutboundService:
    expect = expect_peer(IdPattern.parse(plan.peer), plan.pins)
    tls = client_context(credentials(identity), ca.bundles, ca.domain, expect)
    us = own(identity)
    pool = Pool(TlsDestination(TcpTarget(LOOPBACK, port), None, tls, hub, not_after=us.svid.not_after), hub)
    route = Route("outbound.tools", listen_hosts(LOOPBACK, listen), plan.hosts, plan.origins)
    lanes = Lanes(Lane(pool, None, us.svid.not_after), hub.clock)
    return OutboundService(hub, "tools", us, RouteTable(route, "0123456789abcdef"), lanes, None)


@asynccontextmanager
async def world(folder: Path, plan: Plan | None = None) -> AsyncIterator[World]:
    """Starts the pair and ends it; an exception that nobody expected fails the test."""
    plan = plan or Plan()
    loop = asyncio.get_running_loop()
    stderr = os.open(folder / "stderr", os.O_WRONLY | os.O_CREAT)
    metrics, messages = Metrics(), Messages(CLOCK.wall, fd=stderr)
    log_path = folder / "access.log"
    log = AccessLog(Sink.file(log_path), later=loop.call_later, messages=messages, deny_when_full=plan.deny_when_full)
    hub = Hub(loop, plan.clock, plan.limits, http_limits(plan.limits), log, metrics, messages)
    internal: list[dict[str, Any]] = []
    handle = exception_handler(messages, metrics)

    def unexpected(loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
        internal.append(context)
        handle(loop, context)

    loop.set_exception_handler(unexpected)
    now = CLOCK.wall()
    ca = plan.ca or Ca(now=now)
    planner, tools = (ca.leaf(f"/agent/{name}/1", now=now, lifetime=plan.lifetime) for name in ("planner", "tools"))
    upstream = plan.upstream or Upstream()
    async with upstream:
        sock = bind(LOOPBACK, 0)
        make_inbound = inbound_tunnels if plan.tcp else inbound_service
        inbound = Listener(hub, make_inbound(hub, tools, ca, plan.allow or (rule(),), upstream.port), sock)
        await inbound.start()
        sock = bind(LOOPBACK, 0)
        listen, port = sock.getsockname()[1], plan.connect_port or int(inbound.address.rpartition(":")[2])
        if plan.tcp:
            outbound = Listener(hub, outbound_tunnels(hub, planner, ca, plan, port), sock)
        else:
            outbound = Listener(hub, outbound_service(hub, planner, ca, plan, listen, port), sock)
        await outbound.start()
        hub.start()
        made = World(hub, ca, planner, tools, upstream, inbound, outbound, log_path, internal)
        try:
            yield made
        finally:
            for client in made.clients:
                client.abort()
            outbound.stop()
            inbound.stop()
            for stream in list(hub.streams):
                stream.abort()
            await made.eventually(lambda: not hub.streams)
            await made.eventually(lambda: not (hub.connections or made.upstream_connections))
            await turns()
            hub.stop()
            log.close()
            loop.set_exception_handler(None)
            os.close(stderr)
    # Nothing may be left of anything, in whichever test.
    assert not hub.handshakes
    assert all(made.counted("connections", direction) == 0 for direction in ("inbound", "outbound"))
    assert not internal, internal

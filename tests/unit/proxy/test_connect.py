"""CONNECT on a listener that an http entry and a tcp entry share: bound connections, tunnels, and everything refused."""

from __future__ import annotations

import asyncio
import gc
import json
import socket
import ssl
from typing import TYPE_CHECKING

import pytest

from sidecar.http.write import ESTABLISHED
from sidecar.identity.pins import Pin
from sidecar.proxy.bound import FirstBytes
from sidecar.proxy.connect_tunnel import ConnectTunnel
from sidecar.proxy.downstream import Downstream
from sidecar.proxy.stream import Expiry
from sidecar.proxy.tunnel import Tunnel
from tests.support.pair import Upstream, turns
from tests.support.relay import held
from tests.support.shared_listen import DB, connect, shared, until
from tests.support.websocket import asking
from tests.support.websocket import echo as websocket_echo

if TYPE_CHECKING:
    from pathlib import Path


SSLContext = ssl.SSLContext  # noqa: TID251 - a foreign client's first flight
GET = b"GET /mcp HTTP/1.1\r\nHost: tools.internal\r\n\r\n"

chunks = pytest.mark.parametrize("size", [1, 7, 100_000], ids=["bytes", "pieces", "whole"])


async def drip(agent: asyncio.StreamWriter, data: bytes, size: int) -> None:
    """Sends so many bytes at a time, each with turns of the loop of its own."""
    for start in range(0, len(data), size):
        agent.write(data[start : start + size])
        await turns(2 if size < 100 else 1)


# -- bound to an http entry ---------------------------------------------------------------------------------------------


@chunks
@pytest.mark.parametrize("authority", ["tools.internal:80", "tools.internal:8080"])
async def test_requests_inside_are_decided_and_logged_like_any_other(tmp_path: Path, size: int, authority: str) -> None:
    async with shared(tmp_path) as s:
        agent = await s.agent()
        host = authority.removesuffix(":80").encode()
        inside = (
            b"GET /1 HTTP/1.1\r\nHost: %b\r\n\r\n"
            b"POST http://%b/2 HTTP/1.1\r\nHost: %b\r\nContent-Length: 2\r\n\r\nhi" % (host, host, host)
        )
        await drip(agent.writer, connect(authority) + inside, size)
        assert await agent.head() == ESTABLISHED
        assert [(await agent.response()).body for _ in range(2)] == [b"hello", b"hello"]
        assert [head.split(b"\r\n")[0] for head in s.http.heads] == [b"GET /1 HTTP/1.1", b"POST /2 HTTP/1.1"]
        assert s.http.bodies == [b"hi"]
        (line,) = await s.logged(http_method="CONNECT")
        assert (line["event"], line["http.status"], line["listener"]) == ("request", 200, "tools")
        assert (line["decision.rule"], line["dst.name"]) == ("outbound.tools", authority)
        for path in ("/1", "/2"):
            (line,) = await s.logged(direction="outbound", http_path=path)
            assert (line["listener"], line["decision"]) == ("tools", "allow")
        (shown,) = [c for c in s.at.server.hub.connections if c.service.direction == "outbound"]
        assert shown.details()["dst.name"] == authority


async def test_a_peer_that_a_reload_wants_no_more_while_it_is_dialled_gets_no_tunnel(tmp_path: Path) -> None:
    """Who it is shows at the end of its handshake: it is let go of, and the agent is told."""
    async with shared(tmp_path) as s, held(int(s.at.config["inbound"][1]["listen"].rpartition(":")[2])) as relay:
        db = s.entries[1]
        db["connect"] = f"127.0.0.1:{relay.port}"
        assert await s.at.reload()
        relay.hold()
        agent = await s.agent()
        agent.send(connect(DB))
        await until(lambda: relay.waiting == 1)
        db["pins"] = [str(Pin(bytes(32)))]
        assert await s.at.reload()
        relay.let_go()
        assert (await agent.response()).status == 503
        await agent.rest()
        await s.logged(direction="outbound", event="tunnel", error="peer_pin_mismatch")
        await until(lambda: s.dialled == 0)
        assert s.tcp.bodies == []


async def test_a_limit_that_ends_it_is_logged_by_its_entrys_name(tmp_path: Path) -> None:
    async with shared(tmp_path) as s:
        agent = await s.connected("tools.internal:80")
        (bound,) = [c for c in s.at.server.hub.connections if isinstance(c, Downstream) and c.bound]
        bound.expired(Expiry.READ)
        await agent.rest()
        (line,) = await s.logged(event="closed", error="limit_idle_timeout")
        assert line["listener"] == "tools"


@pytest.mark.parametrize("before", [0, 1])
@pytest.mark.parametrize("most", [1, 2, 3])
async def test_requests_inside_are_as_many_as_one_connection_may_have(tmp_path: Path, most: int, before: int) -> None:
    """The CONNECT is none of them, wherever it stands; those before it are."""
    if before >= most:
        return
    async with shared(tmp_path) as s:
        s.at.config["limits"] = {"requests_per_connection": most}
        assert await s.at.reload()
        agent = await s.agent()
        for _ in range(before):
            assert (await agent.ask(GET.replace(b"/mcp", b"http://tools.internal/mcp"))).status == 200
        agent.send(connect("tools.internal:80") + GET * (most + 1))
        assert await agent.head() == ESTABLISHED
        answers = [await agent.response() for _ in range(most - before)]
        assert [answer.field(b"connection") for answer in answers] == [None] * (most - before - 1) + [b"close"]
        assert await agent.rest() == b""
        assert len(s.http.heads) == most
        (line,) = await s.logged(direction="outbound", error="limit_requests_per_connection")
        assert line["http.method"] == "GET"
        (line,) = await s.logged(http_method="CONNECT")
        assert "error" not in line


@pytest.mark.parametrize("authority", ["tools.internal:80", "other.internal:80"])
async def test_a_second_connect_on_a_connection_ends_it(tmp_path: Path, authority: str) -> None:
    """Neither behind one that was refused nor inside: so none can go on for ever without being counted."""
    async with shared(tmp_path) as s:
        agent = await s.agent()
        agent.send(connect(authority) + connect("tools.internal:80") * 2)
        first = await agent.head()
        if authority == "tools.internal:80":
            assert first == ESTABLISHED
            assert (await agent.response()).status == 405
        else:
            assert first.startswith(b"HTTP/1.1 403 ")
        assert b"HTTP/1.1" not in await agent.rest()
        assert s.dialled == 0


@pytest.mark.threat(26)
async def test_threat_26_a_name_that_is_not_named_is_never_looked_up(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[object] = []
    async with shared(tmp_path) as s:
        monkeypatch.setattr(socket, "getaddrinfo", lambda *where, **_: asked.append(where) or [])
        absolute = b"GET http://evil.example/ HTTP/1.1\r\nHost: evil.example\r\n\r\n"
        for request in (absolute, connect("evil.example:443"), GET.replace(b"tools.internal", b"evil.example")):
            agent = await s.agent()
            assert (await agent.ask(request)).status == 403
        assert (asked, s.dialled) == ([], 0)


@pytest.mark.threat(26)
@pytest.mark.parametrize(
    ("request_", "status", "reason"),
    [
        (b"GET / HTTP/1.1\r\nHost: 169.254.169.254\r\n\r\n", 403, "host_not_served"),
        (b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n", 403, "host_not_served"),
        (b"GET / HTTP/1.1\r\nHost: 127.0.0.1:PORT\r\n\r\n", 403, "host_not_served"),
        (b"GET / HTTP/1.1\r\nHost: tools.internal:8080\r\n\r\n", 403, "host_not_served"),
        (b"GET / HTTP/1.1\r\nHost: db.internal:5432\r\n\r\n", 403, "host_not_served"),
        (b"GET http://169.254.169.254/ HTTP/1.1\r\nHost: 169.254.169.254\r\n\r\n", 403, "host_not_served"),
        (b"GET http://tools.internal:8080/ HTTP/1.1\r\nHost: tools.internal:8080\r\n\r\n", 403, "host_not_served"),
        (b"CONNECT tools.internal:80 HTTP/1.1\r\nHost: tools.internal:80\r\n\r\n", 405, "method_refused"),
        (b"CONNECT db.internal:5432 HTTP/1.1\r\nHost: db.internal:5432\r\n\r\n", 405, "method_refused"),
        (b"TRACE / HTTP/1.1\r\nHost: tools.internal\r\n\r\n", 405, "method_refused"),
        (b"GET /../x HTTP/1.1\r\nHost: tools.internal\r\n\r\n", 400, "path_dot_segment"),
    ],
)
async def test_threat_26_nothing_else_is_served_inside(
    tmp_path: Path, request_: bytes, status: int, reason: str
) -> None:
    async with shared(tmp_path) as s:
        agent = await s.connected("tools.internal:80")
        assert (await agent.ask(request_.replace(b"PORT", b"%d" % s.port))).status == status
        (line,) = await s.logged(decision_reason=reason)
        assert line["listener"] == "tools"
        assert (s.http.connections, s.tcp.connections, s.dialled) == (0, 0, 0)


async def test_two_authorities_inside_are_400(tmp_path: Path) -> None:
    async with shared(tmp_path) as s:
        agent = await s.connected("tools.internal:80")
        agent.send(b"GET http://tools.internal/ HTTP/1.1\r\nHost: db.internal:5432\r\n\r\n")
        assert (await agent.response()).status == 400
        (line,) = await s.logged(decision_reason="host_mismatch")
        assert line["listener"] == "tools"
        assert s.http.connections == 0


@pytest.mark.threat(61)
@pytest.mark.parametrize("inside", [False, True])
@pytest.mark.parametrize("authority", ["tools.internal:80", DB])
async def test_threat_61_no_web_page_gets_in(tmp_path: Path, inside: bool, authority: str) -> None:
    async with shared(tmp_path) as s:
        page = "Origin: http://evil.example"
        if not inside:
            agent = await s.agent()
            assert (await agent.ask(connect(authority, page))).status == 403
            await agent.rest()
        elif authority != DB:
            agent = await s.connected(authority)
            asked = b"GET / HTTP/1.1\r\nHost: tools.internal\r\n%b\r\n\r\n" % page.encode()
            assert (await agent.ask(asked)).status == 403
        else:
            return
        await s.logged(decision_reason="web_page")
        assert (s.http.connections, s.tcp.connections) == (0, 0)


@chunks
@pytest.mark.parametrize("along", [False, True], ids=["after the 200", "behind the head"])
async def test_an_agent_that_begins_tls_is_told_which_url_to_use(
    tmp_path: Path, capfd: pytest.CaptureFixture[str], size: int, along: bool
) -> None:
    async with shared(tmp_path) as s:
        context = SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        outgoing = ssl.MemoryBIO()
        client = context.wrap_bio(ssl.MemoryBIO(), outgoing, server_hostname="tools.internal")
        with pytest.raises(ssl.SSLWantReadError):
            client.do_handshake()
        hello = outgoing.read()
        if along:
            agent = await s.agent()
            await drip(agent.writer, connect("tools.internal:443") + hello, size)
        else:
            agent = await s.connected("tools.internal:443")
            await drip(agent.writer, hello, size)
        await agent.rest()
        assert bytes(agent.buffer) in {b"", ESTABLISHED}
        (line,) = await s.logged(event="refused")
        assert (line["error"], line["listener"]) == ("agent_tls", "tools")
        assert s.http.connections == 0
    said = capfd.readouterr().err
    assert 'url="http://tools.internal/"' in said or "url=http://tools.internal/" in said


async def test_an_http_1_0_agent_is_bound_too(tmp_path: Path) -> None:
    async with shared(tmp_path) as s:
        agent = await s.agent()
        agent.send(b"CONNECT tools.internal:80 HTTP/1.0\r\n\r\n")
        assert await agent.head() == ESTABLISHED
        assert (await agent.ask(GET)).status == 200


async def test_what_connect_says_of_its_connection_ends_nothing(tmp_path: Path) -> None:
    """Node's agents send `Connection: close`, and Host without its default port."""
    async with shared(tmp_path) as s:
        agent = await s.agent()
        agent.send(
            b"CONNECT tools.internal:80 HTTP/1.1\r\nhost: tools.internal\r\nconnection: close\r\n"
            b"proxy-authorization: Basic Y2FuYXJ5\r\nproxy-connection: keep-alive\r\n\r\n"
        )
        assert await agent.head() == ESTABLISHED
        for _ in range(2):
            assert (await agent.ask(GET[:-2] + b"Proxy-Authorization: Basic Y2FuYXJ5\r\n\r\n")).status == 200
        assert all(b"proxy-" not in head.lower() for head in s.http.heads)
        assert b"Y2FuYXJ5" not in (tmp_path / "access.log").read_bytes()


# -- refused ------------------------------------------------------------------------------------------------------------


@pytest.mark.threat(26)
@pytest.mark.parametrize(
    "request_",
    [
        connect("169.254.169.254:80"),
        connect("127.0.0.1:22"),
        connect("localhost:80"),
        connect("[::1]:80"),
        connect("127.0.0.1:PORT"),
        connect("tools.internal:22"),
        connect("db.internal:80"),
        connect("evil.tools.internal:80"),
        b"GET http://169.254.169.254/latest HTTP/1.1\r\nHost: 169.254.169.254\r\n\r\n",
        b"GET http://localhost/ HTTP/1.1\r\nHost: localhost\r\n\r\n",
        b"GET http://db.internal:5432/ HTTP/1.1\r\nHost: db.internal:5432\r\n\r\n",
        b"GET http://tools.internal:443/ HTTP/1.1\r\nHost: tools.internal:443\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: tools.internal\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: 127.0.0.1:PORT\r\n\r\n",
        b"OPTIONS * HTTP/1.1\r\nHost: tools.internal\r\n\r\n",
    ],
)
async def test_threat_26_a_host_that_is_not_named_is_403_and_never_dialled(
    tmp_path: Path, request_: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with shared(tmp_path) as s:
        dials: list[object] = []
        for module in ("pool", "dialler"):  # nothing is resolved or dialled but through these
            monkeypatch.setattr(f"sidecar.proxy.{module}.connect", lambda *a: dials.append(a))
        agent = await s.agent()
        assert (await agent.ask(request_.replace(b"PORT", b"%d" % s.port))).status == 403
        (line,) = await s.logged(decision_reason="host_not_served")
        assert line["listener"] == f"127.0.0.1:{s.port}", "from the configuration, never from the wire"
        assert (dials, s.dialled, s.http.connections, s.tcp.connections) == ([], 0, 0, 0)


@pytest.mark.parametrize("authority", ["evil.example:80", DB, "tools.internal:80"])
@pytest.mark.parametrize("fields", [b"Content-Length: 3\r\n", b"Transfer-Encoding: chunked\r\n"])
async def test_a_connect_with_a_body_is_400_and_closed(tmp_path: Path, authority: str, fields: bytes) -> None:
    async with shared(tmp_path) as s:
        agent = await s.agent()
        agent.send(connect(authority)[:-2] + fields + b"\r\n" + GET)
        assert (await agent.response()).status == 400
        await agent.rest()
        assert agent.buffer == b""
        await s.logged(decision_reason="forbidden_body")
        assert (s.http.connections, s.tcp.connections) == (0, 0)


@chunks
async def test_what_stands_behind_a_refused_connect_is_no_request(tmp_path: Path, size: int) -> None:
    async with shared(tmp_path) as s:
        agent = await s.agent()
        smuggled = b"GET http://tools.internal/smuggled HTTP/1.1\r\nHost: tools.internal\r\n\r\n"
        await drip(agent.writer, connect("evil.example:443") + smuggled, size)
        answer = await agent.response()
        assert (answer.status, answer.field(b"connection")) == (403, b"close")
        await agent.rest()
        assert agent.buffer == b""
        assert s.http.connections == 0


# -- a tunnel to a tcp entry --------------------------------------------------------------------------------------------


@chunks
async def test_a_connect_to_a_tcp_entry_is_a_tunnel(tmp_path: Path, size: int) -> None:
    data = bytes(range(256)) * (2 if size < 100 else 800)
    async with shared(tmp_path) as s:
        agent = await s.agent()
        await drip(agent.writer, connect(DB) + data, size)
        assert await agent.head() == ESTABLISHED
        await agent.until(lambda: len(agent.buffer) >= len(data))
        (live,) = [c for c in s.at.server.hub.connections if c.service.direction == "outbound"]
        assert live.details()["dst.name"] == DB
        agent.writer.write_eof()
        await agent.rest()
        assert agent.buffer == data
        (line,) = await s.logged(event="tunnel", direction="outbound")
        assert (line["listener"], line["dst.name"], line["decision.rule"]) == ("db", DB, "outbound.db")
        assert (line["bytes_received"], line["bytes_sent"]) == (len(data), len(data))
        assert line["dst.identity"] == "spiffe://example.org/agent/both/1"
        assert "error" not in line
        await s.logged(0, http_method="CONNECT")
        assert s.at.server.hub.open["outbound"] == 0


async def test_a_tunnel_may_come_behind_requests(tmp_path: Path) -> None:
    async with shared(tmp_path) as s:
        agent = await s.agent()
        first = b"GET http://tools.internal/1 HTTP/1.1\r\nHost: tools.internal\r\n\r\n"
        agent.send(first + connect(DB) + b"ping")
        assert (await agent.response()).body == b"hello"
        assert await agent.head() == ESTABLISHED
        await agent.until(lambda: agent.buffer == b"ping")


@pytest.mark.parametrize(
    ("change", "status", "error"), [("connect", 502, "upstream_refused"), ("pins", 502, "upstream_tls")]
)
async def test_a_dial_that_fails_is_an_answer(tmp_path: Path, change: str, status: int, error: str) -> None:
    async with shared(tmp_path) as s:
        s.entries[1][change] = "127.0.0.1:1" if change == "connect" else ["sha256:" + "A" * 43 + "="]
        assert await s.at.reload()
        agent = await s.agent()
        answer = await agent.ask(connect(DB) + b"what was sent along")
        (line,) = await s.logged(event="tunnel", direction="outbound")
        assert (answer.status, json.loads(answer.body)) == (
            status,
            {"error": error, "decision_id": line["decision.id"]},
        )
        assert line["error"] == ("peer_pin_mismatch" if change == "pins" else error)
        await agent.rest()
        assert s.tcp.bodies == []


@pytest.mark.parametrize("authority", ["tools.internal:80", DB])
async def test_nothing_is_left_that_only_the_collector_would_find(tmp_path: Path, authority: str) -> None:
    def alive() -> int:
        return sum(isinstance(found, Downstream | Tunnel | FirstBytes) for found in gc.get_objects())

    async with shared(tmp_path) as s:

        async def use() -> None:
            agent = await s.connected(authority)
            agent.send(GET)
            await agent.until(lambda: len(agent.buffer) >= len(GET))
            agent.writer.write_eof()
            await agent.rest()
            agent.close()
            await until(lambda: not s.at.server.hub.open["outbound"])

        gc.collect()
        gc.disable()
        try:
            await use()
            before = alive()
            for _ in range(5):
                await use()
            await until(lambda: alive() <= before)
        finally:
            gc.enable()


async def test_an_https_target_is_answered_with_what_to_say_instead(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    async with shared(tmp_path) as s:
        agent = await s.agent()
        agent.send(b"GET https://tools.internal/canary HTTP/1.1\r\nHost: tools.internal\r\n\r\n")
        answer = await agent.response()
        assert (answer.status, json.loads(answer.body)) == (400, {"error": "secure_scheme_on_plaintext"})
        await s.logged(decision_reason="secure_scheme_on_plaintext")
    said = capfd.readouterr().err
    assert "give it an http:// URL" in said
    assert "canary" not in said


# -- reloads ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("how", ["gone", "renamed", "elsewhere", "no longer so called", "tcp"])
async def test_a_bound_connection_takes_no_request_once_its_entry_is_gone(tmp_path: Path, how: str) -> None:
    async with shared(tmp_path) as s:
        idle, busy = await s.connected("tools.internal:80"), await s.connected("tools.internal:80")
        assert (await busy.ask(GET)).status == 200
        tools = s.entries[0]
        if how == "gone":
            s.entries.remove(tools)
        elif how == "renamed":
            tools["name"] = "other"  # another entry has the host by now
        elif how == "elsewhere":
            tools["listen"] = "127.0.0.1:1" + str(s.port)[1:] if s.port > 19999 else f"127.0.0.1:{s.port + 1}"
        elif how == "tcp":
            tools |= {"protocol": "tcp", "hosts": ["tools.internal"]}
        else:
            tools["hosts"] = ["another.internal"]
        assert await s.at.reload()
        for agent in (idle, busy):
            agent.send(GET)
            await agent.rest()
            assert agent.buffer == b""
        assert len(s.http.heads) == 1


@pytest.mark.parametrize("how", ["unchanged", "gone", "no longer so called"])
async def test_a_websocket_inside_is_decided_again_too(tmp_path: Path, how: str) -> None:
    async with shared(tmp_path, http=Upstream(websocket_echo)) as s:
        agent = await s.connected("tools.internal:80")
        agent.send(asking())
        assert (await agent.head()).startswith(b"HTTP/1.1 101 ")
        if how == "gone":
            del s.entries[0]
        elif how != "unchanged":
            s.entries[0]["hosts"] = ["another.internal"]
        assert await s.at.reload()
        agent.send(b"ping")
        if how == "unchanged":
            await agent.until(lambda: agent.buffer == b"ping")
            return
        await agent.rest()
        assert agent.buffer == b""
        (line,) = await s.logged(direction="outbound", http_path="/chat", event="request")
        assert (line["listener"], line["error"]) == ("tools", "entry_removed")


async def test_a_bound_connection_goes_on_under_the_new_policy(tmp_path: Path) -> None:
    async with shared(tmp_path) as s:
        agent = await s.connected("tools.internal:80")
        page = GET[:-2] + b"Origin: http://good.example\r\n\r\n"
        assert (await agent.ask(page)).status == 403
        s.entries[0]["origins"] = ["http://good.example"]
        assert await s.at.reload()
        assert (await agent.ask(page)).status == 200
        del s.entries[1]  # alone on its listener, it has the listener's own names; not inside a CONNECT
        assert await s.at.reload()
        assert (await agent.ask(GET)).status == 200
        assert (await agent.ask(b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n")).status == 403


@pytest.mark.parametrize("how", ["gone", "no longer so called", "leads elsewhere", "http"])
async def test_a_tunnel_ends_when_its_name_leads_there_no_more(tmp_path: Path, how: str) -> None:
    async with shared(tmp_path) as s:
        agent = await s.connected(DB)
        agent.send(b"ping")
        await agent.until(lambda: agent.buffer == b"ping")
        db = s.entries[1]
        if how == "gone":
            s.entries.remove(db)
        elif how == "no longer so called":
            db["hosts"] = ["other.internal:5432"]
        elif how == "http":
            db["protocol"] = "http"
        else:
            db["connect"] = "127.0.0.1:1"
        assert await s.at.reload()
        await agent.rest()
        assert agent.reset
        (line,) = await s.logged(event="tunnel", direction="outbound")
        assert line["error"] == ("entry_changed" if how == "leads elsewhere" else "entry_removed")


@pytest.mark.parametrize("how", ["unchanged", "renamed", "alone"])
async def test_a_tunnel_goes_on_where_its_name_leads_to_the_same_place(tmp_path: Path, how: str) -> None:
    async with shared(tmp_path) as s:
        agent = await s.connected(DB)
        if how == "renamed":
            s.entries[1]["name"] = "database"
        elif how == "alone":
            del s.entries[0]
        assert await s.at.reload()
        agent.send(b"ping")
        await agent.until(lambda: agent.buffer == b"ping")


async def test_a_reload_while_a_tunnel_is_dialled_answers_and_closes(tmp_path: Path) -> None:
    deaf = await asyncio.start_server(lambda *_: None, "127.0.0.1", 0)
    async with deaf, shared(tmp_path) as s:
        s.entries[1]["connect"] = f"127.0.0.1:{deaf.sockets[0].getsockname()[1]}"
        assert await s.at.reload()
        agent = await s.agent()
        agent.send(connect(DB) + bytes(8 * 1024 * 1024))
        await until(lambda: s.dialled > 0)
        (live,) = [c for c in s.at.server.hub.connections if isinstance(c, ConnectTunnel)]
        await until(lambda: live.stream.reading_paused)
        assert live.down.taken < 1024 * 1024, "what comes before the 200 is held, and bounded"
        del s.entries[1]
        assert await s.at.reload()
        answer = await agent.response()
        assert (answer.status, json.loads(answer.body)["error"]) == (503, "upstream_gone")
        (line,) = await s.logged(event="tunnel", direction="outbound")
        assert line["error"] == "entry_removed"


async def test_a_connect_while_draining_is_served_to_its_end(tmp_path: Path) -> None:
    """The agent needs its upstreams to finish what callers wait for."""
    async with shared(tmp_path) as s:
        agent = await s.agent()
        s.at.server.hub.draining = True
        agent.send(connect("tools.internal:80"))
        assert await agent.head() == ESTABLISHED
        answer = await agent.ask(GET)
        await s.logged(direction="outbound", http_path="/mcp", decision="allow")
        assert (answer.status, answer.field(b"connection")) == (503, b"close"), "our inbound side drains as well here"
        s.at.server.hub.draining = False

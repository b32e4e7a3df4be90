from __future__ import annotations

import asyncio
import json
import os
import socket
from contextlib import asynccontextmanager, suppress
from typing import TYPE_CHECKING

import pytest

from sidecar.admin import server as module
from sidecar.admin.server import AdminLimits, AdminServer, HealthServer, Surroundings
from sidecar.clock import Clock
from sidecar.http.limits import HttpLimits
from sidecar.proxy.failure import BindError
from sidecar.proxy.listener import bind
from tests.support.eventually import soon
from tests.support.lacking import lacking
from tests.support.log import KeptMessages
from tests.support.status import CANARY, FakeStatus

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

CLOCK = Clock(wall=lambda: 1_800_014_400.25)
USUAL = AdminLimits()
SMALL = AdminLimits(connections=2, timeout=5.0, linger_seconds=0.05, linger_bytes=100, http=HttpLimits(head_bytes=500))


def around(messages: KeptMessages, limits: AdminLimits = USUAL) -> Surroundings:
    return Surroundings(messages, CLOCK, messages.lines.append, limits)


class Asker:
    """A server, and clients of it."""

    def __init__(self, server: AdminServer | HealthServer, status: FakeStatus, messages: KeptMessages) -> None:
        self.server = server
        self.status = status
        self.messages = messages

    async def connect(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        if isinstance(self.server, AdminServer):
            return await asyncio.open_unix_connection(self.server._path)
        return await asyncio.open_connection(*self.server.address)

    async def send(self, data: bytes) -> bytes:
        """Sends and returns everything until the server closes; b"" also for a reset."""
        reader, writer = await self.connect()
        try:
            writer.write(data)
            return await asyncio.wait_for(reader.read(), 10)
        except ConnectionError:
            return b""
        finally:
            writer.close()

    async def ask(self, path: str, method: str = "GET", extra: str = "") -> tuple[int, dict[str, str], bytes]:
        raw = await self.send(f"{method} {path} HTTP/1.1\r\nHost: localhost\r\n{extra}\r\n".encode())
        return taken_apart(raw)


def taken_apart(raw: bytes) -> tuple[int, dict[str, str], bytes]:
    head, _, body = raw.partition(b"\r\n\r\n")
    lines = head.decode().split("\r\n")
    fields = dict(line.split(": ", 1) for line in lines[1:])
    assert len(fields) == len(lines) - 1
    return int(lines[0].split(" ")[1]), fields, body


@asynccontextmanager
async def health(limits: AdminLimits = USUAL) -> AsyncIterator[Asker]:
    status, messages = FakeStatus(), KeptMessages()
    server = HealthServer("127.0.0.1", 0, status, around(messages, limits))
    await server.start()
    try:
        yield Asker(server, status, messages)
    finally:  # uvloop does not end a loop with what a test that failed left open
        await server.close()


@asynccontextmanager
async def admin(tmp_path: Path, limits: AdminLimits = USUAL) -> AsyncIterator[Asker]:
    status, messages = FakeStatus(), KeptMessages()
    server = AdminServer(tmp_path / "a.sock", [], status, around(messages, limits))
    await server.start()
    try:
        yield Asker(server, status, messages)
    finally:  # uvloop does not end a loop with what a test that failed left open
        await server.close()


async def holds(asker: Asker, connections: int) -> None:
    """Waits until the server has so many connections."""
    async with asyncio.timeout(10):
        while len(asker.server.open) != connections:  # noqa: ASYNC110 - the server tells nobody
            await asyncio.sleep(0)


async def gone(asker: Asker) -> None:
    """Waits until the server has no connection left."""
    await holds(asker, 0)


async def test_an_answer_says_what_it_is_and_is_not_kept_anywhere() -> None:
    async with health() as asker:
        status, fields, body = await asker.ask("/ready")
        assert (status, json.loads(body)) == (200, {"ready": True})
        assert fields == {
            "Content-Length": str(len(body)),
            "Content-Type": "application/json",
            "Date": "Fri, 15 Jan 2027 12:00:00 GMT",
            "Cache-Control": "no-store",
            "X-Content-Type-Options": "nosniff",
            "Connection": "close",
        }
        await gone(asker)


async def test_an_answer_to_head_has_everything_but_the_body() -> None:
    async with health() as asker:
        _, full, body = await asker.ask("/metrics")
        status, fields, nothing = await asker.ask("/metrics", "HEAD")
        assert (status, fields, nothing) == (200, full, b"")
        assert int(full["Content-Length"]) == len(body)


async def test_a_request_may_come_byte_by_byte() -> None:
    async with health() as asker:
        reader, writer = await asker.connect()
        for byte in b"GET /live?verbose HTTP/1.1\r\nHost: x\r\n\r\n":
            writer.write(bytes([byte]))
            await writer.drain()
            await asyncio.sleep(0)
        assert taken_apart(await reader.read())[0] == 200
        writer.close()


@pytest.mark.threat(25)
@pytest.mark.parametrize("host", ["localhost", "evil.example", "127.0.0.1:1", "10.0.0.7:14021"])
async def test_threat_25_the_health_listener_serves_any_host_and_changes_nothing(host: str) -> None:
    async with health() as asker:
        for path in ("/live", "/ready", "/metrics"):
            raw = await asker.send(f"GET {path} HTTP/1.1\r\nHost: {host}\r\nOrigin: http://{host}\r\n\r\n".encode())
            status, fields, _ = taken_apart(raw)
            assert status == 200
            assert not any(name.lower().startswith("access-control") for name in fields)
        for path in ("/config", "/certs", "/connections", "/drain", "/", "/../config"):
            for method in ("GET", "POST"):
                assert (await asker.ask(path, method))[0] == 404
        status, fields, _ = await asker.ask("/ready", "POST", "Content-Length: 0\r\n")
        assert (status, fields["Allow"]) == (405, "GET, HEAD")
        assert asker.status.drains == 0


@pytest.mark.threat(25)
async def test_threat_25_our_own_uid_is_served_on_the_admin_socket(tmp_path: Path) -> None:
    async with admin(tmp_path) as asker:
        assert (await asker.ask("/config"))[0] == 200
        assert (await asker.ask("/drain", "POST"))[0] == 202
        assert asker.status.drains == 1
        assert asker.messages.lines == []


@pytest.mark.threat(25)
async def test_threat_25_a_foreign_uid_is_closed_unheard_and_logged(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # The kernel says who we are; what is changed is only whom the socket serves.
    monkeypatch.setattr(module, "allowed_uids", lambda more: frozenset({os.geteuid() + 1, *more}))
    async with admin(tmp_path) as asker:
        assert await asker.send(b"POST /drain HTTP/1.1\r\nHost: x\r\n\r\n") == b""
        assert asker.status.drains == 0
        assert asker.messages.lines == [f"warning the admin socket refused a connection uid={os.geteuid()}"]
        assert not asker.server.open


@pytest.mark.threat(25)
async def test_threat_25_uids_that_the_configuration_names_are_served(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "peer_uid", lambda sock: 4321)
    status, messages = FakeStatus(), KeptMessages()
    server = AdminServer(tmp_path / "a.sock", [4321], status, around(messages))
    await server.start()
    assert (await Asker(server, status, messages).ask("/certs"))[0] == 200
    await server.close()


@pytest.mark.parametrize(
    ("request_bytes", "status", "error"),
    [
        (b"GARBAGE\r\n\r\n", 400, "bad_request_line"),
        (b"GET /live HTTP/1.1\r\n\r\n", 400, "missing_host"),
        (b"GET /live HTTP/2.0\r\nHost: x\r\n\r\n", 505, "bad_version"),
        (b"GET /" + b"a" * 600 + b" HTTP/1.1\r\nHost: x\r\n\r\n", 431, "head_too_large"),
        (b"POST /drain HTTP/1.1\r\nHost: x\r\nContent-Length: 5\r\n\r\nhello", 413, "content_not_expected"),
        (b"POST /drain HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n", 413, "content_not_expected"),
    ],
)
async def test_what_is_no_request_without_content_is_refused(
    tmp_path: Path, request_bytes: bytes, status: int, error: str
) -> None:
    async with admin(tmp_path, SMALL) as asker:
        found, fields, body = taken_apart(await asker.send(request_bytes))
        assert (found, json.loads(body)) == (status, {"error": error})
        assert fields["Connection"] == "close"
        assert asker.status.drains == 0


async def test_the_second_of_two_requests_is_not_answered() -> None:
    async with health() as asker:
        raw = await asker.send(b"GET /live HTTP/1.1\r\nHost: x\r\n\r\n" * 2)
        assert raw.count(b"HTTP/1.1") == 1


async def test_a_client_that_says_nothing_is_closed_in_time() -> None:
    async with health(AdminLimits(timeout=0.02)) as asker:
        assert await asker.send(b"") == b""
        assert await asker.send(b"GET /live HT") == b""
        await gone(asker)


async def test_a_client_that_leaves_early_is_no_trouble() -> None:
    async with health() as asker:
        for data in (b"", b"GET /live HT"):
            _, writer = await asker.connect()
            writer.write(data)
            writer.write_eof()
            writer.close()
        await gone(asker)
        assert (await asker.ask("/live"))[0] == 200


async def test_a_client_that_does_not_close_is_closed() -> None:
    async with health(SMALL) as asker:
        reader, writer = await asker.connect()
        writer.write(b"GET /live HTTP/1.1\r\nHost: x\r\n\r\n")
        assert taken_apart(await reader.read())[0] == 200
        await gone(asker)
        writer.close()


async def test_a_client_that_goes_on_sending_is_closed() -> None:
    async with health(SMALL) as asker:
        reader, writer = await asker.connect()
        writer.write(b"GET /live HTTP/1.1\r\nHost: x\r\n\r\n")
        assert taken_apart(await reader.read())[0] == 200
        writer.write(b"x" * 60)
        await asyncio.sleep(0)
        writer.write(b"x" * 60)
        await gone(asker)
        writer.close()


async def test_a_long_answer_to_a_slow_reader_has_the_whole_time(tmp_path: Path) -> None:
    async with admin(tmp_path, AdminLimits(linger_seconds=0.0)) as asker:
        asker.status.live = 20_000
        reader, writer = await asker.connect()
        writer.write(b"GET /connections HTTP/1.1\r\nHost: x\r\n\r\n")
        first = await reader.read(1)
        for _ in range(20):  # what a short answer is waited for is long over
            await asyncio.sleep(0)
        _, fields, body = taken_apart(first + await reader.read())
        assert len(body) == int(fields["Content-Length"]) > 500_000
        writer.close()


async def test_a_long_answer_that_nobody_reads_is_cut_in_time(tmp_path: Path) -> None:
    async with admin(tmp_path, AdminLimits(timeout=0.05, linger_seconds=0.0)) as asker:
        asker.status.live = 20_000
        _, writer = await asker.connect()
        writer.transport.pause_reading()  # type: ignore[attr-defined] - a socket's transport has it
        writer.write(b"GET /connections HTTP/1.1\r\nHost: x\r\n\r\n")
        await holds(asker, 1)
        await gone(asker)
        writer.close()


async def test_for_one_connection_too_many_the_oldest_is_closed_and_the_others_served() -> None:
    """Whoever sits there and asks nothing cannot keep a probe out."""
    async with health(SMALL) as asker:
        held = [await asker.connect() for _ in range(2)]
        await holds(asker, 2)
        assert (await asker.ask("/live"))[0] == 200
        assert asker.messages.lines == ["warning an admin or health connection was one too many: the oldest is closed"]
        assert await held[0][0].read() == b""
        reader, writer = held[1]
        writer.write(b"GET /live HTTP/1.1\r\nHost: x\r\n\r\n")
        assert taken_apart(await reader.read())[0] == 200
        for _, writer in held:
            writer.close()
        await gone(asker)
        assert (await asker.ask("/live"))[0] == 200


async def test_a_question_that_cannot_be_answered_is_500_and_reported(tmp_path: Path) -> None:
    reported: list[dict[str, object]] = []
    asyncio.get_running_loop().set_exception_handler(lambda _, context: reported.append(context))
    async with admin(tmp_path) as asker:
        asker.status.broken = ValueError("hunter2")
        status, _, body = await asker.ask("/config")
        assert (status, json.loads(body)) == (500, {"error": "internal"})
        assert [(context["where"], context["exception"]) for context in reported] == [("admin", asker.status.broken)]


# -- answers that take a while ----------------------------------------------------------------------------------------

TOKEN = b"POST /tokens/mesh HTTP/1.1\r\nHost: x\r\n\r\n"


@asynccontextmanager
async def waiting(asker: Asker) -> AsyncIterator[tuple[asyncio.StreamReader, asyncio.StreamWriter]]:
    """A client whose token is being made."""
    asker.status.hold.clear()
    before = len(asker.status.asked)
    reader, writer = await asker.connect()
    writer.write(TOKEN)
    await soon(lambda: len(asker.status.asked) > before, "the source to be asked")
    try:
        yield reader, writer
    finally:
        writer.close()


async def test_a_token_is_an_answer_like_the_others(tmp_path: Path) -> None:
    async with admin(tmp_path) as asker:
        status, fields, body = await asker.ask("/tokens/mesh", "POST", "Content-Length: 0\r\n")
        assert (status, json.loads(body)) == (200, {"token": CANARY})
        assert fields["Cache-Control"] == "no-store"
        assert fields["Connection"] == "close"
        await gone(asker)
        assert (await asker.ask("/tokens/none", "POST"))[0] == 404
        assert asker.status.asked == ["mesh", "none"]
        assert asker.messages.lines == []


@pytest.mark.parametrize("method", ["GET", "HEAD", "PUT", "DELETE", "OPTIONS"])
async def test_no_other_method_makes_a_token(tmp_path: Path, method: str) -> None:
    async with admin(tmp_path) as asker:
        status, fields, _ = await asker.ask("/tokens/mesh", method)
        assert (status, fields["Allow"]) == (405, "POST")
        assert asker.status.asked == []


@pytest.mark.threat(25)
async def test_threat_25_a_foreign_uid_gets_no_token(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "allowed_uids", lambda more: frozenset({os.geteuid() + 1, *more}))
    async with admin(tmp_path) as asker:
        assert await asker.send(TOKEN) == b""
        assert asker.status.asked == []


@pytest.mark.threat(25)
async def test_threat_25_the_health_listener_gives_no_token() -> None:
    async with health() as asker:
        for method in ("POST", "GET"):
            assert (await asker.ask("/tokens/mesh", method))[0] == 404
            assert (await asker.ask("/tokens", method))[0] == 404
        assert asker.status.asked == []


async def test_a_token_may_take_longer_than_other_answers(tmp_path: Path) -> None:
    limits = AdminLimits(timeout=0.02)
    async with admin(tmp_path, limits) as asker, waiting(asker) as (reader, writer):
        silent, other = await asker.connect()
        assert await silent.read() == b"", "its time is over"
        other.close()
        asker.status.hold.set()
        assert json.loads(taken_apart(await reader.read())[2]) == {"token": CANARY}
        writer.close()
        await gone(asker)


async def test_a_token_that_does_not_come_in_time_is_503(tmp_path: Path) -> None:
    async with admin(tmp_path, AdminLimits(answer_seconds=0.02)) as asker, waiting(asker) as (reader, _):
        status, _, body = taken_apart(await reader.read())
        assert (status, json.loads(body)) == (503, {"error": "timeout"})
        assert asker.status.cancelled == 1
        await gone(asker)


async def test_a_source_that_ignores_its_end_holds_no_connection(tmp_path: Path) -> None:
    async with admin(tmp_path, AdminLimits(answer_seconds=0.01, timeout=0.01)) as asker:
        release, ended = asyncio.Event(), asyncio.Event()

        async def deaf(name: str) -> None:
            asker.status.asked.append(name)
            while not release.is_set():
                with suppress(asyncio.CancelledError):
                    await release.wait()
            ended.set()

        asker.status.token = deaf  # type: ignore[method-assign,assignment] - as no source of ours does
        try:
            async with waiting(asker) as (reader, _):
                with suppress(ConnectionError):
                    assert await reader.read() == b""
                await gone(asker)
        finally:
            release.set()
            await ended.wait()


async def test_nothing_is_made_for_a_client_that_has_gone(tmp_path: Path) -> None:
    async with admin(tmp_path) as asker:
        for end in ("close", "write_eof", "abort"):
            before = asker.status.cancelled
            async with waiting(asker) as (_, writer):
                getattr(writer.transport if end == "abort" else writer, end)()
                await soon(lambda before=before: asker.status.cancelled == before + 1, "the source to be let off")
            await gone(asker)


async def test_nothing_is_made_once_the_server_is_closed(tmp_path: Path) -> None:
    async with admin(tmp_path) as asker, waiting(asker) as (reader, _):
        await asker.server.close()
        with suppress(ConnectionError):
            assert await reader.read() == b""
        await soon(lambda: asker.status.cancelled == 1, "the source to be let off")
        await gone(asker)


async def test_a_client_that_waits_can_be_the_one_too_many(tmp_path: Path) -> None:
    async with admin(tmp_path, SMALL) as asker, waiting(asker), waiting(asker):
        await holds(asker, 2)
        assert (await asker.ask("/live"))[0] == 200
        await soon(lambda: asker.status.cancelled == 1, "the oldest to be let off")


async def test_a_client_that_waits_and_goes_on_sending_is_closed(tmp_path: Path) -> None:
    async with admin(tmp_path, SMALL) as asker, waiting(asker) as (_, writer):
        writer.write(TOKEN)
        writer.write(b"x" * 100)
        await soon(lambda: asker.status.cancelled == 1, "the source to be let off")
        assert asker.status.asked == ["mesh"], "a second request is not looked at"
        await gone(asker)


@pytest.mark.threat(21)
@pytest.mark.parametrize("error", [ValueError(CANARY), TimeoutError(CANARY)])
async def test_threat_21_a_token_that_fails_in_another_way_is_500_and_reported(
    tmp_path: Path, error: Exception
) -> None:
    reported: list[dict[str, object]] = []
    asyncio.get_running_loop().set_exception_handler(lambda _, context: reported.append(context))
    async with admin(tmp_path) as asker:
        asker.status.broken = error
        status, _, body = await asker.ask("/tokens/mesh", "POST")
        assert (status, json.loads(body)) == (500, {"error": "internal"})
        assert [(context["where"], context["exception"]) for context in reported] == [("admin", error)]
        assert CANARY not in f"{body!r}{asker.messages.lines}{reported[0]['message']}"


async def test_the_end_removes_the_socket_and_closes_connections(tmp_path: Path) -> None:
    async with admin(tmp_path) as asker:
        reader, writer = await asker.connect()
        answered, other = await asker.connect()
        other.write(b"GET /live HTTP/1.1\r\nHost: x\r\n\r\n")
        assert taken_apart(await answered.read())[0] == 200
        await asker.server.close()
        assert not (tmp_path / "a.sock").exists()
        with suppress(ConnectionError):
            assert await reader.read() == b""
        await gone(asker)
        writer.close()
        other.close()
        await asker.server.close()


async def test_a_port_in_use_is_an_error() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        server = HealthServer("127.0.0.1", taken.getsockname()[1], FakeStatus(), around(KeptMessages()))
        with pytest.raises(BindError):
            await server.start()
        await server.close()


@pytest.mark.threat(51)
async def test_threat_51_without_descriptors_newcomers_wait(tmp_path: Path) -> None:
    async with admin(tmp_path) as asker:
        lacking(asker.server, tries=2)
        assert (await asker.ask("/live"))[0] == 200
        where = f"address=unix:{tmp_path / 'a.sock'}"
        assert asker.messages.lines == [
            "EMFILE",
            f'error cannot accept: newcomers wait, what is open goes on {where} error=EMFILE reason="Too many open files"',
            "EMFILE",
            f"info accepts again {where}",
        ]


async def test_one_that_comes_while_it_closes_is_not_served(tmp_path: Path) -> None:
    async with admin(tmp_path) as asker:
        acceptor = asker.server._acceptor
        assert acceptor is not None
        with socket.socket(socket.AF_UNIX) as client:
            client.connect(str(tmp_path / "a.sock"))
            client.send(b"POST /drain HTTP/1.1\r\nHost: x\r\n\r\n")
            acceptor._ready()  # accepted, and not handed over yet
            await asker.server.close()
            client.setblocking(False)
            with suppress(ConnectionError):
                assert await asyncio.get_running_loop().sock_recv(client, 100) == b""
        assert asker.status.drains == 0
        assert not asker.server.open


async def test_a_port_where_another_process_begins_to_listen_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    bound: list[socket.socket] = []
    with socket.socket() as other:
        other.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        other.bind(("127.0.0.1", 0))

        def late(host: str, port: int) -> socket.socket:
            bound.append(bind(host, port))
            other.listen()
            return bound[0]

        monkeypatch.setattr(module, "bind", late)
        server = HealthServer("127.0.0.1", other.getsockname()[1], FakeStatus(), around(KeptMessages()))
        with pytest.raises(BindError):
            await server.start()
        assert bound[0].fileno() < 0
        await server.close()


async def test_a_server_that_was_not_started_says_where_it_will_be() -> None:
    server = HealthServer("127.0.0.1", 14021, FakeStatus(), around(KeptMessages()))
    assert server.address == ("127.0.0.1", 14021)
    await server.close()

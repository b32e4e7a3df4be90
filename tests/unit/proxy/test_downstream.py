"""One client's connection: malformed requests, slow peers, and its orderly end."""

from __future__ import annotations

import asyncio
import json
import os
from typing import TYPE_CHECKING

import pytest

from sidecar.policy.paths import PathPattern
from sidecar.proxy.downstream import BURST
from sidecar.proxy.stream import NEVER, Expiry
from tests.support.clock import Shifted
from tests.support.pair import HELLO, Plan, Upstream, World, keep_answering, read_head, rule, settled, world

if TYPE_CHECKING:
    from pathlib import Path

    from tests.support.wire import Client

GET = b"GET /mcp HTTP/1.1\r\nHost: tools.internal\r\n\r\n"
POST = b"POST /mcp HTTP/1.1\r\nHost: tools.internal\r\n"
#: Bytes through a slow reader or to a slow upstream: 64 MiB, or what SIDECAR_SOAK asks for (1: 1 GiB).
BULK = (1024 if os.environ.get("SIDECAR_SOAK") else 64) * 1024 * 1024


async def connect(w: World, side: str) -> Client:
    return await (w.plain() if side == "outbound" else w.caller())


# -- malformed --------------------------------------------------------------------------------------------------------


def request(line: bytes = b"GET /x HTTP/1.1", fields: bytes = b"Host: localhost\r\n", body: bytes = b"") -> bytes:
    return line + b"\r\n" + fields + b"\r\n" + body


MALFORMED = {
    (28, "both_lengths"): request(
        fields=b"Host: localhost\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\n", body=b"0\r\n\r\n"
    ),
    (29, "duplicate_content_length"): request(
        fields=b"Host: localhost\r\nContent-Length: 5\r\nContent-Length: 6\r\n", body=b"hello!"
    ),
    (29, "bad_content_length"): request(fields=b"Host: localhost\r\nContent-Length: 5, 0\r\n", body=b"hello"),
    (30, "unsupported_transfer_encoding"): request(fields=b"Host: localhost\r\nTransfer-Encoding: gzip, chunked\r\n"),
    (30, "bad_transfer_encoding"): request(fields=b"Host: localhost\r\nTransfer-Encoding: xchunked\r\n"),
    (30, "space_before_colon"): request(fields=b"Host: localhost\r\nTransfer-Encoding : chunked\r\n"),
    (30, "framing_lookalike"): request(fields=b"Host: localhost\r\nTransfer_Encoding: chunked\r\n"),
    (30, "obs_fold"): request(fields=b"Host: localhost\r\nX: a\r\n b\r\n"),
    (32, "bare_lf"): request(fields=b"Host: localhost\r\nX: a\nEvil: b\r\n"),
    (32, "bare_cr"): request(fields=b"Host: localhost\r\nX: a\rEvil: b\r\n"),
    (32, "control_byte"): request(fields=b"Host: localhost\r\nX: a\x00b\r\n"),
    (33, "missing_host"): request(fields=b""),
    (33, "duplicate_host"): request(fields=b"Host: localhost\r\nHost: evil\r\n"),
    (33, "bad_host"): request(fields=b"Host: localhost@evil\r\n"),
    (34, "bad_request_line"): request(b"GET /x"),
    (34, "bad_version"): request(b"PRI * HTTP/2.0"),
    (35, "transfer_encoding_http10"): request(
        b"POST /x HTTP/1.0", b"Host: localhost\r\nTransfer-Encoding: chunked\r\n", b"0\r\n\r\n"
    ),
    (47, "target_too_long"): request(b"GET /" + b"a" * 100_000 + b" HTTP/1.1"),
    (47, "head_too_large"): request(fields=b"Host: localhost\r\nX: " + b"a" * 1_000_000 + b"\r\n"),
    (47, "too_many_fields"): request(fields=b"Host: localhost\r\n" + b"X: a\r\n" * 10_000),
}
STATUS = {
    "unsupported_transfer_encoding": 501,
    "bad_version": 505,
    "target_too_long": 414,
    "head_too_large": 431,
    "too_many_fields": 431,
}


@pytest.mark.threat(28, 29, 30, 32, 33, 34, 35, 47)
@pytest.mark.parametrize("side", ["outbound", "inbound"])
@pytest.mark.parametrize("case", MALFORMED, ids=lambda case: f"threat_{case[0]}_{case[1]}")
async def test_threats_28_to_35_and_47_a_malformed_request_is_answered_closed_logged_once_and_not_forwarded(
    tmp_path: Path, side: str, case: tuple[int, str]
) -> None:
    code, status = case[1], STATUS.get(case[1], 400)
    async with world(tmp_path) as w:
        client = await connect(w, side)
        assert (await client.ask(GET)).status == 200
        client.send(MALFORMED[case] + GET)
        response = await client.response()
        assert response.status == status
        assert json.loads(response.body) == {"error": code}
        assert response.field(b"connection") == b"close"
        assert await client.rest() == b""
        assert not client.reset
        (line,) = await w.logged(1, error=code, decision_reason=code, decision="deny", direction=side)
        assert line["http.status"] == status
        assert line["event"] == "request"
        assert "http.path" not in line
        assert w.counted("requests_total", side, "tools", "deny", f"{status // 100}xx") == 1
        assert len(w.upstream.heads) == 1
        client.close()
        await w.eventually(lambda: all(c.exchange is None for c in w.hub.connections))


@pytest.mark.threat(31)
@pytest.mark.parametrize(
    "broken", [b"0x2\r\nhi\r\n", b"+2\r\nhi\r\n", b"2 \r\nhi\r\n", b"2\nhi\r\n", b"2\r\nhiX", b"f" * 17 + b"\r\nhi"]
)
async def test_threat_31_a_malformed_chunk_kills_the_upstream_request_and_is_400(tmp_path: Path, broken: bytes) -> None:
    async def listen(upstream: Upstream, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        upstream.heads.append(await read_head(reader))
        try:
            while data := await reader.read(1000):
                upstream.bodies.append(data)
        finally:
            upstream.bodies.append(b"END")

    async with world(tmp_path, Plan(upstream=Upstream(listen))) as w:
        caller = await w.caller()
        caller.send(POST + b"Transfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n")
        await w.eventually(lambda: b"".join(w.upstream.bodies) == b"5\r\nhello\r\n")
        caller.send(broken + b"\r\n0\r\n\r\n" + GET)
        response = await caller.response()
        assert response.status == 400
        assert await caller.rest() == b""
        await w.eventually(lambda: w.upstream.bodies[-1] == b"END")
        assert b"0\r\n\r\n" not in b"".join(w.upstream.bodies)
        assert len(w.upstream.heads) == 1
        await w.logged(1, direction="inbound", http_status=400, decision="allow")
        await w.eventually(lambda: w.upstream_connections == 0)


async def test_a_body_that_turns_out_malformed_after_the_answer_began_cuts_it(tmp_path: Path) -> None:
    async def early(upstream: Upstream, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        upstream.heads.append(await read_head(reader))
        writer.write(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n1\r\na\r\n")
        await reader.read()

    async with world(tmp_path, Plan(upstream=Upstream(early))) as w:
        caller = await w.caller()
        caller.send(POST + b"Transfer-Encoding: chunked\r\n\r\n1\r\nx\r\n")
        await caller.until(lambda: caller.buffer.endswith(b"1\r\na\r\n"))
        caller.send(b"nonsense\r\n")
        assert not (await caller.rest()).endswith(b"0\r\n\r\n")
        assert not caller.end.eof
        await w.eventually(lambda: w.upstream.open == 0)
        await w.logged(1, direction="inbound", error="bad_chunk_size", http_status=200)


async def test_a_malformed_request_behind_a_good_one_waits_for_its_turn(tmp_path: Path) -> None:
    async with world(tmp_path) as w:
        caller = await w.caller()
        caller.send(GET + b"GET /x HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n" + GET)
        assert (await caller.response()).status == 200
        assert (await caller.response()).status == 400
        assert await caller.rest() == b""
        assert len(w.upstream.heads) == 1
        await w.logged(1, error="duplicate_host")


async def test_a_head_that_ends_in_its_middle_is_answered_and_logged(tmp_path: Path) -> None:
    async with world(tmp_path) as w:
        agent = await w.plain()
        agent.send(b"GET / HTTP/1.1\r\nHost: lo")
        agent.writer.write_eof()
        assert (await agent.rest()).startswith(b"HTTP/1.1 400 ")
        await w.logged(1, error="truncated_head")


async def test_a_body_that_ends_in_its_middle_is_not_completed_upstream(tmp_path: Path) -> None:
    async with world(tmp_path) as w:
        agent = await w.plain()
        agent.send(POST + b"Content-Length: 100\r\n\r\nhi")
        await w.eventually(lambda: w.upstream.open == 1)
        agent.close()
        await w.eventually(lambda: w.upstream.open == 0)
        assert w.upstream.bodies == []
        await w.logged(2, error="client_closed", bytes_received=2)


# -- slow peers -------------------------------------------------------------------------------------------------------


@pytest.mark.threat(45)
@pytest.mark.parametrize("side", ["outbound", "inbound"])
async def test_threat_45_a_head_that_never_ends_is_408_whatever_trickles(tmp_path: Path, side: str) -> None:
    shifted = Shifted()
    async with world(tmp_path, Plan(clock=shifted.clock)) as w:
        client, other = await connect(w, side), await w.plain()
        assert (await client.ask(GET)).status == 200  # also on a connection that was good before
        limit = w.hub.limits.head_timeout
        client.send(b"GET / HTTP/1.1\r\nHost: localhost\r\n")
        (slow,) = [c for c in w.hub.connections if c.listener.service.direction == side and c.requests == 1]
        await w.eventually(lambda: slow.stream.read_deadline < w.hub.clock.monotonic() + limit + 1)
        deadline = slow.stream.read_deadline
        for _ in range(5):
            shifted.monotonic += limit / 6
            client.send(b"X: y\r\n")
            assert (await other.ask(GET)).status == 200
        assert slow.stream.read_deadline == deadline
        shifted.monotonic += limit / 6 + 0.1
        assert (await client.response()).status == 408
        assert await client.rest() == b""
        await w.logged(1, error="limit_head_timeout", http_status=408, direction=side)
        assert w.counted("limit_hits_total", "head_timeout") == 1


@pytest.mark.threat(45)
async def test_threat_45_a_body_that_trickles_is_408(tmp_path: Path) -> None:
    shifted = Shifted()
    async with world(tmp_path, Plan(clock=shifted.clock)) as w:
        stall, rate = w.hub.limits.stall_timeout, w.hub.limits.min_rate
        caller = await w.caller()
        caller.send(POST + b"Content-Length: 1000000\r\n\r\n")
        (connection,) = list(w.hub.connections)
        for _ in range(3):  # fast enough
            caller.send(b"x" * int(rate * stall + 1))
            await w.eventually(lambda: connection.exchange is not None)
            exchange = connection.exchange
            assert exchange is not None
            await w.eventually(lambda e=exchange: e.bytes_received - connection._mark > rate * stall)  # type: ignore[misc]
            shifted.monotonic += stall + 0.1
            w.hub._sweep()
            assert connection.exchange is not None
        caller.send(b"x" * 100)
        shifted.monotonic += stall + 0.1
        response = await caller.response()
        assert response.status == 408
        assert b"limit_stall_timeout" in response.body
        await w.logged(1, error="limit_stall_timeout", http_status=408, direction="inbound", decision="allow")
        assert w.counted("limit_hits_total", "stall_timeout") == 1
        await w.eventually(lambda: w.upstream.open == 0)


async def test_a_connection_without_requests_is_closed_after_idle_timeout(tmp_path: Path) -> None:
    shifted = Shifted()
    async with world(tmp_path, Plan(clock=shifted.clock)) as w:
        fresh, used, caller = await w.plain(), await w.plain(), await w.caller()
        assert (await used.ask(GET)).status == 200
        await w.eventually(lambda: len(w.hub.connections) == 4)
        shifted.monotonic += w.hub.limits.idle_timeout + 1
        assert await fresh.rest() == b""
        assert await used.rest() == b""
        assert await caller.rest() == b""
        assert caller.end.eof


@pytest.mark.threat(48)
@pytest.mark.parametrize("side", ["outbound", "inbound"])
async def test_threat_48_who_reads_nothing_is_cut_by_the_stall_limit(tmp_path: Path, side: str) -> None:
    shifted = Shifted()

    async def endless(upstream: Upstream, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await read_head(reader)
        writer.write(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")
        while True:
            writer.write(b"10000\r\n" + b"x" * 65536 + b"\r\n")
            await writer.drain()

    plan = Plan(upstream=Upstream(endless), clock=shifted.clock).with_limits(idle_timeout=1000)
    async with world(tmp_path, plan) as w:
        client, other = await connect(w, side), await w.plain()
        client.send(GET)
        ours = [c for c in w.hub.connections if c.listener.service.direction == side]
        await w.eventually(lambda: any(c.stream.writing_paused for c in ours))
        (connection,) = [c for c in ours if c.exchange]
        client.reader._transport.pause_reading()  # type: ignore[attr-defined]
        await settled(lambda: connection.stream.delivered)
        for _ in range(2):
            shifted.monotonic += w.hub.limits.stall_timeout + 1
            w.hub._sweep()
        await w.eventually(lambda: w.upstream.open == 0)
        (line,) = await w.logged(1, event="request", error="limit_stall_timeout", direction=side)
        assert not [entry for entry in w.log() if entry["event"] == "open" and "error" in entry]
        assert line["http.status"] == 200
        assert line["bytes_sent"] > 0
        assert w.counted("limit_hits_total", "stall_timeout") >= 1
        w.upstream.script = keep_answering
        assert (await other.ask(GET)).status == 200


@pytest.mark.threat(48)
async def test_threat_48_who_reads_slowly_but_steadily_is_not_cut(tmp_path: Path) -> None:
    async with world(tmp_path) as w:
        caller = await w.caller()
        (connection,) = w.hub.connections
        rate = w.hub.limits.min_rate * w.hub.limits.stall_timeout
        connection._write_mark = connection.stream.delivered - int(rate)
        connection.expired(Expiry.WRITE)
        assert connection.stream.write_deadline < NEVER
        assert connection._write_mark == connection.stream.delivered
        assert (await caller.ask(GET)).status == 200
        connection.expired(Expiry.WRITE)  # a few hundred bytes of an answer are not enough
        await caller.rest()
        assert caller.reset


# -- retiring ---------------------------------------------------------------------------------------------------------


async def test_a_retired_connection_finishes_its_request_and_takes_no_other(tmp_path: Path) -> None:
    go_on = asyncio.Event()

    async def slow(upstream: Upstream, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        upstream.heads.append(await read_head(reader))
        await go_on.wait()
        writer.write(HELLO)
        await reader.read()

    async with world(tmp_path, Plan(upstream=Upstream(slow))) as w:
        busy, idle = await w.caller(), await w.caller()
        busy.send(GET + GET)
        await w.eventually(lambda: len(w.upstream.heads) == 1)
        for connection in list(w.hub.connections):
            connection.retire()
        assert await idle.rest() == b""
        assert idle.end.eof
        go_on.set()
        response = await busy.response()
        assert response.field(b"connection") == b"close"
        assert await busy.rest() == b""
        assert busy.end.eof
        assert len(w.upstream.heads) == 1


async def test_during_a_drain_inbound_requests_are_503_and_outbound_ones_are_served(tmp_path: Path) -> None:
    async with world(tmp_path) as w, Upstream() as plain:
        agent, caller = await w.plain(), await w.caller()
        w.hub.draining = True
        response = await caller.ask(GET)
        assert response.status == 503
        assert json.loads(response.body)["error"] == "draining"
        assert response.field(b"connection") == b"close"
        await w.logged(1, error="draining", decision="deny")
        assert plain.connections == 0
        assert (await agent.ask(GET)).status == 503  # the inbound sidecar's answer, passed on
        await w.logged(1, direction="outbound", decision="allow", http_status=503)


async def test_a_log_that_is_full_denies_when_it_is_told_to(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async with world(tmp_path, Plan(deny_when_full=True)) as w:
        caller = await w.caller()
        assert (await caller.ask(GET)).status == 200
        with monkeypatch.context() as patch:
            patch.setattr(w.hub.access_log._writer, "broken", True)
            response = await caller.ask(GET)
            assert response.status == 503
            assert json.loads(response.body)["error"] == "log_full"
        assert len(w.upstream.heads) == 1
        assert (await caller.ask(GET)).status == 200
        (line,) = await w.logged(1, error="log_full", decision="deny", http_status=503)
        assert json.loads(response.body)["decision_id"] == line["decision.id"] != ""


async def test_a_thousand_requests_in_one_segment_leave_others_their_turn(tmp_path: Path) -> None:
    plan = Plan(allow=(rule(paths=(PathPattern.parse("/allowed"),)),))
    async with world(tmp_path, plan) as w:
        caller = await w.caller()
        assert (await caller.ask(GET)).status == 403
        (connection,) = [c for c in w.hub.connections if c.peer is not None]
        caller.send(GET * 2000)
        most = before = 0
        while connection.requests < 2001:
            await asyncio.sleep(0)
            most = max(most, connection.requests - before)
            before = connection.requests
        assert most <= 2 * BURST
        for _ in range(2000):
            assert (await caller.response()).status == 403


async def test_a_connection_that_is_reset_before_our_goodbye_ends_without_an_error(tmp_path: Path) -> None:
    async with world(tmp_path) as w:
        agent = await w.plain()
        assert (await agent.ask(GET)).status == 200
        (connection,) = [c for c in w.hub.connections if c.peer is None]
        agent.abort()
        connection.retire()
        await w.eventually(lambda: connection not in w.hub.connections)

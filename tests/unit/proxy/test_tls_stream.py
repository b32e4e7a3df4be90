"""Handshakes that go wrong: each is refused in its time, told where it can be, logged once, counted, and forgotten."""

from __future__ import annotations

import asyncio
import socket
import struct
from typing import TYPE_CHECKING

import pytest
from OpenSSL import SSL

from sidecar.proxy.downstream import Downstream
from sidecar.proxy.stream import HIGH_WATER
from sidecar.proxy.tls_stream import DRY_BYTES, UNSENT_BYTES, TlsStream
from sidecar.tls.contexts import ContextCode, ContextError
from sidecar.tls.engine import TlsEngine
from tests.support import devices, pair
from tests.support.ca import Ca, Identity, forge, keypair
from tests.support.clock import Shifted
from tests.support.pair import CLOCK, Plan, Upstream, World, world
from tests.support.tls import Ours, key_update, planner_context

if TYPE_CHECKING:
    from pathlib import Path

    from tests.support.wire import Client


@pytest.fixture(autouse=True, params=["here", "apart"])
def where(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where the steps of handshakes are made: on the loop, or in threads as with a key in a device. Nobody can tell."""
    if request.param == "apart":
        monkeypatch.setattr(pair, "credentials", devices.apart)


GET = b"GET /mcp HTTP/1.1\r\nHost: tools.internal\r\n\r\n"
#: RFC 8446 6.
UNKNOWN_CA, PROTOCOL_VERSION, CERTIFICATE_REQUIRED = 48, 70, 116
HELLO_START = bytes.fromhex("16030100c8010000c40303") + b"\x11" * 20


async def only_refused(w: World, code: str) -> None:
    """One connection was refused, for that reason; nothing of it is left, and a good caller is served."""
    (line,) = await w.logged(1, event="refused")
    assert line["decision.reason"] == line["error"] == code
    assert line["decision"] == "deny"
    assert line["direction"] == "inbound"
    assert line["src.addr"].startswith("127.0.0.1:")
    assert "src.identity" not in line
    assert w.counted("refused_total", code) == 1
    assert w.counted("handshakes_total", "server", code, "false") == 1
    await w.eventually(lambda: not w.hub.connections)
    assert w.hub.handshakes == 0
    assert w.upstream.connections == 0
    caller = await w.caller()
    assert (await caller.ask(GET)).body == b"hello"
    await w.logged(1, event="refused")


@pytest.mark.parametrize(
    ("sent", "code"),
    [
        (b"\x00" * 100, "not_tls"),
        (b"SSH-2.0-OpenSSH_9.2\r\n", "not_tls"),
        (GET, "http_on_tls"),
        (b"CONNECT tools.internal:443 HTTP/1.1\r\n\r\n", "http_on_tls"),
        (bytes.fromhex("160301ffff") + b"\x00" * 70_000, "bad_record"),
    ],
    ids=["zeros", "SSH", "HTTP", "a proxy request", "a record that is too long"],
)
async def test_what_is_not_tls_is_refused_at_once(tmp_path: Path, sent: bytes, code: str) -> None:
    async with world(tmp_path) as w:
        client = await w.inbound_plain()
        client.send(sent)
        await client.rest()
        assert not client.reset
        client.close()
        await only_refused(w, code)


async def test_garbage_behind_a_good_beginning_is_refused(tmp_path: Path) -> None:
    async with world(tmp_path) as w:
        client = await w.inbound_plain()
        client.send(HELLO_START + b"\xff" * 400)
        await client.rest()
        client.close()
        await w.eventually(lambda: not w.hub.connections)
        await w.logged(1, event="refused")


@pytest.mark.threat(46)
@pytest.mark.parametrize("sent", [b"", HELLO_START], ids=["nothing", "half a ClientHello"])
async def test_threat_46_who_does_not_finish_a_handshake_is_closed_in_its_time(tmp_path: Path, sent: bytes) -> None:
    shifted = Shifted()
    async with world(tmp_path, Plan(clock=shifted.clock)) as w:
        client = await w.inbound_plain()
        client.send(sent)
        await w.eventually(lambda: w.hub.handshakes == 1)
        shifted.monotonic += w.hub.limits.handshake_timeout + 0.1
        assert await client.rest() == b""
        assert not client.reset
        client.close()
        await only_refused(w, "limit_handshake_timeout")


@pytest.mark.threat(46)
async def test_threat_46_who_does_not_close_either_is_cut_a_second_later(tmp_path: Path) -> None:
    shifted = Shifted()
    async with world(tmp_path, Plan(clock=shifted.clock)) as w:
        client = await w.inbound_plain()
        await w.eventually(lambda: w.hub.handshakes == 1)
        shifted.monotonic += w.hub.limits.handshake_timeout + 0.1
        assert await client.rest() == b""
        assert w.hub.handshakes == 0
        shifted.monotonic += 1.1
        await w.eventually(lambda: not w.hub.connections)


@pytest.mark.parametrize(
    ("sent", "code"), [(b"", "closed_before_hello"), (HELLO_START, "handshake_truncated")], ids=["nothing", "a part"]
)
@pytest.mark.parametrize("how", ["closed", "half closed"])
async def test_who_ends_in_the_middle_of_a_handshake_is_logged(
    tmp_path: Path, sent: bytes, code: str, how: str
) -> None:
    async with world(tmp_path) as w:
        client = await w.inbound_plain()
        client.send(sent)
        await w.eventually(lambda: w.hub.handshakes == 1)
        if how == "closed":
            client.close()
        else:
            client.writer.write_eof()
            assert await client.rest() == b""
        await only_refused(w, code)


async def test_who_resets_its_connection_in_a_handshake_is_logged_too(tmp_path: Path) -> None:
    async with world(tmp_path) as w:
        client = await w.inbound_plain()
        client.send(HELLO_START)
        await w.eventually(lambda: w.hub.handshakes == 1)
        reset(client)
        await only_refused(w, "handshake_truncated")


def reset(client: Client) -> None:
    sock = client.writer.get_extra_info("socket")
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    client.abort()


@pytest.mark.threat(59)
async def test_threat_59_tls_1_2_is_refused_with_its_alert(tmp_path: Path) -> None:
    async with world(tmp_path) as w:
        caller = await w.dial(w.planner, version=SSL.TLS1_2_VERSION)
        await caller.rest()
        assert caller.end.alerts == [PROTOCOL_VERSION]
        assert not caller.reset
        caller.close()
        await only_refused(w, "protocol_version")


@pytest.mark.threat(3, 59)
async def test_threats_3_59_a_caller_without_a_certificate_is_told_so(tmp_path: Path) -> None:
    async with world(tmp_path) as w:
        caller = await w.dial(None)
        await caller.until(lambda: caller.end.done)
        caller.send(GET)  # in TLS 1.3 the client may speak before it hears of its refusal
        await caller.rest()
        assert caller.end.alerts == [CERTIFICATE_REQUIRED]
        assert not caller.reset
        assert not caller.buffer
        caller.close()
        await only_refused(w, "no_certificate")


@pytest.mark.threat(4, 59)
async def test_threats_4_59_a_caller_of_another_authority_is_told_so(tmp_path: Path) -> None:
    stranger = Ca(key="stranger", now=CLOCK.wall()).leaf("/agent/planner/1", now=CLOCK.wall())
    async with world(tmp_path) as w:
        caller = await w.dial(stranger)
        await caller.until(lambda: caller.end.done)
        for _ in range(100):
            caller.send(b"x" * 3000)
        await caller.rest()
        assert caller.end.alerts in ([UNKNOWN_CA], [51])  # decrypt_error where the key identifiers are equal
        assert not caller.reset
        caller.close()
        await only_refused(
            w, "authority_unknown" if caller.end.alerts == [UNKNOWN_CA] else "certificate_signature_invalid"
        )


async def test_a_refusal_of_ours_says_nothing_and_closes(tmp_path: Path) -> None:
    async with world(tmp_path) as w:
        # A good chain whose leaf has no SPIFFE ID: OpenSSL is content with it, we are not.
        now = CLOCK.wall()
        key = keypair("nameless")
        leaf = forge(w.ca.signer, key.public_key(), uris=(), not_before=now - 60, not_after=now + 3600)
        caller = await w.dial(Identity((leaf,), key))
        await caller.until(lambda: caller.end.done)
        await caller.rest()
        assert caller.end.alerts == []
        assert not caller.end.eof
        caller.close()
        await w.eventually(lambda: not w.hub.connections)
        (line,) = await w.logged(1, event="refused")
        await w.eventually(lambda: w.counted("refused_total", line["error"]) == 1)


async def test_a_handshake_byte_by_byte_is_as_good_as_any(tmp_path: Path) -> None:
    async with world(tmp_path) as w:
        caller = await w.dial(w.planner)
        # The ClientHello has gone; everything after it goes slowly.
        write, pieces = caller.writer.write, []
        caller.writer.write = pieces.append  # type: ignore[method-assign]
        while not caller.end.done:
            await caller.more()
        caller.end.write(GET)
        pieces.append(caller.end.to_send())
        for byte in b"".join(pieces):
            write(bytes([byte]))
            await caller.writer.drain()
        caller.writer.write = write  # type: ignore[method-assign]
        assert (await caller.response()).body == b"hello"


async def test_a_request_in_the_segment_of_the_last_handshake_flight_is_served(tmp_path: Path) -> None:
    async with world(tmp_path) as w:
        caller = await w.dial(w.planner)
        write, pieces = caller.writer.write, []
        caller.writer.write = pieces.append  # type: ignore[method-assign]
        while not caller.end.done:
            await caller.more()
        caller.end.write(GET)
        write(b"".join(pieces) + caller.end.to_send())
        caller.writer.write = write  # type: ignore[method-assign]
        assert (await caller.response()).body == b"hello"


# -- after the handshake ----------------------------------------------------------------------------------------------


async def test_a_broken_record_ends_the_connection_with_its_alert_and_cancels_the_request(tmp_path: Path) -> None:
    async with world(tmp_path) as w:
        caller = await w.caller()
        caller.send(b"POST /mcp HTTP/1.1\r\nHost: a\r\nContent-Length: 100\r\n\r\nhi")
        await w.eventually(lambda: w.upstream.connections == 1)
        caller.writer.write(bytes.fromhex("1703030020") + b"\x00" * 32)
        await caller.rest()
        assert caller.end.alerts == [20]  # bad_record_mac
        await w.eventually(lambda: w.upstream.open == 0)
        await w.logged(1, error="client_closed", direction="inbound")


async def test_close_notify_of_an_idle_caller_is_answered_with_ours(tmp_path: Path) -> None:
    async with world(tmp_path) as w:
        caller = await w.caller()
        assert (await caller.ask(GET)).body == b"hello"
        caller.end.connection.shutdown()
        caller.writer.write(caller.end.to_send())
        await caller.rest()
        assert caller.end.eof
        caller.close()
        await w.eventually(lambda: not w.hub.connections)


async def test_an_end_without_close_notify_is_an_end(tmp_path: Path) -> None:
    async with world(tmp_path) as w:
        caller = await w.caller()
        assert (await caller.ask(GET)).body == b"hello"
        caller.writer.write_eof()
        await caller.rest()
        await w.eventually(lambda: not w.hub.connections)


async def test_closing_a_connection_in_its_handshake_gives_its_place_back(tmp_path: Path) -> None:
    async with world(tmp_path) as w:
        for _ in range(5):
            client = await w.inbound_plain()
            client.send(HELLO_START)
            await w.eventually(lambda: w.hub.handshakes == 1)
            (connection,) = w.hub.connections
            connection.retire()
            await client.rest()
            await w.eventually(lambda: not w.hub.connections)
            assert w.hub.handshakes == 0
        assert w.counted("handshakes_total", "server", "closed", "false") == 5


async def test_handshakes_with_upstreams_take_no_callers_place(tmp_path: Path) -> None:
    async def mute(upstream: Upstream, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read()

    async with (
        Upstream(mute) as upstream,
        world(tmp_path, Plan(connect_port=upstream.port).with_limits(handshakes=1)) as w,
    ):
        for agent in [await w.plain() for _ in range(3)]:
            agent.send(GET)
        await w.eventually(lambda: upstream.connections == 3)
        caller = await w.caller()
        assert (await caller.ask(GET)).body == b"hello"


class Deaf(asyncio.Transport):
    """A connection whose other end reads nothing."""

    def __init__(self, stream: asyncio.Protocol) -> None:
        super().__init__()
        self.stream = stream
        self.sent = b""
        self.swallowed = 0
        self.aborted = False

    def write(self, data: bytes | bytearray | memoryview) -> None:
        self.sent += data
        if len(self.sent) - self.swallowed > HIGH_WATER:
            self.stream.pause_writing()

    def get_write_buffer_size(self) -> int:
        return len(self.sent) - self.swallowed

    def set_write_buffer_limits(self, high: int | None = None, low: int | None = None) -> None:
        assert high == HIGH_WATER

    def is_closing(self) -> bool:
        return self.aborted

    def abort(self) -> None:
        self.aborted = True


async def raw(w: World) -> tuple[TlsStream, Deaf, Ours]:
    """A caller after its handshake, with a wire of our own between the two."""
    stream = Downstream(w.inbound).stream
    assert isinstance(stream, TlsStream)
    transport = Deaf(stream)
    stream.connection_made(transport)
    peer = Ours(TlsEngine(planner_context(w.planner, bundles=w.ca.bundles)), now=CLOCK.wall())
    peer.turn()
    while not peer.open:
        assert peer.error is None
        stream.data_received(peer.to_send())
        await w.eventually(lambda: stream._job is None)
        peer.receive(transport.sent[transport.swallowed :])
        transport.swallowed = len(transport.sent)
        peer.turn()
    stream.data_received(peer.to_send())
    await w.eventually(lambda: stream.peer is not None)
    return stream, transport, peer


def update(peer: Ours, data: bytes) -> bytes:
    """A record with a key update that asks for one in return, and one with the data, if there is any."""
    key_update(peer)
    peer.engine._object.do_handshake()  # sends it
    peer.write(data)
    return peer.to_send()


async def test_a_peer_that_asks_for_answers_of_tls_itself_and_reads_none_is_cut_off(tmp_path: Path) -> None:
    async with world(tmp_path, Plan().with_limits(head_bytes=16 * 1024 * 1024)) as w:
        stream, transport, peer = await raw(w)
        for _ in range(100_000):
            stream.data_received(update(peer, b"G"))
            if transport.aborted:
                break
        assert transport.aborted
        assert UNSENT_BYTES < transport.get_write_buffer_size() < 2 * UNSENT_BYTES
        stream.connection_lost(None)


async def test_a_peer_that_sends_records_without_data_in_them_is_cut_off(tmp_path: Path) -> None:
    async with world(tmp_path) as w:
        stream, transport, peer = await raw(w)
        sent = 0
        while not transport.aborted and sent < 10 * DRY_BYTES:
            record = update(peer, b"")
            stream.data_received(record)
            sent += len(record)
            transport.swallowed = len(transport.sent)
        assert transport.aborted
        assert DRY_BYTES <= sent < 2 * DRY_BYTES
        stream.connection_lost(None)


@pytest.mark.parametrize("error", [ContextError(ContextCode.CREDENTIALS, "no context"), RuntimeError("a defect")])
async def test_a_connection_for_which_no_engine_can_be_made_is_closed_and_forgotten(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    async with world(tmp_path) as w:

        def fails() -> None:
            raise error

        monkeypatch.setattr(w.inbound.service, "engine", fails)
        client = await w.inbound_plain()
        if isinstance(error, ContextError):
            assert await client.rest() == b""
            await w.logged(1, event="refused", error=str(error.code))
        else:
            client.close()
            await w.eventually(lambda: w.internal_errors)
        await w.eventually(lambda: not w.hub.connections and not w.hub.streams)
        assert (w.hub.handshakes, w.hub.open["inbound"]) == (0, 0)
        w.internal_errors.clear()

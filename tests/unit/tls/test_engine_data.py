"""Application data through an open connection: nothing lost, nothing added, nothing out of order."""

from __future__ import annotations

import ssl

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sidecar.tls.engine import FEED_BYTES, State, TlsEngine
from sidecar.tls.failure import TlsCode, TlsError
from tests.support.tls import (
    CA,
    PLANNER,
    TOOLS,
    Foreign,
    Ours,
    connected,
    converse,
    foreign_context,
    key_update,
    planner_context,
    tools_context,
)

SIZES = [0, 1, 300, 16 * 1024, 16 * 1024 + 1, FEED_BYTES, FEED_BYTES + 1, 300_000]

CLIENT_CONTEXT, SERVER_CONTEXT = planner_context(), tools_context()


def pattern(size: int) -> bytes:
    return (bytes(range(251)) * (size // 251 + 1))[:size]


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("chunk", [None, 1000], ids=["whole", "pieces"])
def test_any_size_passes_both_ways(size: int, chunk: int | None) -> None:
    client, server = connected(CLIENT_CONTEXT, SERVER_CONTEXT)
    for sender in (client, server):
        sender.write(pattern(size))
    converse(client, server, chunk)
    assert server.plain == client.plain == pattern(size)


@pytest.mark.parametrize("size", [1, 300, 40_000])
def test_data_passes_byte_by_byte(size: int) -> None:
    client, server = connected(CLIENT_CONTEXT, SERVER_CONTEXT)
    client.write(pattern(size))
    converse(client, server, 1)
    assert server.plain == pattern(size)


@pytest.mark.needs("pyopenssl")
@pytest.mark.parametrize("size", SIZES)
def test_any_size_passes_to_and_from_a_foreign_peer(size: int) -> None:
    client = Foreign(foreign_context(PLANNER, CA.certificate), server=False)
    server = Ours(TlsEngine(SERVER_CONTEXT))
    converse(client, server)
    client.write(pattern(size))
    server.write(pattern(size))
    converse(client, server, 5000)
    assert server.plain == client.plain == pattern(size)


@given(st.lists(st.integers(0, 70_000), max_size=6), st.lists(st.integers(1, 90_000), max_size=12), st.booleans())
def test_any_writes_and_any_split_give_the_same_bytes(sizes: list[int], cuts: list[int], gathered: bool) -> None:
    """Invariant: what comes out is what went in, whether each write is fetched at once or all together."""
    client, server = connected(CLIENT_CONTEXT, SERVER_CONTEXT)
    sent, wire = b"", b""
    for size in sizes:
        data = pattern(size)[::-1]
        client.write(data)
        sent += data
        wire += b"" if gathered else client.to_send()
    wire += client.to_send()
    for cut in [*cuts, len(wire)]:
        server.receive(wire[:cut])
        server.turn()
        wire = wire[cut:]
    assert server.plain == sent


def test_several_receives_before_a_read_are_in_order() -> None:
    client, server = connected(CLIENT_CONTEXT, SERVER_CONTEXT)
    for size in (10, FEED_BYTES + 1, 10, 3 * FEED_BYTES, 10):
        client.write(pattern(size))
        server.receive(client.to_send())
    server.turn()
    assert server.plain == b"".join(map(pattern, (10, FEED_BYTES + 1, 10, 3 * FEED_BYTES, 10)))


def test_an_empty_write_is_no_record() -> None:
    client, _ = connected(CLIENT_CONTEXT, SERVER_CONTEXT)
    client.write(b"")
    assert client.to_send() == b""


def test_a_memoryview_can_be_written() -> None:
    client, server = connected(CLIENT_CONTEXT, SERVER_CONTEXT)
    client.engine.write(memoryview(b"(view)")[1:-1])
    converse(client, server)
    assert server.plain == b"view"


def test_what_openssl_takes_in_part_is_written_to_the_end(monkeypatch: pytest.MonkeyPatch) -> None:
    """It may take one record of many (SSL_MODE_ENABLE_PARTIAL_WRITE, which Python sets)."""
    client, server = connected(CLIENT_CONTEXT, SERVER_CONTEXT)
    write = client.engine._write
    monkeypatch.setattr(client.engine, "_write", lambda data: write(data[:1000]))
    client.write(pattern(FEED_BYTES))
    client.write(pattern(300))
    converse(client, server)
    assert server.plain == pattern(FEED_BYTES) + pattern(300)


def test_reading_when_nothing_is_there_is_nothing() -> None:
    client, server = connected(CLIENT_CONTEXT, SERVER_CONTEXT)
    client.write(b"x" * 100)
    wire = client.to_send()
    server.receive(wire[:50])
    assert server.engine.read() == b""
    server.receive(wire[50:])
    assert server.engine.read() == b"x" * 100
    assert server.engine.read() == b""
    assert not server.engine.ended


def test_keys_may_change_at_any_time() -> None:
    client, server = connected(CLIENT_CONTEXT, SERVER_CONTEXT)
    for sender, receiver in ((client, server), (server, client)):
        key_update(sender)
        sender.write(b"one")
        converse(client, server)
        key_update(sender)
        sender.write(b"two")
        receiver.write(b"three")
        converse(client, server)
    assert (client.plain, server.plain) == (b"threeonetwo", b"onetwothree")


class TestFailure:
    def test_data_before_a_damaged_record_is_delivered_first(self) -> None:
        client, server = connected(CLIENT_CONTEXT, SERVER_CONTEXT)
        client.write(b"good")
        wire = client.to_send()
        client.write(b"bad")
        damaged = bytearray(client.to_send())
        damaged[-1] ^= 1
        server.receive(wire + bytes(damaged))
        assert server.engine.read() == b"good"
        assert server.engine.ended
        assert server.engine.state is State.FAILED
        with pytest.raises(TlsError) as caught:
            server.engine.read()
        assert caught.value.code is TlsCode.BAD_RECORD
        assert caught.value.alert_sent
        assert isinstance(caught.value.__cause__, ssl.SSLError)
        assert server.engine.read() == b"", "it is raised once"
        # What is written from now on goes nowhere; the alert does.
        server.write(b"answer")
        client.receive(server.to_send())
        client.turn()
        assert client.code == TlsCode.ALERT_BAD_RECORD_MAC
        assert client.plain == b""

    @pytest.mark.parametrize("garbage", [b"GET / HTTP/1.1\r\n\r\n", bytes(100), b"\xff" * 100, b"\x17\3\3\xff\xff" * 9])
    @pytest.mark.parametrize("size", [0, 2 * FEED_BYTES])
    def test_garbage_in_an_open_connection_is_a_failure(self, garbage: bytes, size: int) -> None:
        client, server = connected(CLIENT_CONTEXT, SERVER_CONTEXT)
        client.write(pattern(size))
        server.receive(client.to_send() + garbage)
        server.turn()
        assert server.plain == pattern(size)
        assert server.code == TlsCode.BAD_RECORD
        assert server.engine.state is State.FAILED

    def test_after_a_failure_nothing_more_is_heard_or_said(self) -> None:
        client, server = connected(CLIENT_CONTEXT, SERVER_CONTEXT)
        server.receive(b"\x17\3\3\xff\xff" * 9)
        server.turn()
        server.to_send()
        client.write(b"more")
        server.receive(client.to_send())
        server.engine.receive_eof()
        server.engine.close_write()
        server.engine.close()
        server.write(bytes(2 * FEED_BYTES))
        assert server.engine.read() == b""
        assert server.to_send() == b""
        with pytest.raises(RuntimeError):
            server.engine.handshake(0)

    @pytest.mark.needs("pyopenssl")
    def test_an_alert_of_the_peer_ends_the_connection_by_name(self) -> None:
        """A server of another authority's domain learns of our certificate last: the client has been open for long."""
        server = Foreign(foreign_context(TOOLS, TOOLS.leaf), server=True)
        client = Ours(TlsEngine(CLIENT_CONTEXT))
        converse(client, server)
        assert server.error is not None
        assert client.code == TlsCode.ALERT_UNKNOWN_CA
        assert isinstance(client.error, TlsError)
        assert not client.error.alert_sent

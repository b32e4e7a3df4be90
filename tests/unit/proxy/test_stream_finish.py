"""Half-close of one stream: our side ends, cleanly and for good, and the peer's goes on."""

from __future__ import annotations

from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import pytest

from sidecar.clock import Clock
from sidecar.limits import Limits
from sidecar.proxy.stream import Expiry, State, Stream
from sidecar.proxy.tls_stream import TlsStream
from sidecar.telemetry.metrics import Metrics
from sidecar.tls.engine import TlsEngine
from tests.support.tls import Ours, key_update, planner_context, tools_context
from tests.support.tunnels import Wire

if TYPE_CHECKING:
    from sidecar.errors import SidecarError
    from sidecar.tls.contexts import TlsContext

SERVER, CLIENT = tools_context(), planner_context()


class User:
    """Keeps what it is told."""

    def __init__(self) -> None:
        self.data = b""
        self.told: list[Any] = []

    def connected(self) -> None:
        """Not of interest."""

    def opened(self) -> None:
        self.told.append("opened")

    def failed(self, error: SidecarError) -> None:
        self.told.append(error.code)

    def received(self, data: bytes) -> None:
        self.data += data

    def ended(self, *, clean: bool) -> None:
        self.told.append(("ended", clean))

    def lost(self) -> None:
        self.told.append("lost")

    def writable(self, *, yes: bool) -> None:
        self.told.append(("writable", yes))

    def expired(self, which: Expiry) -> None:
        self.told.append(which)


def hub() -> Any:
    parts: dict[str, Any] = {"handshaking": {}, "streams": set(), "handshakes": 0}
    return SimpleNamespace(clock=Clock(), limits=Limits(), metrics=Metrics(), **parts)


def plain() -> tuple[Stream, User, Wire]:
    user = User()
    stream = Stream(user, hub())
    wire = Wire(stream)
    stream.connection_made(wire)
    return stream, user, wire


def over_tls() -> tuple[TlsStream, User, Wire, Ours]:
    """An open server's stream, and the client at its other end."""

    def make() -> tuple[TlsContext, TlsEngine]:
        return SERVER, TlsEngine(SERVER)

    user = User()
    stream = TlsStream(user, hub(), make, 10)
    wire, client = Wire(stream), Ours(TlsEngine(CLIENT))
    stream.connection_made(wire)
    client.turn()
    while data := client.to_send():
        stream.data_received(data)
        client.receive(wire.drain(100_000))
        client.turn()
    assert (stream.state, client.open) == (State.OPEN, True)
    return stream, user, wire, client


def test_plaintext_ends_with_a_fin_behind_what_was_gathered() -> None:
    stream, user, wire = plain()
    stream.send(b"gathered ")
    stream.send(b"bytes")
    stream.finish()
    assert (bytes(wire.buffer), wire.eof, wire.closing) == (b"gathered bytes", True, False)
    assert not stream.closed
    stream.data_received(b"still heard")
    assert user.data == b"still heard"
    stream.eof_received()
    assert user.told == ["opened", ("ended", True)]
    stream.close()
    assert wire.closing


def test_tls_ends_with_close_notify_and_no_fin() -> None:
    stream, user, wire, client = over_tls()
    stream.send(b"last words")
    stream.finish()
    client.receive(wire.drain(100_000))
    client.turn()
    assert (client.plain, client.engine.eof) == (b"last words", True)
    assert not wire.eof
    client.write(b"still heard")
    stream.data_received(client.to_send())
    assert user.data == b"still heard"
    client.engine.close_write()
    stream.data_received(client.to_send())
    assert user.told == ["opened", ("ended", True)]
    stream.close()
    assert wire.eof
    assert not wire.buffer, "it was said once"


@pytest.mark.parametrize("times", [2, 3])
def test_it_ends_once(times: int) -> None:
    stream, _, wire = plain()
    tls, _, tls_wire, _ = over_tls()
    for _ in range(times):
        stream.finish()
        tls.finish()
    assert wire.eof
    assert 0 < len(tls_wire.buffer) < 40, "one alert's record"


def test_no_record_follows_close_notify_whatever_the_peer_asks_for() -> None:
    """RFC 8446 4.6.3 wants an answer to a key update, 6.1 nothing behind close_notify."""
    stream, user, wire, client = over_tls()
    stream.finish()
    wire.drain(100_000)
    for _ in range(3):
        key_update(client)
        client.write(b"x")
        stream.data_received(client.to_send())
    assert user.data == b"xxx"
    assert not wire.buffer


def test_a_stream_without_a_connection_has_nothing_to_end_or_write() -> None:
    stream, _, wire = plain()
    stream.abort()
    stream.finish()
    stream.write(b"x")
    wire.settle()
    stream.finish()
    stream.write(b"x")
    assert not wire.eof
    assert not wire.buffer


def test_writing_at_once_is_written_at_once() -> None:
    stream, _, wire = plain()
    stream.write(b"a")
    assert (bytes(wire.buffer), stream.written) == (b"a", 1)
    tls, _, tls_wire, client = over_tls()
    tls.write(b"a" * 100_000)
    client.receive(tls_wire.drain(200_000))
    client.turn()
    assert client.plain == b"a" * 100_000


def test_a_peer_that_is_reset_while_we_end_is_let_go(monkeypatch: pytest.MonkeyPatch) -> None:
    """The kernel knows before the loop does."""
    stream, _, wire = plain()

    def fails() -> None:
        raise OSError(107, "not connected")

    monkeypatch.setattr(wire, "write_eof", fails)
    stream.finish()
    assert stream.state is State.CLOSED
    assert wire.aborted

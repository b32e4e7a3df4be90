"""One connection by itself: every end it can come to, on both event loops."""

from __future__ import annotations

import asyncio
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any

import pytest

from sidecar.clock import Clock
from sidecar.proxy.stream import LINGER_BYTES, NEVER, Expiry, State, Stream, format_address
from sidecar.tasks import spawn
from tests.support.clock import Shifted
from tests.support.pair import LOOPBACK, Plan, World, world
from tests.support.wire import Plain

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

    from sidecar.errors import SidecarError


class User:
    """Keeps what it is told."""

    def __init__(self) -> None:
        self.told: list[Any] = []
        self.data = b""

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


@asynccontextmanager
async def connected(w: World) -> AsyncIterator[tuple[Stream, User, Plain]]:
    """A stream and the client at its other end."""
    streams: list[Stream] = []

    def accept() -> Stream:
        streams.append(Stream(User(), w.hub))
        return streams[-1]

    server = await w.hub.loop.create_server(accept, LOOPBACK, 0)
    client = await Plain.connect(server.sockets[0].getsockname()[1])
    await w.eventually(lambda: bool(streams) and streams[0].state is State.OPEN)
    stream, user = streams[0], streams[0].user
    assert isinstance(user, User)
    try:
        yield stream, user, client
    finally:
        client.abort()
        stream.abort()
        server.close()
        await w.eventually(lambda: user.told.count("lost") == 1)
        assert stream not in w.hub.streams


async def test_what_is_sent_leaves_with_the_flush_in_one_piece(tmp_path: Path) -> None:
    async with world(tmp_path) as w, connected(w) as (stream, _, client):
        for piece in (b"a", b"b", b"c"):
            stream.send(piece)
        assert stream.written == 0
        stream.flush()
        stream.flush()
        assert stream.written == 3
        await client.until(lambda: client.buffer == b"abc")
        assert stream.delivered == 3


@pytest.mark.parametrize("end", ["close", "cut", "abort", "reset"])
async def test_after_its_end_a_stream_takes_every_call_and_does_nothing(tmp_path: Path, end: str) -> None:
    async with world(tmp_path) as w, connected(w) as (stream, user, client):
        getattr(stream, end)()
        assert stream.closed
        for _ in range(2):
            stream.send(b"x")
            stream.flush()
            stream.pause_reading()
            stream.resume_reading()
            stream.close()
            stream.cut()
            stream.expire(NEVER - 1)
            assert stream.unsent == 0
            stream.abort()
            stream.reset()
            await client.rest()
            client.abort()
            await w.eventually(lambda: "lost" in user.told)
        assert client.buffer == b""
        assert client.reset is (end == "reset")
        assert stream.fileno == -1
        assert stream.remote.startswith("127.0.0.1:")
        assert user.told.count("lost") == 1


async def test_a_stream_that_was_given_up_before_it_was_connected_never_opens(tmp_path: Path) -> None:
    async with world(tmp_path) as w:
        user = User()
        stream = Stream(user, w.hub)
        stream.close()
        assert stream.closed
        await w.hub.loop.create_connection(lambda: stream, LOOPBACK, w.upstream.port)
        await w.eventually(lambda: user.told == ["lost"])
        assert stream not in w.hub.streams


async def test_one_whose_dial_was_cancelled_as_the_connection_came_leaves_the_books(tmp_path: Path) -> None:
    """The loop has closed the socket already, and uvloop never says that the connection is lost."""
    async with world(tmp_path) as w:
        user = User()
        stream = Stream(user, w.hub)

        async def dial() -> None:
            await w.hub.loop.create_connection(lambda: stream, LOOPBACK, w.upstream.port)

        def cancel() -> None:
            assert stream.fileno >= 0  # looked at, as whoever polls it does
            dialling.cancel()

        dialling = spawn(dial(), name="dial")
        user.connected = cancel  # type: ignore[method-assign]
        with pytest.raises(asyncio.CancelledError):
            await dialling
        stream.disown()
        await w.eventually(lambda: "lost" in user.told)
        assert stream not in w.hub.streams
        assert user.told.count("lost") == 1


async def test_closing_while_opening_is_an_abort(tmp_path: Path) -> None:
    async with world(tmp_path) as w:
        user = User()
        stream = Stream(user, w.hub)
        stream._begin = lambda: None  # type: ignore[method-assign]  # as if there were a handshake to make
        await w.hub.loop.create_connection(lambda: stream, LOOPBACK, w.upstream.port)
        assert stream.state is State.OPENING
        stream.cut()
        assert stream.state is State.OPENING
        stream.close()
        await w.eventually(lambda: user.told == ["lost"])


async def test_a_peer_that_has_ended_is_not_waited_for(tmp_path: Path) -> None:
    async with world(tmp_path, Plan(clock=Clock(monotonic=lambda: 0.0))) as w, connected(w) as (stream, user, client):
        client.writer.write_eof()
        await w.eventually(lambda: ("ended", True) in user.told)
        stream.send(b"x" * 1_000_000)
        stream.close()
        assert stream.state is State.LINGERING
        assert len(await client.rest()) == 1_000_000
        await w.eventually(lambda: "lost" in user.told)


async def test_what_a_lingering_stream_receives_is_thrown_away_up_to_its_bound(tmp_path: Path) -> None:
    # No time passes: it would end by that too.
    async with world(tmp_path, Plan(clock=Clock(monotonic=lambda: 0.0))) as w, connected(w) as (stream, user, client):
        stream.pause_reading()
        stream.close()
        assert not stream.reading_paused
        client.send(b"x" * (LINGER_BYTES + 1))
        await w.eventually(lambda: "lost" in user.told)
        assert user.data == b""


async def test_a_lingering_stream_ends_when_the_peer_does(tmp_path: Path) -> None:
    async with world(tmp_path) as w, connected(w) as (stream, user, client):
        stream.close()
        client.writer.write_eof()
        await w.eventually(lambda: "lost" in user.told)


async def test_who_still_reads_a_long_answer_gets_the_time_of_a_slow_reader_and_no_more(tmp_path: Path) -> None:
    shifted = Shifted()
    async with world(tmp_path, Plan(clock=shifted.clock)) as w, connected(w) as (stream, user, client):
        stall = w.hub.limits.stall_timeout
        stream.send(b"x" * 30_000_000)
        stream.close()
        assert stream.unsent > 0
        for _ in range(3):
            before = stream.unsent
            await client.until(lambda b=before: stream.unsent < b - stall * 240)  # type: ignore[misc]
            shifted.monotonic += stall + 1
            assert stream.unsent
            w.hub._sweep()
            assert stream.state is State.LINGERING
        # Now it takes nothing more.
        client.reader._transport.pause_reading()  # type: ignore[attr-defined]
        await w.eventually(lambda: stream.unsent == stream.unsent)
        for _ in range(2):
            shifted.monotonic += stall + 1
            w.hub._sweep()
        await w.eventually(lambda: "lost" in user.told)


def test_addresses_are_written_as_people_write_them() -> None:
    assert format_address(("127.0.0.1", 80)) == "127.0.0.1:80"
    assert format_address(("::1", 80, 0, 0)) == "[::1]:80"
    assert format_address("/run/x.sock") == "unix:/run/x.sock"
    assert format_address("") == format_address(None) == ""

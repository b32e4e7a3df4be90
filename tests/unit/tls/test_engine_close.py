"""How connections end: in order, by halves, and cut off."""

from __future__ import annotations

import ssl

import pytest

from sidecar.tls.engine import State, TlsEngine
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
    planner_context,
    tools_context,
)

DATA = bytes(range(250)) * 800  # 200 kB: several portions, many records
CLIENT_CONTEXT, SERVER_CONTEXT = planner_context(), tools_context()

chunks = pytest.mark.parametrize("chunk", [None, 1000, 17], ids=["whole", "pieces", "shreds"])
foreign = pytest.mark.needs("pyopenssl")


def pair(role: str) -> tuple[Ours, Ours]:
    """Two open ends; the first is the one of that role."""
    client, server = connected(CLIENT_CONTEXT, SERVER_CONTEXT)
    return (client, server) if role == "client" else (server, client)


both = pytest.mark.parametrize("role", ["client", "server"])


@both
@chunks
def test_one_half_closed_the_other_goes_on(role: str, chunk: int | None) -> None:
    closer, other = pair(role)
    closer.write(b"request")
    closer.engine.close_write()
    converse(closer, other, chunk)
    assert (other.plain, other.engine.eof, other.engine.ended) == (b"request", True, True)
    assert (closer.engine.state, other.engine.state) == (State.WRITE_CLOSED, State.READ_CLOSED)
    for _ in range(2):
        other.write(DATA)
        converse(closer, other, chunk)
    assert closer.plain == DATA * 2
    assert not closer.engine.ended
    other.engine.close_write()
    converse(closer, other, chunk)
    assert (closer.engine.eof, closer.engine.truncated) == (True, False)
    assert closer.engine.state is other.engine.state is State.CLOSED
    assert closer.error is other.error is None


@foreign
@both
@chunks
def test_half_close_with_a_foreign_peer_in_both_directions(role: str, chunk: int | None) -> None:
    ours = Ours(TlsEngine(CLIENT_CONTEXT if role == "client" else SERVER_CONTEXT))
    theirs = Foreign(foreign_context(TOOLS if role == "client" else PLANNER, CA.certificate), server=role == "client")
    converse(*((ours, theirs) if role == "client" else (theirs, ours)))
    # They end first; we answer at length, then end too.
    theirs.write(b"request")
    theirs.connection.shutdown()
    converse(ours, theirs, chunk)
    assert (ours.plain, ours.engine.eof) == (b"request", True)
    ours.write(DATA)
    ours.engine.close_write()
    converse(ours, theirs, chunk)
    assert theirs.plain == DATA
    assert theirs.eof
    assert ours.engine.state is State.CLOSED


@foreign
@both
@chunks
def test_we_end_first_and_a_foreign_peer_answers_at_length(role: str, chunk: int | None) -> None:
    ours = Ours(TlsEngine(CLIENT_CONTEXT if role == "client" else SERVER_CONTEXT))
    theirs = Foreign(foreign_context(TOOLS if role == "client" else PLANNER, CA.certificate), server=role == "client")
    converse(*((ours, theirs) if role == "client" else (theirs, ours)))
    ours.write(b"request")
    ours.engine.close_write()
    converse(ours, theirs, chunk)
    assert (theirs.plain, theirs.eof) == (b"request", True)
    theirs.write(DATA)
    theirs.connection.shutdown()
    converse(ours, theirs, chunk)
    assert ours.plain == DATA
    assert (ours.engine.eof, ours.engine.state) == (True, State.CLOSED)


@both
@pytest.mark.parametrize("part", [0, 1, 10, 40_000, None], ids=["none", "one", "ten", "records", "all"])
def test_what_lies_unread_when_we_close_is_not_lost(role: str, part: int | None) -> None:
    """``unwrap`` would throw it away and kill the connection."""
    closer, other = pair(role)
    other.write(DATA)
    wire = other.to_send()
    cut = len(wire) if part is None else part
    closer.receive(wire[:cut])
    closer.engine.close_write()
    closer.receive(wire[cut:])
    closer.turn()
    assert closer.plain == DATA
    converse(closer, other)
    assert other.engine.eof
    other.write(b"more")
    other.engine.close_write()
    converse(closer, other)
    assert closer.plain == DATA + b"more"
    assert closer.engine.eof
    assert closer.error is other.error is None


def test_why_unwrap_needs_an_empty_connection() -> None:
    """The behaviour of OpenSSL and Python that the engine works around; when this fails, that can be simpler."""
    client, server = connected(CLIENT_CONTEXT, SERVER_CONTEXT)
    server.write(b"data")
    client.receive(server.to_send())
    with pytest.raises(ssl.SSLError) as caught:
        client.engine._object.unwrap()
    assert caught.value.reason == "APPLICATION_DATA_AFTER_CLOSE_NOTIFY"
    with pytest.raises(ssl.SSLError):
        client.engine._object.read(100)


@both
def test_closing_twice_is_closing_once(role: str) -> None:
    closer, other = pair(role)
    closer.engine.close_write()
    first = closer.to_send()
    assert first
    closer.engine.close_write()
    closer.engine.close_write()
    assert closer.to_send() == b""
    other.receive(first)
    other.turn()
    assert other.engine.eof


@both
def test_after_our_close_writing_is_a_mistake_of_ours(role: str) -> None:
    closer, _ = pair(role)
    closer.engine.close_write()
    with pytest.raises(RuntimeError):
        closer.write(b"more")


@both
def test_close_says_goodbye_and_hears_nothing_more(role: str) -> None:
    closer, other = pair(role)
    other.write(DATA)
    closer.receive(other.to_send())
    closer.write(b"bye")
    closer.engine.close()
    assert closer.engine.state is State.CLOSED
    assert closer.engine.read() == b""
    converse(closer, other)
    assert (other.plain, other.engine.eof) == (b"bye", True)
    other.write(b"late")
    closer.receive(other.to_send())
    assert closer.engine.read() == b""
    assert (closer.engine.eof, closer.engine.truncated) == (False, False)
    closer.engine.close()
    assert closer.to_send() == b""


@both
def test_close_after_the_peers_end(role: str) -> None:
    closer, other = pair(role)
    other.engine.close_write()
    converse(closer, other)
    closer.engine.close()
    converse(closer, other)
    assert closer.engine.state is other.engine.state is State.CLOSED
    assert closer.engine.eof
    assert other.engine.eof


@both
def test_an_end_without_close_notify_is_a_truncation(role: str) -> None:
    cut, other = pair(role)
    other.write(b"half a body")
    wire = other.to_send()
    cut.receive(wire)
    cut.receive_eof()
    assert cut.plain == b"half a body"
    assert (cut.engine.truncated, cut.engine.eof, cut.engine.ended) == (True, False, True)
    assert cut.engine.state is State.READ_CLOSED
    cut.engine.close_write()
    assert cut.engine.state is State.CLOSED


@both
def test_an_end_inside_a_record_is_a_truncation(role: str) -> None:
    cut, other = pair(role)
    other.write(b"half a body")
    cut.receive(other.to_send()[:-1])
    cut.receive_eof()
    assert cut.plain == b""
    assert cut.engine.truncated


@both
def test_an_end_after_close_notify_is_none(role: str) -> None:
    closer, other = pair(role)
    other.engine.close_write()
    closer.receive(other.to_send())
    closer.receive_eof()
    assert (closer.engine.eof, closer.engine.truncated) == (True, False)


@both
def test_an_end_after_our_own_close_is_a_truncation_too(role: str) -> None:
    closer, _ = pair(role)
    closer.engine.close_write()
    closer.receive_eof()
    assert (closer.engine.state, closer.engine.truncated) == (State.CLOSED, True)


@both
def test_what_follows_close_notify_is_ignored(role: str) -> None:
    closer, other = pair(role)
    other.write(b"last")
    other.engine.close_write()
    closer.receive(other.to_send() + b"garbage")
    closer.turn()
    closer.receive(b"more garbage")
    closer.turn()
    assert closer.plain == b"last"
    assert closer.error is None
    assert closer.engine.eof


@both
def test_data_and_close_notify_in_large_portions(role: str) -> None:
    closer, other = pair(role)
    other.write(DATA)
    other.engine.close_write()
    closer.receive(other.to_send())
    assert closer.engine.read() == DATA
    assert closer.engine.eof
    assert closer.engine.read() == b""


@both
def test_garbage_that_lies_unread_when_we_close_is_reported_by_read(role: str) -> None:
    closer, other = pair(role)
    other.write(b"good")
    closer.receive(other.to_send() + b"\x17\3\3\xff\xff" * 9)
    closer.engine.close_write()
    assert closer.engine.state is State.FAILED
    assert closer.engine.read() == b"good"
    with pytest.raises(TlsError) as caught:
        closer.engine.read()
    assert caught.value.code is TlsCode.BAD_RECORD


@both
def test_an_unwrap_that_fails_is_reported_by_read(role: str) -> None:
    class Failing:
        def read(self, _size: int) -> bytes:
            raise ssl.SSLWantReadError

        def unwrap(self) -> None:
            raise ssl.SSLError(1, "something")

    closer, _ = pair(role)
    closer.engine._object = Failing()  # type: ignore[assignment]  # as much of an SSLObject as is looked at
    closer.engine.close_write()
    assert closer.engine.state is State.FAILED
    with pytest.raises(TlsError) as caught:
        closer.engine.read()
    assert caught.value.code is TlsCode.PROTOCOL_ERROR


@both
@pytest.mark.parametrize("ours_first", [True, False])
def test_garbage_after_one_half_has_ended_is_a_failure_or_is_ignored(role: str, ours_first: bool) -> None:
    """After our own end we still listen, and so can be hurt; after the peer's end we no longer do."""
    closer, other = pair(role)
    (closer if ours_first else other).engine.close_write()
    converse(closer, other)
    closer.receive(b"\x17\3\3\xff\xff" * 9)
    closer.turn()
    if ours_first:
        assert closer.code == TlsCode.BAD_RECORD
        assert closer.engine.state is State.FAILED
    else:
        assert closer.error is None
        assert closer.engine.state is State.READ_CLOSED

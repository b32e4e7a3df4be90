"""One tunnel on wires that are moved by hand: every end in every order, and nothing lost or made up on the way."""

from __future__ import annotations

import asyncio
import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sidecar.proxy.failure import ProxyCode
from sidecar.proxy.stream import HIGH_WATER
from sidecar.proxy.tunnel import UpLeg
from tests.support.tunnels import Bench, Peer

DATA = bytes(range(256)) * 700  # about 180 kB: many records, several times the high-water mark

directions = pytest.mark.parametrize("direction", ["inbound", "outbound"])
chunks = pytest.mark.parametrize("chunk", [1_000_000, 1000, 1], ids=["whole", "pieces", "bytes"])
sides = pytest.mark.parametrize("side", [0, 1], ids=["down", "up"])


def closed(bench: Bench) -> bool:
    """Says whether nothing is left of a tunnel."""
    wires = [peer.wire for peer in bench.peers if peer.wire is not None]
    return bench.over == 1 and not bench.hub.streams and all(wire.lost for wire in wires)


async def let_go(bench: Bench) -> None:
    """The peers close their connections, as they do when all is said; a lingering close waits for that."""
    for peer in bench.peers:
        if hasattr(peer, "close"):
            peer.close()
    await bench.pump()


@directions
@chunks
async def test_each_side_receives_what_the_other_sent_and_its_end(direction: str, chunk: int) -> None:
    bench = await Bench(direction).stands()
    size = 2000 if chunk == 1 else len(DATA)
    bench.down.send(b"request " + DATA[:size])
    bench.up.send(b"answer " + DATA[:size])
    await bench.pump(chunk)
    assert bench.up.received == b"request " + DATA[:size]
    assert bench.down.received == b"answer " + DATA[:size]
    bench.down.finish()
    await bench.pump(chunk)
    assert (bench.up.seen, bench.down.seen) == ("clean", "open")
    bench.up.send(b" more")
    await bench.pump(chunk)
    assert bench.down.received.endswith(b" more")
    bench.up.finish()
    await bench.pump(chunk)
    assert (bench.up.seen, bench.down.seen) == ("clean", "clean")
    await let_go(bench)
    assert closed(bench)
    assert bench.tunnel.error is None
    (line,) = bench.records
    assert (line.bytes_received, line.bytes_sent) == (size + 8, size + 12)
    assert bench.told == ["settled"]
    assert bench.dialler.size == 0


@directions
@sides
async def test_the_first_to_end_may_be_either(direction: str, side: int) -> None:
    bench = await Bench(direction).stands()
    first, second = bench.peers[side], bench.peers[1 - side]
    first.send(b"bye")
    first.finish()
    await bench.pump()
    assert (second.received, second.seen, first.seen) == (b"bye", "clean", "open")
    assert second.wire is not None
    assert second.wire.eof is not hasattr(second, "end"), "a FIN in plaintext, close_notify alone over TLS"
    second.send(DATA)
    second.finish()
    await bench.pump()
    assert (first.received, first.seen) == (DATA, "clean")
    await let_go(bench)
    assert closed(bench)
    assert bench.tunnel.error is None


@directions
async def test_both_may_end_at_once(direction: str) -> None:
    bench = await Bench(direction).stands()
    for peer in bench.peers:
        peer.send(DATA)
        peer.finish()
    await bench.pump()
    assert [(peer.received, peer.seen) for peer in bench.peers] == [(DATA, "clean")] * 2
    await let_go(bench)
    assert closed(bench)
    assert bench.tunnel.error is None


@directions
@sides
async def test_an_end_that_comes_with_the_last_bytes_waits_for_a_slow_reader(direction: str, side: int) -> None:
    """Everything lies in our buffers when the end comes; it stays behind them."""
    bench = await Bench(direction).stands()
    sender, reader = bench.peers[side], bench.peers[1 - side]
    sender.send(DATA)
    sender.finish()
    while sender.push(1_000_000):
        await bench.settle()
    assert reader.received == b""
    await bench.pump(777)
    assert (reader.received, reader.seen) == (DATA, "clean")


async def test_an_end_that_the_loop_tells_twice_is_one() -> None:
    """asyncio does, after reading was paused and resumed."""
    bench = await Bench("outbound").stands()
    bench.down.finish()
    await bench.pump()
    assert bench.down.wire is not None
    bench.down.wire.protocol.eof_received()
    bench.up.send(b"answer")
    await bench.pump()
    assert (bench.down.received, bench.up.seen, bench.tunnel.error) == (b"answer", "clean", None)


# -- ends that are none -------------------------------------------------------------------------------------------------


def torn(bench: Bench, side: int) -> str:
    """The code of an end without close_notify, where there is TLS; in plaintext that is a reset."""
    over_tls = (bench.direction == "inbound") == (side == 0)
    return f"{'client' if side == 0 else 'upstream'}_{'truncated' if over_tls else 'reset'}"


@directions
@sides
@pytest.mark.parametrize("how", ["tear", "break_off"])
@pytest.mark.parametrize("other", ["talks", "has ended"])
async def test_a_broken_end_is_never_passed_on_as_a_clean_one(direction: str, side: int, how: str, other: str) -> None:
    bench = await Bench(direction).stands()
    broken, whole = bench.peers[side], bench.peers[1 - side]
    if other == "has ended":
        whole.finish()
        await bench.pump()
    broken.send(b"half of someth")
    await bench.pump()
    getattr(broken, how)()
    await bench.pump()
    assert (whole.received, whole.seen) == (b"half of someth", "broken")
    assert closed(bench)
    reset = f"{'client' if side == 0 else 'upstream'}_reset"
    assert bench.tunnel.error == (torn(bench, side) if how == "tear" else reset)
    (line,) = bench.records
    assert line.error == bench.tunnel.error


@directions
@sides
async def test_who_breaks_off_after_ending_has_still_not_taken_what_it_was_sent(direction: str, side: int) -> None:
    bench = await Bench(direction).stands()
    gone, talking = bench.peers[side], bench.peers[1 - side]
    gone.finish()
    await bench.pump()
    talking.send(DATA)
    gone.break_off()
    await bench.pump()
    assert (talking.seen, closed(bench)) == ("clean", True), "its own end had been a clean one"
    assert talking.wire is not None
    assert talking.wire.aborted
    assert not talking.wire.linger, "and so it learns by a reset that its bytes have not arrived"
    assert bench.tunnel.error == f"{'client' if side == 0 else 'upstream'}_reset"


@directions
@sides
async def test_bytes_that_are_no_tls_end_a_tunnel_with_an_alert(direction: str, side: int) -> None:
    bench = await Bench(direction).stands()
    peer, other = bench.peers[side], bench.peers[1 - side]
    if not hasattr(peer, "end"):
        peer.send(b"\x17\x03\x03\x00\x05hello")  # plaintext is whatever it is
        await bench.pump()
        assert other.received == b"\x17\x03\x03\x00\x05hello"
        return
    peer.queue += b"\x17\x03\x03\x00\x20" + b"x" * 32
    while peer.push(1_000_000):
        await bench.settle()
    assert peer.wire is not None
    peer.end.receive(peer.wire.drain(1_000_000))
    peer.end.turn()
    assert peer.end.alerts == [20], "bad_record_mac (RFC 8446 6.2)"
    await bench.pump(peers=[other])
    assert other.seen == "broken"
    assert bench.tunnel.error == torn(bench, side)


# -- before there is an upstream ------------------------------------------------------------------------------------------


@directions
async def test_what_comes_before_the_upstream_is_there_is_held_and_reading_stops(direction: str) -> None:
    bench = Bench(direction)
    await bench.pump()
    bench.down.send(b"a" * 100)
    await bench.pump()
    bench.down.send(b"b" * 100)
    await bench.pump()
    wire = bench.down.wire
    assert wire is not None
    assert not wire.reading
    assert bench.down.queue, "what came second is still on the wire"
    bench.answer()
    await bench.settle()
    await bench.pump()
    assert bench.up.received == b"a" * 100 + b"b" * 100


@pytest.mark.threat(48)
@directions
async def test_threat_48_much_that_was_held_is_taken_before_more_is_read(direction: str) -> None:
    bench = Bench(direction)
    await bench.pump()
    bench.down.send(DATA)
    bench.down.push(1_000_000)
    bench.answer()
    for _ in range(20):
        await bench.settle()
        bench.up.push(1_000_000)
        if bench.tunnel.down.other is None:
            bench.up.pull(10_000)
    assert bench.down.wire is not None
    assert not bench.down.wire.reading
    await bench.pump()
    assert bench.down.wire.reading
    assert bench.up.received == DATA


@directions
async def test_a_connection_that_is_made_when_the_tunnel_is_over_is_let_go(direction: str) -> None:
    """Between the cancelling of a dial and its end the loop may still say that there is a connection."""
    bench = Bench(direction)
    await bench.pump()
    bench.tunnel.give_up(ProxyCode.ENTRY_REMOVED)
    bench.connect(bench.up, UpLeg(bench.tunnel).stream)
    await bench.pump()
    assert bench.up.wire is not None
    assert bench.up.wire.lost
    assert bench.tunnel.down.other is None
    assert closed(bench)


@directions
async def test_a_whole_request_with_its_end_before_the_upstream_is_there(direction: str) -> None:
    bench = Bench(direction)
    await bench.pump()
    bench.down.send(DATA)
    bench.down.finish()
    await bench.pump()
    bench.answer()
    await bench.settle()
    await bench.pump()
    assert (bench.up.received, bench.up.seen) == (DATA, "clean")
    bench.up.send(b"answer")
    bench.up.finish()
    await bench.pump()
    assert (bench.down.received, bench.down.seen) == (b"answer", "clean")


@directions
async def test_an_end_alone_before_the_upstream_is_there(direction: str) -> None:
    bench = Bench(direction)
    await bench.pump()
    bench.down.finish()
    await bench.pump()
    bench.answer()
    await bench.settle()
    await bench.pump()
    assert (bench.up.received, bench.up.seen, bench.down.seen) == (b"", "clean", "open")


@directions
@pytest.mark.parametrize("how", ["tear", "break_off"])
async def test_who_breaks_off_before_the_upstream_is_there_ends_the_dial(direction: str, how: str) -> None:
    bench = Bench(direction)
    await bench.pump()
    getattr(bench.down, how)()
    await bench.pump()
    assert bench.up.wire is None
    await let_go(bench)
    assert closed(bench)
    assert bench.tunnel.error == (torn(bench, 0) if how == "tear" else "client_reset")
    bench.answer()
    await bench.pump()
    assert bench.up.wire is None


async def test_who_breaks_off_in_the_upstreams_handshake_ends_it() -> None:
    bench = Bench("outbound")
    bench.answer()
    await bench.settle()
    assert bench.up.wire is not None
    bench.down.break_off()
    await bench.pump(peers=[bench.down])
    assert bench.up.wire.aborted
    await bench.pump()
    assert closed(bench)
    assert bench.records[0].error == "client_reset"


@directions
async def test_an_upstream_that_cannot_be_reached_is_never_an_empty_answer(direction: str) -> None:
    bench = Bench(direction)
    await bench.pump()
    bench.down.send(b"request")
    await bench.pump()
    bench.refuse()
    await bench.settle()
    await bench.pump()
    assert bench.down.seen == "broken"
    assert closed(bench)
    (line,) = bench.records
    assert (str(line.event), line.error, line.decision_rule) == ("tunnel", "upstream_refused", "rule")
    assert bench.told == ["nothing listens on 192.0.2.2:1"]


@directions
async def test_a_server_that_speaks_first_is_heard(direction: str) -> None:
    bench = Bench(direction)
    await bench.pump()
    bench.up.send(b"220 hello\r\n") if direction == "inbound" else None
    await bench.stands()
    if direction == "outbound":
        bench.up.send(b"220 hello\r\n")
        await bench.pump()
    assert bench.down.received == b"220 hello\r\n"


@directions
async def test_a_denied_connection_is_closed_and_nothing_is_dialled(direction: str) -> None:
    bench = Bench(direction, denied=True)
    await bench.pump()
    bench.down.send(b"request")
    await bench.pump()
    assert bench.down.seen == "broken", "nobody shall take it for a tunnel that carried nothing"
    await let_go(bench)
    assert closed(bench)
    (line,) = bench.records
    assert (str(line.event), str(line.decision), line.decision_reason) == ("refused", "deny", "caller_not_named")
    metrics = bench.hub.metrics
    assert metrics.denied_total.labels("caller_not_named").value == 1
    assert metrics.tunnels_total.labels(direction, "tools", "deny").value == 1
    assert bench.up.wire is None


# -- what lies in between -------------------------------------------------------------------------------------------------


@pytest.mark.threat(48)
@directions
@sides
async def test_threat_48_a_slow_reader_stops_the_sender_and_not_the_other_direction(direction: str, side: int) -> None:
    bench = await Bench(direction).stands()
    sender, reader = bench.peers[side], bench.peers[1 - side]
    assert sender.wire is not None
    assert reader.wire is not None
    piece = b"x" * 16_000
    sender.send(piece * 40)
    reader.send(piece * 40)
    while sender.push(16_000):
        await bench.settle()
    assert not sender.wire.reading
    assert reader.wire.most <= HIGH_WATER + 17_000
    assert sender.queue
    while reader.push(16_000) | sender.pull(16_000):
        await bench.settle()
    assert sender.received == piece * 40, "the other direction does not notice"
    await bench.pump()
    assert reader.received == piece * 40


@directions
@sides
async def test_no_record_follows_our_close_notify(direction: str, side: int) -> None:
    """Wires refuse what is written behind a FIN, and pyOpenSSL what is sent behind close_notify."""
    bench = await Bench(direction).stands()
    first, second = bench.peers[side], bench.peers[1 - side]
    first.finish()
    await bench.pump()
    for _ in range(3):
        second.send(DATA)
        await bench.pump()
    second.finish()
    await bench.pump()
    assert first.received == DATA * 3


# -- properties -----------------------------------------------------------------------------------------------------------

MOVES = st.one_of(
    st.tuples(st.just("send"), st.integers(0, 1), st.sampled_from([1, 100, 16_384, 70_000])),
    st.tuples(st.just("finish"), st.integers(0, 1), st.just(0)),
    st.tuples(st.sampled_from(["push", "pull"]), st.integers(0, 1), st.sampled_from([1, 50, 5000, 1_000_000])),
    st.tuples(st.just("dial"), st.just(0), st.just(0)),
)
BREAKS = st.tuples(st.sampled_from(["tear", "break_off"]), st.integers(0, 1), st.just(0))


async def play(direction: str, moves: list[tuple[str, int, int]]) -> Bench:
    """Lets two peers do all this, and brings the rest to where it belongs."""
    bench = Bench(direction)
    await bench.pump()
    fill = itertools.cycle(range(256))
    for name, side, size in moves:
        peer = bench.peers[side]
        if name == "send":
            peer.send(bytes(itertools.islice(fill, size)))
        elif name == "dial":
            bench.answer()
        else:
            getattr(peer, name)(*([size] if size else []))
        await bench.settle()
    bench.answer()
    await bench.settle()
    await bench.pump()
    return bench


def honest(bench: Bench, reader: Peer, sender: Peer) -> None:
    """A clean end was said by the other side, and everything it had said before is there."""
    assert sender.sent.startswith(reader.received)
    if reader.seen == "clean":
        assert sender.finished
        assert reader.received == sender.sent


@given(st.sampled_from(["inbound", "outbound"]), st.lists(MOVES, max_size=30))
def test_each_side_receives_exactly_what_the_other_sent(direction: str, moves: list[tuple[str, int, int]]) -> None:
    """Invariant: whatever the interleaving of sends, ends and chunks, bytes and ends arrive, once and in order."""

    async def main() -> None:
        bench = await play(direction, moves)
        for reader, sender in ((bench.down, bench.up), (bench.up, bench.down)):
            assert reader.received == sender.sent
            assert reader.seen == ("clean" if sender.finished else "open")
        assert bench.tunnel.error is None
        await finally_closed(bench)

    asyncio.run(main())


@given(st.sampled_from(["inbound", "outbound"]), st.lists(st.one_of(MOVES, MOVES, BREAKS), max_size=30))
def test_a_clean_end_is_seen_only_where_the_other_end_was_clean(
    direction: str, moves: list[tuple[str, int, int]]
) -> None:
    """Invariant: resets and truncations lose bytes, and whoever loses some is never told that there were no more."""

    async def main() -> None:
        bench = await play(direction, moves)
        honest(bench, bench.down, bench.up)
        honest(bench, bench.up, bench.down)
        if any(peer.reset or peer.torn for peer in bench.peers):
            assert bench.tunnel.error is not None or (bench.down.finished and bench.up.finished)
        await finally_closed(bench)

    asyncio.run(main())


async def finally_closed(bench: Bench) -> None:
    """Nothing is left, whatever happened, once both peers are gone."""
    for peer in bench.peers:
        peer.break_off()
    await bench.pump()
    bench.tunnel.give_up(ProxyCode.DRAINING)
    await bench.pump()
    assert closed(bench)
    assert len(bench.records) == 1

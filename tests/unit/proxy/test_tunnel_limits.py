"""How long a tunnel may live: while bytes move, while its certificates are good, and no longer than a day."""

from __future__ import annotations

from dataclasses import replace

import pytest

from sidecar.limits import Limits
from sidecar.proxy.stream import NEVER
from sidecar.proxy.tunnel import LOOK_SECONDS
from tests.support.clock import Shifted
from tests.support.tls import PLANNER, TOOLS
from tests.support.tunnels import Bench

HOUR = 3600.0
LIMITS = Limits(tunnel_idle_timeout=HOUR, tunnel_lifetime=24 * HOUR)

directions = pytest.mark.parametrize("direction", ["inbound", "outbound"])


async def standing(direction: str, shifted: Shifted, **knobs: float) -> Bench:
    return await Bench(direction, clock=shifted.clock, limits=LIMITS, **knobs).stands()  # type: ignore[arg-type]


async def pass_time(bench: Bench, shifted: Shifted, seconds: float, *, steps: float = LOOK_SECONDS) -> None:
    """Lets time go by as the sweeper sees it: in steps of at most as much as it looks apart."""
    while seconds > 0:
        step = min(seconds, steps)
        shifted.monotonic += step
        shifted.wall += step
        seconds -= step
        for stream in list(bench.hub.streams):
            stream.expire(bench.clock.monotonic())
        await bench.settle()


def ended_by(bench: Bench, code: str, limit: str) -> bool:
    hits = bench.hub.metrics.limit_hits_total.labels(limit).value
    return (str(bench.tunnel.error), hits, [peer.wire.lost for peer in bench.peers if peer.wire]) == (
        code,
        1,
        [True] * 2,
    )


@directions
@pytest.mark.parametrize("side", [0, 1], ids=["down", "up"])
async def test_a_tunnel_in_which_nothing_moves_is_cut(direction: str, side: int) -> None:
    shifted = Shifted()
    bench = await standing(direction, shifted)
    for _ in range(3):
        await pass_time(bench, shifted, HOUR - LOOK_SECONDS - 1)
        assert bench.tunnel.error is None
        bench.peers[side].send(b"x")
        await bench.pump()
    await pass_time(bench, shifted, HOUR + LOOK_SECONDS)
    assert ended_by(bench, "limit_tunnel_idle_timeout", "tunnel_idle_timeout")
    await bench.pump()
    assert [peer.seen for peer in bench.peers] == ["broken", "broken"]
    (line,) = [line for line in bench.records if str(line.event) == "tunnel"]
    assert line.error == "limit_tunnel_idle_timeout"


async def test_bytes_that_leave_to_a_slow_reader_move_as_well() -> None:
    shifted = Shifted()
    bench = await standing("inbound", shifted)
    bench.up.send(b"x" * 60_000)
    while bench.up.push(60_000):
        await bench.settle()
    for _ in range(3):
        await pass_time(bench, shifted, HOUR - LOOK_SECONDS - 1)
        assert bench.down.pull(100)
    await pass_time(bench, shifted, HOUR + LOOK_SECONDS)
    assert str(bench.tunnel.error) == "limit_tunnel_idle_timeout"


@directions
async def test_a_busy_tunnel_is_cut_when_it_has_lived_for_long_enough(direction: str) -> None:
    shifted = Shifted()
    bench = await standing(direction, shifted)
    for _ in range(47):
        await pass_time(bench, shifted, HOUR / 2, steps=60)
        bench.down.send(b"x")
        await bench.pump()
    assert bench.tunnel.error is None
    await pass_time(bench, shifted, HOUR / 2)
    assert ended_by(bench, "limit_tunnel_lifetime", "tunnel_lifetime")


@directions
async def test_a_limit_that_a_reload_lowers_holds_for_open_tunnels(direction: str) -> None:
    shifted = Shifted()
    bench = await standing(direction, shifted)
    bench.hub.limits = replace(LIMITS, tunnel_lifetime=60.0)
    await pass_time(bench, shifted, 61)
    assert ended_by(bench, "limit_tunnel_lifetime", "tunnel_lifetime")


@directions
@pytest.mark.threat(12)
async def test_threat_12_a_tunnel_ends_with_the_certificate_of_its_peer(direction: str) -> None:
    """Five days before, all of it is good; the limits that would come first are far away."""
    shifted = Shifted()
    bench = await standing(direction, shifted)
    bench.hub.limits = replace(LIMITS, tunnel_lifetime=30 * 24 * HOUR, tunnel_idle_timeout=30 * 24 * HOUR)
    peer = PLANNER if direction == "inbound" else TOOLS
    left = peer.leaf.not_valid_after_utc.timestamp() - bench.clock.wall()
    await pass_time(bench, shifted, left - 60, steps=HOUR)
    assert bench.tunnel.error is None
    bench.up.send(b"to the last")
    await bench.pump()
    assert bench.down.received == b"to the last"
    await pass_time(bench, shifted, 61)
    assert ended_by(bench, "certificate_expired", "certificate_expired")


@directions
@pytest.mark.threat(12)
async def test_threat_12_a_tunnel_ends_with_our_own_certificate(direction: str) -> None:
    shifted = Shifted()
    bench = await standing(direction, shifted, not_after=shifted.clock.wall() + 120)
    await pass_time(bench, shifted, 110)
    assert bench.tunnel.error is None
    await pass_time(bench, shifted, 20)
    assert ended_by(bench, "certificate_expired", "certificate_expired")


@pytest.mark.threat(51)
async def test_threat_51_a_wall_clock_that_jumps_past_a_certificate_is_noticed() -> None:
    shifted = Shifted()
    bench = await standing("inbound", shifted, not_after=shifted.clock.wall() + HOUR)
    shifted.wall += 2 * HOUR
    await pass_time(bench, shifted, LOOK_SECONDS)
    assert ended_by(bench, "certificate_expired", "certificate_expired")


@directions
async def test_bytes_are_counted_while_a_tunnel_lives(direction: str) -> None:
    shifted = Shifted()
    bench = await standing(direction, shifted)
    bench.down.send(b"x" * 100)
    bench.up.send(b"x" * 1000)
    await bench.pump()
    family = bench.hub.metrics.tunnel_bytes_total
    flows = [family.labels(direction, "tools", flow) for flow in ("received", "sent")]
    assert [flow.value for flow in flows] == [0, 0]
    await pass_time(bench, shifted, LOOK_SECONDS)
    assert [flow.value for flow in flows] == [100, 1000]
    bench.down.send(b"x")
    await bench.pump()
    bench.tunnel.give_up(bench.tunnel.error or "x")  # type: ignore[arg-type]
    await bench.pump()
    assert [flow.value for flow in flows] == [101, 1000]


@directions
async def test_a_tunnel_that_lives_for_long_says_so_once(direction: str) -> None:
    shifted = Shifted()
    bench = await standing(direction, shifted)
    bench.up.send(b"hello")
    await bench.pump()
    shifted.monotonic += 11
    for _ in range(2):
        bench.hub._sweep()
        bench.hub.stop()
    (line,) = bench.records
    assert (str(line.event), str(line.decision), line.bytes_sent) == ("open", "allow", 5)
    assert line.duration_ms >= 11_000
    assert bench.tunnel.started == NEVER


@directions
async def test_a_finished_tunnel_has_no_limits_any_more(direction: str) -> None:
    shifted = Shifted()
    bench = await standing(direction, shifted)
    for peer in bench.peers:
        peer.finish()
    await bench.pump()
    await pass_time(bench, shifted, 25 * HOUR, steps=HOUR)
    assert bench.tunnel.error is None
    assert bench.over == 1

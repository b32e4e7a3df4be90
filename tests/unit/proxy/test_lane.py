"""Two certificates for a while: which of them a request goes with."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

from sidecar.proxy.lane import Lane, Lanes
from tests.support.eventually import soon
from tests.support.leases import CANARY, Bench, bench, down

if TYPE_CHECKING:
    from pathlib import Path


class FakePool:
    def __init__(self) -> None:
        self.retired = False

    def retire(self) -> None:
        self.retired = True


def lane(b: Bench | None, *, ends: float = 1000.0, clock: Any = None) -> Lane:
    pool: Any = FakePool()
    now = 0.0 if clock is None else clock.wall()
    return Lane(pool, None if b is None else b.lease, now + ends)


def two(tmp_path: Path, *, ends: float = 1000.0) -> tuple[Bench, Bench, Lanes]:
    """An old lane and its successor, on one clock."""
    (tmp_path / "old").mkdir()
    (tmp_path / "new").mkdir()
    old, new = bench(tmp_path / "old"), bench(tmp_path / "new")
    clock = old.shifted.clock
    return old, new, Lanes(lane(new), clock, lane(old, ends=ends, clock=clock))


async def test_without_a_predecessor_there_is_one_way(tmp_path: Path) -> None:
    b = bench(tmp_path)
    lanes = Lanes(lane(b), b.shifted.clock)
    assert lanes.choose() is lanes.present
    assert b.source.fetches == 0


async def test_requests_go_on_with_the_old_certificate_until_the_new_token_is_there(tmp_path: Path) -> None:
    old, new, lanes = two(tmp_path)
    await old.lease.obtain()
    before = lanes.before
    assert before is not None
    new.source.gate.clear()
    assert lanes.choose() is before
    await soon(lambda: new.source.fetches == 1, "the fetch for the new certificate")
    assert lanes.choose() is before
    assert not before.pool.retired
    new.source.gate.set()
    await soon(lambda: new.lease.current() is not None, "the new token")
    assert lanes.choose() is lanes.present
    assert lanes.before is None
    assert before.pool.retired
    await soon(lambda: old.source.revoked == [f"{CANARY}-1"], "the old token is revoked")
    assert (old.source.fetches, new.source.fetches) == (1, 1)


async def test_not_beyond_the_end_of_the_old_certificate(tmp_path: Path) -> None:
    old, new, lanes = two(tmp_path, ends=50.0)
    await old.lease.obtain()
    new.source.failing = down()
    assert lanes.choose() is not lanes.present
    old.later(51)
    assert lanes.choose() is lanes.present
    assert lanes.before is None


async def test_not_without_a_token_for_the_old_one(tmp_path: Path) -> None:
    old, new, lanes = two(tmp_path)
    await old.lease.obtain()
    new.source.failing = old.source.failing = down()
    assert lanes.choose() is not lanes.present
    old.later(101)
    assert lanes.choose() is lanes.present


async def test_not_over_connections_that_are_given_up(tmp_path: Path) -> None:
    old, _, lanes = two(tmp_path)
    await old.lease.obtain()
    before = lanes.before
    assert before is not None
    before.pool.retire()
    assert lanes.choose() is lanes.present


async def test_a_failing_issuer_is_not_asked_by_every_request(tmp_path: Path) -> None:
    old, new, lanes = two(tmp_path)
    await old.lease.obtain()
    new.source.failing = down()
    for _ in range(50):
        assert lanes.choose() is lanes.before
        await asyncio.sleep(0)
    assert new.source.fetches == 1


async def test_a_third_certificate_follows_whichever_serves(tmp_path: Path) -> None:
    old, new, lanes = two(tmp_path)
    await old.lease.obtain()
    assert lanes.serving() is lanes.before
    await new.lease.obtain()
    assert lanes.serving() is lanes.present


async def test_what_needs_no_token_never_waits_for_one(tmp_path: Path) -> None:
    lanes = Lanes(lane(None), bench(tmp_path).shifted.clock, lane(None))
    assert lanes.choose() is lanes.present

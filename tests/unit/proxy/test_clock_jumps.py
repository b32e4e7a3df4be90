"""The wall clock may jump, forward or back: certificates are judged by it and fail closed, no limit of time is met by it."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tests.support.clock import Shifted
from tests.support.pair import Plan, World, world

if TYPE_CHECKING:
    from pathlib import Path

    from tests.support.wire import Client

GET = b"GET /mcp HTTP/1.1\r\nHost: tools.internal\r\n\r\n"
DAY = 24 * 3600.0


async def swept(w: World) -> None:
    """Returns when all deadlines have been looked at since this was called."""
    before = w.hub._timer
    await w.eventually(lambda: w.hub._timer is not before)


async def refuses_newcomers(w: World) -> None:
    newcomer = await w.dial(w.planner)
    assert await newcomer.rest() == b""


@pytest.mark.threat(51)
async def test_threat_51_a_clock_that_is_put_back_before_a_certificate_denies_until_it_is_right_again(
    tmp_path: Path,
) -> None:
    """What was proven under the right clock is no better than what comes now."""
    shifted = Shifted()
    async with world(tmp_path, Plan(clock=shifted.clock)) as w:
        caller: Client = await w.caller()
        assert (await caller.ask(GET)).status == 200
        shifted.wall = -400 * DAY
        answer = await caller.ask(GET)
        assert answer.status == 403
        assert await caller.rest() == b"", "no other request can heal that"
        await w.logged(1, decision_reason="certificate_not_yet_valid", event="request")
        await refuses_newcomers(w)
        assert len(w.upstream.heads) == 1
        shifted.wall = 0
        again = await w.caller()
        assert (await again.ask(GET)).status == 200


@pytest.mark.threat(51)
@pytest.mark.parametrize("jump", [-20.0, 20.0], ids=["back", "forward"])
async def test_threat_51_no_limit_of_time_goes_by_the_wall_clock(tmp_path: Path, jump: float) -> None:
    """The clock jumps by more than any of these times: nobody is closed early, and nobody stays longer."""
    shifted = Shifted()
    plan = Plan(clock=shifted.clock).with_limits(idle_timeout=10.0, head_timeout=10.0)
    async with world(tmp_path, plan) as w:
        idle, in_head = await w.plain(), await w.plain()
        assert (await idle.ask(GET)).status == 200
        in_head.send(GET[:-2])
        await w.eventually(lambda: any(c._in_head for c in w.hub.connections))  # type: ignore[attr-defined]
        shifted.wall = jump
        await swept(w)
        await swept(w)
        in_head.send(GET[-2:])
        assert (await in_head.response()).status == 200
        assert (await idle.ask(GET)).status == 200
        shifted.monotonic = w.hub.limits.idle_timeout + 1
        assert await idle.rest() == b""
        await w.eventually(lambda: w.counted("limit_hits_total", "idle_timeout") >= 2)

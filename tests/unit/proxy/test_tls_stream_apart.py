"""Handshakes whose steps are made in threads, since a device with our key may take its time.

The device is held by the test: what happens meanwhile, to the loop, to others and to the one that waits, is looked at while
a thread is inside it.
"""

from __future__ import annotations

import asyncio
import time
from typing import TYPE_CHECKING

import pytest

from sidecar.identity.peer import Role
from sidecar.keys.errors import SignCode
from sidecar.proxy.hub import STEP_THREADS
from sidecar.tls.contexts import server_context
from tests.support.clock import Shifted
from tests.support.devices import HeldSigner, held
from tests.support.pair import Plan, World, settled, world

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

GET = b"GET /mcp HTTP/1.1\r\nHost: tools.internal\r\n\r\n"


@pytest.fixture
def signers() -> Iterator[list[HeldSigner]]:
    """Those that a test holds; at its end nobody is left inside."""
    made: list[HeldSigner] = []
    yield made
    for signer in made:
        signer.go.set()


def hold(w: World, signers: list[HeldSigner]) -> HeldSigner:
    """Gives the inbound listener a key that signs when the test lets it."""
    credentials, signer = held(w.tools)
    signers.append(signer)
    w.inbound.service.tls = server_context(credentials, w.ca.bundles)
    return signer


async def test_the_loop_goes_on_while_a_signature_is_made(tmp_path: Path, signers: list[HeldSigner]) -> None:
    async with world(tmp_path) as w:
        open_before = await w.caller()
        signer = hold(w, signers)
        waiting = await w.dial(w.planner)
        await w.eventually(lambda: signer.waiting == 1)
        assert (await open_before.ask(GET)).body == b"hello"
        assert w.hub.handshakes == 1
        assert not waiting.end.done
        signer.go.set()
        await waiting.until(lambda: waiting.end.done)
        assert (await waiting.ask(GET)).body == b"hello"
        assert signer.signatures == 1


async def test_many_at_once_and_each_is_served(tmp_path: Path, signers: list[HeldSigner]) -> None:
    async with world(tmp_path) as w:
        signer = hold(w, signers)
        callers = [await w.dial(w.planner) for _ in range(3 * STEP_THREADS)]
        await w.eventually(lambda: signer.waiting == STEP_THREADS)
        await w.eventually(lambda: w.hub.steps[Role.SERVER].waiting == 2 * STEP_THREADS)
        signer.go.set()
        for caller in callers:
            await caller.until(lambda caller=caller: caller.end.done)
            assert (await caller.ask(GET)).body == b"hello"
        assert signer.signatures == len(callers)
        assert w.counted("handshakes_total", "server", "ok", "false") == len(callers)


async def test_what_comes_during_a_step_is_not_lost(tmp_path: Path, signers: list[HeldSigner]) -> None:
    """A ClientHello in pieces: the rest arrives while a thread is at the first."""
    async with world(tmp_path) as w:
        signer = hold(w, signers)
        signer.go.set()
        for size in (1, 7, 100):
            caller = await w.dial(w.planner)
            await caller.until(lambda caller=caller: caller.end.done)
            piece = GET
            while piece:
                caller.send(piece[:size])
                piece = piece[size:]
                await asyncio.sleep(0)
            assert (await caller.response()).body == b"hello"


async def test_a_peer_that_goes_away_during_its_signature_is_logged_once(
    tmp_path: Path, signers: list[HeldSigner]
) -> None:
    async with world(tmp_path) as w:
        signer = hold(w, signers)
        caller = await w.dial(w.planner)
        await w.eventually(lambda: signer.waiting == 1)
        caller.abort()
        (line,) = await w.logged(1, event="refused")
        assert line["error"] == "handshake_truncated"
        assert w.hub.handshakes == 0
        assert signer.waiting == 1
        signer.go.set()
        await w.eventually(lambda: signer.signatures == 1)
        await settled(lambda: len(w.log()))
        await w.logged(1, event="refused")
        assert (await (await w.caller()).ask(GET)).body == b"hello"


async def test_who_has_gone_costs_the_device_nothing(tmp_path: Path, signers: list[HeldSigner]) -> None:
    async with world(tmp_path) as w:
        signer = hold(w, signers)
        callers = [await w.dial(w.planner) for _ in range(2 * STEP_THREADS)]
        await w.eventually(lambda: signer.waiting == STEP_THREADS and w.hub.handshakes == len(callers))
        for caller in callers:
            caller.abort()
        await w.eventually(lambda: w.hub.handshakes == 0)
        signer.go.set()
        await w.eventually(lambda: signer.signatures == STEP_THREADS and w.hub.steps[Role.SERVER].waiting == 0)
        good = await w.caller()
        assert (await good.ask(GET)).body == b"hello"
        assert signer.signatures == STEP_THREADS + 1


async def test_a_signature_that_takes_too_long_is_given_up(tmp_path: Path, signers: list[HeldSigner]) -> None:
    async with world(tmp_path, Plan().with_limits(sign_timeout=0.2)) as w:
        signer = hold(w, signers)
        caller = await w.dial(w.planner)
        await caller.rest()
        (line,) = await w.logged(1, event="refused")
        assert line["error"] == "signer_timeout"
        assert w.counted("handshakes_total", "server", "signer_timeout", "false") == 1
        assert w.counted("limit_hits_total", "sign_timeout") == 1
        assert signer.waiting == 1  # its thread is lost to the device until that answers
        signer.go.set()
        assert (await (await w.caller()).ask(GET)).body == b"hello"
        await w.logged(1, event="refused")


async def test_the_time_of_the_whole_handshake_holds_too(tmp_path: Path, signers: list[HeldSigner]) -> None:
    shifted = Shifted()
    async with world(tmp_path, Plan(clock=shifted.clock)) as w:
        signer = hold(w, signers)
        caller = await w.dial(w.planner)
        await w.eventually(lambda: signer.waiting == 1)
        shifted.monotonic += w.hub.limits.handshake_timeout + 0.1
        await caller.rest()
        (line,) = await w.logged(1, event="refused")
        assert line["error"] == "limit_handshake_timeout"
        signer.go.set()


async def test_a_full_queue_refuses_whoever_has_cost_nothing_yet(tmp_path: Path, signers: list[HeldSigner]) -> None:
    async with world(tmp_path, Plan().with_limits(handshake_queue=2)) as w:
        signer = hold(w, signers)
        kept = []
        for busy in range(1, STEP_THREADS + 1):  # one by one: what no thread has taken yet is in the queue too
            kept.append(await w.dial(w.planner))
            await w.eventually(lambda busy=busy: signer.waiting == busy)
        kept += [await w.dial(w.planner) for _ in range(2)]
        await w.eventually(lambda: w.hub.steps[Role.SERVER].waiting == 2)
        refused = await w.dial(w.planner)
        await refused.rest()
        (line,) = await w.logged(1, event="refused")
        assert line["error"] == "limit_handshake_queue"
        assert w.counted("limit_hits_total", "handshake_queue") == 1
        signer.go.set()
        for caller in kept:
            await caller.until(lambda caller=caller: caller.end.done)
            assert (await caller.ask(GET)).body == b"hello"


@pytest.mark.parametrize("code", [SignCode.UNAVAILABLE, SignCode.AUTH, SignCode.FAILED])
async def test_a_signature_that_fails_is_told_by_its_cause(
    tmp_path: Path, signers: list[HeldSigner], code: SignCode
) -> None:
    async with world(tmp_path) as w:
        signer = hold(w, signers)
        signer.go.set()
        signer.fail = code
        caller = await w.dial(w.planner)
        await caller.rest()
        assert caller.end.alerts  # internal_error: that is all a caller is told
        (line,) = await w.logged(1, event="refused")
        assert line["error"] == str(code)
        signer.fail = None
        assert (await (await w.caller()).ask(GET)).body == b"hello"


async def test_neither_direction_waits_for_the_other(tmp_path: Path, signers: list[HeldSigner]) -> None:
    """Callers that flood us must not keep the agent from its upstream."""
    async with world(tmp_path) as w:
        signer = hold(w, signers)
        for _ in range(2 * STEP_THREADS):
            await w.dial(w.planner)
        await w.eventually(lambda: signer.waiting == STEP_THREADS)
        assert w.hub.steps[Role.CLIENT].submit
        assert w.hub.steps[Role.CLIENT] is not w.hub.steps[Role.SERVER]
        assert w.hub.steps[Role.CLIENT].waiting == 0
        signer.go.set()


async def test_a_slow_device_and_eight_callers_leave_no_gap_in_the_loop(
    tmp_path: Path, signers: list[HeldSigner]
) -> None:
    """The loop is looked at the whole time: its worst gap stays far below what one signature takes."""
    signature = 0.4
    async with world(tmp_path) as w:
        signer = hold(w, signers)
        signer.go.wait = lambda _: time.sleep(signature)  # type: ignore[method-assign, assignment]  # a device's time
        gaps = [0.0]

        async def look() -> None:
            last = time.monotonic()
            while True:
                await asyncio.sleep(0.001)
                now = time.monotonic()
                gaps.append(now - last)
                last = now

        looking = asyncio.get_running_loop().create_task(look())
        callers = [await w.dial(w.planner) for _ in range(8)]
        for caller in callers:
            await caller.until(lambda caller=caller: caller.end.done)
        looking.cancel()
        assert signer.signatures == 8
        assert max(gaps) < signature / 2

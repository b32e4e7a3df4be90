"""One entry's token: fetched when it is needed, renewed while it serves, and never used beyond its life."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import pytest

from sidecar.keys.errors import SignCode, SignError
from sidecar.tokens.codes import SourceCode, SourceError
from sidecar.tokens.credential import Field
from sidecar.tokens.lease import LOOK_SECONDS, PAUSES, REFRESH, REJECTION_SECONDS, UNKEPT, UNKEPT_AT_ONCE
from sidecar.tokens.settings import Keeping
from sidecar.tokens.token import Binding, Token
from tests.support.eventually import soon
from tests.support.leases import CANARY, all_of, bench, down, waiter

if TYPE_CHECKING:
    from pathlib import Path


async def test_nothing_is_fetched_before_it_is_asked_for(tmp_path: Path) -> None:
    b = bench(tmp_path)
    assert b.lease.current() is None
    await asyncio.sleep(0)
    assert b.source.fetches == 0
    credential = await b.lease.obtain()
    assert credential.line == f"Authorization: Bearer {CANARY}-1\r\n".encode()
    assert b.lease.current() is credential
    assert b.source.fetches == 1
    assert b.refreshed("ok") == 1


async def test_a_hundred_that_wait_make_one_fetch(tmp_path: Path) -> None:
    b = bench(tmp_path)
    b.source.gate.clear()
    waiting = [waiter(b.lease.obtain()) for _ in range(100)]
    await soon(lambda: b.source.fetches, "the fetch")
    b.source.gate.set()
    got = await all_of(waiting)
    assert b.source.fetches == 1
    assert all(one is got[0] for one in got)


async def test_one_that_leaves_takes_the_token_from_nobody(tmp_path: Path) -> None:
    b = bench(tmp_path)
    b.source.gate.clear()
    leaving, staying = (waiter(b.lease.obtain()) for _ in range(2))
    await soon(lambda: b.source.fetches, "the fetch")
    leaving.cancel()
    b.source.gate.set()
    (credential,) = await all_of([staying])
    assert credential.token.value == f"{CANARY}-1"


async def test_it_is_renewed_at_a_random_point_and_the_old_one_serves_meanwhile(tmp_path: Path) -> None:
    b = bench(tmp_path, lifetime=1000.0, keeping=Keeping(max_lifetime=1000.0))
    first = await b.lease.obtain()
    assert first.obtained + 1000 * REFRESH[0] <= first.refresh <= first.obtained + 1000 * REFRESH[1]
    b.later(1000 * REFRESH[0] - 1)
    assert b.lease.current() is first
    b.source.gate.clear()
    b.later(1000 * (REFRESH[1] - REFRESH[0]) + 1)
    assert b.lease.current() is first
    await soon(lambda: b.source.fetches == 2, "the renewal")
    assert b.lease.current() is first  # nobody waits
    assert await b.lease.obtain() is first
    b.source.gate.set()
    await soon(lambda: b.lease.current() is not first, "the new token")
    assert b.source.values[-1] == f"{CANARY}-2"
    assert b.source.fetches == 2


async def test_renewals_of_a_fleet_are_spread(tmp_path: Path) -> None:
    points = set()
    for _ in range(20):
        credential = await bench(tmp_path).lease.obtain()
        points.add(round(credential.refresh - credential.obtained))
    assert len(points) > 5


async def test_it_is_not_used_until_its_very_end(tmp_path: Path) -> None:
    b = bench(tmp_path)
    credential = await b.lease.obtain()
    b.source.failing = down()
    b.later(94)
    assert b.lease.current() is credential
    b.later(1.5)
    assert b.lease.current() is None
    with pytest.raises(SourceError):
        await b.lease.obtain()


async def test_the_wall_clock_ends_it_too(tmp_path: Path) -> None:
    # A machine that slept: the monotonic clock stood still.
    b = bench(tmp_path)
    await b.lease.obtain()
    b.shifted.wall += 101
    assert b.lease.current() is None


async def test_its_life_is_capped_by_the_configuration(tmp_path: Path) -> None:
    b = bench(tmp_path, lifetime=86_400.0, keeping=Keeping(max_lifetime=60.0))
    credential = await b.lease.obtain()
    assert credential.until - credential.obtained <= 60.0
    b.later(61)
    assert b.lease.current() is None


async def test_one_that_never_says_when_it_ends_is_fetched_anew(tmp_path: Path) -> None:
    b = bench(tmp_path, lifetime=None, keeping=Keeping(max_lifetime=60.0))
    await b.lease.obtain()
    assert b.lease.binding() is Binding.STATIC
    b.later(61)
    assert b.lease.current() is None


async def test_a_failed_renewal_is_tried_again_while_the_token_is_good(tmp_path: Path) -> None:
    b = bench(tmp_path, lifetime=1000.0, keeping=Keeping(max_lifetime=1000.0))
    first = await b.lease.obtain()
    b.later(850)
    b.source.failing = down()
    assert b.lease.current() is first
    await soon(lambda: b.refreshed("issuer_unreachable") == 1, "the failure")
    for _ in range(100):  # in the pause nobody asks
        assert b.lease.current() is first
    await asyncio.sleep(0)
    assert b.source.fetches == 2
    b.source.failing = None
    b.later(PAUSES[0])
    assert b.lease.current() is first
    await soon(lambda: b.lease.current() is not first, "the renewal")
    assert b.lease.status()["error"] is None


async def test_without_a_token_a_failure_is_told_and_the_source_left_alone_for_a_while(tmp_path: Path) -> None:
    b = bench(tmp_path)
    b.source.failing = down()
    for _ in range(50):
        with pytest.raises(SourceError) as failed:
            await b.lease.obtain()
        assert failed.value.code is SourceCode.UNREACHABLE
    assert b.source.fetches == 1
    assert "nobody listens on issuer.example:443" in b.messages()
    assert "code=issuer_unreachable" in b.messages()


async def test_the_pauses_grow_and_have_a_bound(tmp_path: Path) -> None:
    b = bench(tmp_path)
    b.source.failing = down()
    pauses = []
    for _ in range(12):
        with pytest.raises(SourceError):
            await b.lease.obtain()
        pauses.append(b.lease._not_before - b.shifted.clock.monotonic())
        b.later(PAUSES[1])
    assert all(pause <= PAUSES[1] for pause in pauses)
    assert pauses[0] <= PAUSES[0]
    assert pauses[-1] >= PAUSES[1] / 2 - 1
    assert b.source.fetches == 12


async def test_no_token_at_rest(tmp_path: Path) -> None:
    b = bench(tmp_path, keeping=Keeping(cache=False))
    first, second = await b.lease.obtain(), await b.lease.obtain()
    assert first.token.value != second.token.value
    assert b.lease.current() is None
    assert b.lease.status()["binding"] is None


async def test_without_keeping_only_so_many_are_fetched_at_once(tmp_path: Path) -> None:
    b = bench(tmp_path, keeping=Keeping(cache=False))
    b.source.gate.clear()
    waiting = [waiter(b.lease.obtain()) for _ in range(UNKEPT + 3)]
    await soon(lambda: sum(task.done() for task in waiting) == 3, "those that are too many")
    assert b.source.fetches == UNKEPT_AT_ONCE
    b.source.gate.set()
    got = await all_of(waiting)
    assert [one.code for one in got if isinstance(one, SourceError)] == [SourceCode.BUSY] * 3
    assert b.source.fetches == UNKEPT
    assert (await b.lease.obtain()).token.value == f"{CANARY}-{UNKEPT + 1}"  # nobody is punished for it


async def test_no_token_at_rest_and_no_storm_either(tmp_path: Path) -> None:
    b = bench(tmp_path, keeping=Keeping(cache=False))
    b.source.failing = down()
    for _ in range(10):
        with pytest.raises(SourceError):
            await b.lease.obtain()
    assert b.source.fetches == 1


# --- what others may replace or withdraw


async def test_what_nobody_else_replaces_is_not_looked_at(tmp_path: Path) -> None:
    b = bench(tmp_path)
    await b.lease.obtain()
    b.later(50)
    assert b.lease.current() is not None
    await asyncio.sleep(0)
    assert b.source.looks == 0


async def test_under_traffic_it_is_looked_at_behind_the_back_of_requests(tmp_path: Path) -> None:
    b = bench(tmp_path, watched=True)
    first = await b.lease.obtain()
    for _ in range(10):
        assert b.lease.current() is first
    assert b.source.looks == 0
    b.source.replaced = True
    b.later(LOOK_SECONDS * 1.1)
    assert b.lease.current() is first  # nobody waits
    await soon(lambda: b.lease.current() is not first, "the new token")
    assert b.source.values == [f"{CANARY}-1", f"{CANARY}-2"]
    assert b.source.looks == 1


async def test_after_a_while_without_requests_the_first_waits_for_a_look(tmp_path: Path) -> None:
    b = bench(tmp_path, watched=True)
    first = await b.lease.obtain()
    b.later(30)
    assert b.lease.current() is None
    assert await b.lease.obtain() is first
    assert (b.source.looks, b.source.fetches) == (1, 1)
    b.later(30)
    b.source.replaced = True
    waiting = [waiter(b.lease.obtain()) for _ in range(20)]
    got = await all_of(waiting)
    assert {credential.token.value for credential in got} == {f"{CANARY}-2"}
    assert (b.source.looks, b.source.fetches) == (2, 2)


async def test_what_was_withdrawn_is_not_sent_any_more(tmp_path: Path) -> None:
    b = bench(tmp_path, watched=True)
    first = await b.lease.obtain()
    b.source.replaced, b.source.failing = True, SourceError(SourceCode.FILE, "the file is gone")
    b.later(LOOK_SECONDS * 1.1)
    assert b.lease.current() is first
    await soon(lambda: b.lease.current() is None, "the token to be dropped")
    with pytest.raises(SourceError):
        await b.lease.obtain()


async def test_a_half_written_replacement_leaves_the_good_one_in_use(tmp_path: Path) -> None:
    b = bench(tmp_path, watched=True)
    first = await b.lease.obtain()
    b.source.replaced, b.source.failing = True, SourceError(SourceCode.BAD_TOKEN, "the file is empty")
    for _ in range(5):
        b.later(LOOK_SECONDS * 3)
        assert await b.lease.obtain() is first
    b.source.failing = None
    b.later(PAUSES[1])
    assert (await b.lease.obtain()).token.value == f"{CANARY}-{b.source.fetches}"


# --- a 401


async def test_a_rejected_token_is_dropped_and_another_may_do(tmp_path: Path) -> None:
    b = bench(tmp_path)
    first = await b.lease.obtain()
    assert b.lease.reject(first)
    assert b.lease.current() is None
    assert (await b.lease.obtain()).token.value == f"{CANARY}-2"


async def test_an_upstream_that_rejects_all_does_not_make_the_issuer_work(tmp_path: Path) -> None:
    b = bench(tmp_path)
    assert b.lease.reject(await b.lease.obtain())
    second = await b.lease.obtain()
    assert not b.lease.reject(second)
    assert b.lease.current() is second
    b.later(REJECTION_SECONDS)
    assert b.lease.reject(second)


async def test_all_that_were_under_way_with_a_stale_token_get_the_new_one(tmp_path: Path) -> None:
    b = bench(tmp_path)
    first = await b.lease.obtain()
    assert all(b.lease.reject(first) for _ in range(20))
    got = await all_of([waiter(b.lease.obtain()) for _ in range(20)])
    assert {credential.token.value for credential in got} == {f"{CANARY}-2"}
    assert all(b.lease.reject(first) for _ in range(20))  # those that come late
    assert b.lease.current() is got[0]
    assert b.source.fetches == 2


async def test_the_rejection_of_an_older_token_leaves_the_newer_one(tmp_path: Path) -> None:
    b = bench(tmp_path)
    first = await b.lease.obtain()
    assert b.lease.reject(first)
    second = await b.lease.obtain()
    b.later(REJECTION_SECONDS)
    assert b.lease.reject(first)  # it came late: the request may be sent again with what there is
    assert b.lease.current() is second


# --- the end


async def test_it_is_revoked_at_the_end(tmp_path: Path) -> None:
    b = bench(tmp_path)
    await b.lease.obtain()
    await b.lease.close()
    assert b.source.revoked == [f"{CANARY}-1"]
    assert b.lease.current() is None
    assert b.lease.closed
    with pytest.raises(SourceError):
        await b.lease.obtain()
    await b.lease.close()
    assert len(b.source.revoked) == 1


async def test_one_that_was_never_asked_for_is_not_revoked(tmp_path: Path) -> None:
    b = bench(tmp_path)
    await b.lease.close()
    assert (b.source.fetches, b.source.revoked) == (0, [])


async def test_a_token_that_comes_after_the_end_is_revoked(tmp_path: Path) -> None:
    b = bench(tmp_path)
    b.source.gate.clear()
    waiting = waiter(b.lease.obtain())
    await soon(lambda: b.source.fetches, "the fetch")
    await b.lease.close()
    b.source.gate.set()
    await all_of([waiting])
    await soon(lambda: b.source.revoked == [f"{CANARY}-1"], "the revocation")
    assert b.lease.current() is None


async def test_a_revocation_that_fails_is_told_and_hurts_nobody(tmp_path: Path) -> None:
    b = bench(tmp_path)
    await b.lease.obtain()
    b.source.failing = down()
    await b.lease.close()
    assert "could not be revoked" in b.messages()
    assert CANARY not in b.messages()


# --- what goes wrong and nobody expected


async def test_our_own_key_that_does_not_sign_is_a_code_of_its_own(tmp_path: Path) -> None:
    b = bench(tmp_path)
    b.source.failing = SignError(SignCode.TIMEOUT, "the device is hung")
    with pytest.raises(SourceError) as failed:
        await b.lease.obtain()
    assert failed.value.code is SourceCode.SIGNING


async def test_a_defect_of_a_source_never_shows_what_it_quotes(tmp_path: Path) -> None:
    b = bench(tmp_path)
    b.source.failing = ValueError(f"cannot parse {CANARY}")
    with pytest.raises(SourceError) as failed:
        await b.lease.obtain()
    assert CANARY not in str(failed.value)
    assert "unexpected" in b.messages()
    assert CANARY not in b.messages()
    assert (failed.value.__cause__, failed.value.__suppress_context__) == (None, True)


async def test_what_operators_see_never_holds_the_token(tmp_path: Path) -> None:
    b = bench(tmp_path, bound=True)
    credential = await b.lease.obtain()
    shown = [b.lease.status(), credential, credential.token, b.lease, b.metrics.render()]
    assert all(CANARY not in repr(one) + str(one) for one in shown)
    assert b.lease.status()["binding"] == "bound"
    assert b.lease.expiry() == pytest.approx(b.shifted.clock.wall() + 100, abs=1)
    b.later(10)
    assert b.lease.age() == pytest.approx(10, abs=1)


@pytest.mark.parametrize(
    ("bound", "lifetime", "hardware", "binding"),
    [
        (True, 60.0, True, "hardware"),
        (True, 60.0, False, "bound"),
        (False, 60.0, True, "bearer"),
        (False, None, True, "static"),
    ],
)
async def test_the_binding_says_what_protects_it(
    tmp_path: Path, lifetime: float | None, binding: str, *, bound: bool, hardware: bool
) -> None:
    b = bench(tmp_path, lifetime=lifetime, bound=bound)
    b.lease.hardware = hardware
    await b.lease.obtain()
    assert b.lease.binding() == binding


@pytest.mark.parametrize(
    ("field", "line"),
    [
        (Field(), b"Authorization: Bearer t\r\n"),
        (Field(b"X-Api-Key", b""), b"X-Api-Key: t\r\n"),
        (Field(b"authorization", b"token"), b"authorization: token t\r\n"),
    ],
)
def test_the_field_line(field: Field, line: bytes) -> None:
    assert field.line(Token("t")) == line

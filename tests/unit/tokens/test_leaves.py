"""Which certificates a caller showed a moment ago; what it was never shown is never recent."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from sidecar.tokens.leaves import GRACE_SECONDS, MAX_CALLERS, RecentLeaves
from tests.support.rules import NOW, PLANNER

OLD, NEW = b"o" * 32, b"n" * 32


def test_what_was_shown_is_recent_for_a_minute() -> None:
    leaves = RecentLeaves()
    leaves.note(PLANNER, OLD, NOW)
    leaves.note(PLANNER, NEW, NOW + 5)
    assert GRACE_SECONDS == 60
    assert [leaves.recent(PLANNER, OLD, NOW + age) for age in (0, 5, 60, 60.1, 1e6)] == [True, True, True, False, False]


def test_it_is_the_last_time_that_counts() -> None:
    leaves = RecentLeaves()
    for age in (0, 50, 100):
        leaves.note(PLANNER, OLD, NOW + age)
        leaves.note(PLANNER, NEW, NOW + age)
    assert leaves.recent(PLANNER, OLD, NOW + 160)
    assert not leaves.recent(PLANNER, OLD, NOW + 161)


def test_a_certificate_belongs_to_one_caller() -> None:
    leaves = RecentLeaves()
    leaves.note(PLANNER, OLD, NOW)
    assert not leaves.recent(PLANNER + "0", OLD, NOW)
    assert not leaves.recent(PLANNER, NEW, NOW)


def test_it_keeps_few_certificates_of_each_caller() -> None:
    leaves = RecentLeaves()
    for number in range(100):
        leaves.note(PLANNER, bytes([number]) * 32, NOW)
    assert [number for number in range(100) if leaves.recent(PLANNER, bytes([number]) * 32, NOW)] == [97, 98, 99]


def test_of_a_callers_certificates_the_one_shown_longest_ago_is_forgotten() -> None:
    leaves = RecentLeaves()
    for leaf in (b"a", b"b", b"c", b"a", b"d"):
        leaves.note(PLANNER, leaf, NOW)
    assert [leaves.recent(PLANNER, leaf, NOW) for leaf in (b"a", b"b", b"c", b"d")] == [True, False, True, True]


def test_it_keeps_so_many_callers_and_forgets_who_was_silent_longest() -> None:
    leaves = RecentLeaves()
    for number in range(MAX_CALLERS):
        leaves.note(f"spiffe://td/{number}", OLD, NOW)
    leaves.note("spiffe://td/0", OLD, NOW)
    leaves.note("spiffe://td/new", OLD, NOW)
    assert [leaves.recent(f"spiffe://td/{name}", OLD, NOW) for name in (0, 1, 2, "new")] == [True, False, True, True]
    assert len(leaves._seen) == MAX_CALLERS


@given(
    st.lists(st.tuples(st.sampled_from("abc"), st.sampled_from([b"1", b"2", b"3", b"4"]), st.integers(0, 40))),
    st.sampled_from("abc"),
    st.sampled_from([b"1", b"2", b"3", b"4"]),
)
def test_only_what_a_caller_showed_is_recent(shown: list[tuple[str, bytes, int]], caller: str, leaf: bytes) -> None:
    """Invariant: what is recent was shown by that caller within the last minute; what it showed last is recent."""
    leaves, now, last = RecentLeaves(), NOW, {}
    for who, what, seconds in shown:
        now += seconds
        leaves.note(who, what, now)
        last[who] = (what, now)
    times = [at for (who, what, _), at in zip(shown, _sums(shown), strict=True) if (who, what) == (caller, leaf)]
    if leaves.recent(caller, leaf, now):
        assert times
        assert now - times[-1] <= GRACE_SECONDS
    if caller in last and last[caller][0] == leaf:
        assert leaves.recent(caller, leaf, last[caller][1] + GRACE_SECONDS)


def _sums(shown: list[tuple[str, bytes, int]]) -> list[float]:
    now, found = NOW, []
    for _, _, seconds in shown:
        now += seconds
        found.append(now)
    return found

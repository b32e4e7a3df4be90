"""How often a caller may ask: no more than the burst and the rate allow, whatever the times are."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sidecar.limits import Limits
from sidecar.proxy.rate import Bucket, Rates

SOME = Limits(request_rate=2, request_burst=3)


def taken(bucket: Bucket, times: list[float], limits: Limits = SOME) -> list[bool]:
    return [not bucket.take(now, limits) for now in times]


def test_a_burst_passes_and_then_the_rate_holds() -> None:
    bucket = Bucket(0.0, SOME)
    assert taken(bucket, [0.0] * 4) == [True, True, True, False]
    assert taken(bucket, [0.4, 0.5, 0.6, 1.0, 1.0]) == [False, True, False, True, False]


def test_what_is_told_to_wait_is_enough_and_not_too_much() -> None:
    bucket = Bucket(0.0, SOME)
    assert not any(bucket.take(0.0, SOME) for _ in range(3))
    wait = bucket.take(0.0, SOME)
    assert wait == pytest.approx(0.5)
    assert bucket.take(wait, SOME) == 0


def test_no_more_is_saved_up_than_the_burst() -> None:
    bucket = Bucket(0.0, SOME)
    assert taken(bucket, [1000.0] * 4) == [True, True, True, False]


@given(
    st.integers(1, 50),
    st.integers(1, 50),
    st.lists(st.floats(0, 10, allow_nan=False), min_size=1, max_size=300).map(sorted),
)
def test_in_no_window_pass_more_than_burst_and_rate_allow(rate: int, burst: int, times: list[float]) -> None:
    """Between any two requests that pass, there are at most burst + rate x the time between them."""
    limits = Limits(request_rate=rate, request_burst=burst)
    bucket = Bucket(0.0, limits)
    passed = [now for now in times if not bucket.take(now, limits)]
    for i, first in enumerate(passed):
        for j in range(i, len(passed)):
            assert j - i + 1 <= burst + rate * (passed[j] - first) + 1e-6


def test_limits_that_a_reload_has_changed_hold_at_once() -> None:
    bucket = Bucket(0.0, Limits(request_rate=1, request_burst=100))
    assert taken(bucket, [0.0] * 3, SOME) == [True] * 3
    assert bucket.take(0.0, SOME) > 0


def test_each_caller_has_its_own_and_finds_it_again() -> None:
    rates = Rates()
    assert rates.of("a", 0.0, SOME) is rates.of("a", 1.0, SOME)
    assert rates.of("a", 0.0, SOME) is not rates.of("b", 0.0, SOME)
    assert len(rates) == 2


def test_the_number_of_callers_is_bounded_and_those_who_ask_too_often_stay() -> None:
    rates = Rates(most=10)
    busy = rates.of("busy", 0.0, SOME)
    for n in range(1000):
        assert not rates.of(n, n / 10, SOME).take(n / 10, SOME)
        busy.take(n / 10, SOME)
        assert len(rates) <= 10
    assert rates.of("busy", 100.0, SOME) is busy


def test_where_nobody_can_be_forgotten_the_first_is() -> None:
    rates = Rates(most=2)
    for name in "abc":
        rates.of(name, 0.0, SOME).take(0.0, SOME)
    assert len(rates) == 2
    assert rates.of("c", 0.0, SOME).take(0.0, SOME) == 0

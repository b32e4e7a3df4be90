from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sidecar.tokens.codes import SourceCode, SourceError
from sidecar.tokens.sources.life import token_of
from sidecar.tokens.token import Token

NOW = 1000.0


@pytest.mark.parametrize(
    ("until", "within", "most", "life"),
    [
        ((1300.0,), None, 900.0, 300),
        ((1300.0,), 200.0, 900.0, 200),
        ((1300.0,), 400.0, 900.0, 300),
        ((1300.0, 1100.0), None, 900.0, 100),
        ((None, 1100.0), None, 900.0, 100),
        ((1300.0,), 10**400, 50.0, 50),
        ((), 10**400, 50.0, 50),
        ((9e9,), None, 50.0, 50),
    ],
)
def test_the_shortest_counts(until: tuple[float | None, ...], within: float | None, most: float, life: float) -> None:
    token = token_of("x", now=NOW, until=until, within=within, most=most, bound=True)
    assert token == Token("x", expires=NOW + life, lifetime=life, bound=True)


def test_where_nobody_says_it_has_no_life() -> None:
    assert token_of("x", now=NOW, until=(None,), most=50) == Token("x")


@pytest.mark.parametrize(("until", "within"), [((NOW,), None), ((1.0,), 500.0), ((2000.0, 999.0), None)])
def test_one_that_has_ended(until: tuple[float, ...], within: float | None) -> None:
    with pytest.raises(SourceError) as caught:
        token_of("x", now=NOW, until=until, within=within, most=900, hint="look at the clock")
    assert (caught.value.code, caught.value.hint) == (SourceCode.EXPIRED, "look at the clock")


@given(
    st.floats(0, 4e9),
    st.lists(st.floats(0, 4e9), max_size=3),
    st.none() | st.floats(1, 1e9),
    st.floats(1, 1e6),
)
def test_no_token_outlives_anything(now: float, until: list[float], within: float | None, most: float) -> None:
    """A token that is given lives, for no longer than anybody says and than it is kept."""
    try:
        token = token_of("x", now=now, until=until, within=within, most=most)
    except SourceError:
        assert min(until) <= now
        return
    if token.lifetime is None:
        assert (until, within, token.expires) == ([], None, None)
        return
    assert 0 < token.lifetime <= most
    assert within is None or token.lifetime <= within
    assert all(token.lifetime <= time - now for time in until)

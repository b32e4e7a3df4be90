"""What the tests against foreign programs share."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tests.support.processes import Pair, Site

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.support.backend import Backend


@pytest.fixture
def site() -> Iterator[Site]:
    """A folder of its own; everything that was started in it ends with the test."""
    with Site() as made:
        yield made


@pytest.fixture
def backend(site: Site) -> Backend:
    return site.backend()


@pytest.fixture(scope="session")
def shared() -> Iterator[Pair]:
    """Started once. Tests tell their own requests from others' by the path."""
    with Site() as site:
        backend = site.backend()
        planner, tools = site.pair(backend)
        yield Pair(site, backend, planner, tools)

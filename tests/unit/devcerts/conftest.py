from __future__ import annotations

import os
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from collections.abc import Iterator


@pytest.fixture(autouse=True, params=[0o022, 0o000], ids=["umask022", "umask000"])
def umask(request: pytest.FixtureRequest) -> Iterator[None]:
    """The usual umask and the one that takes nothing away: modes must not depend on it."""
    before = os.umask(request.param)
    yield
    os.umask(before)

"""What every test shares: both event loops, and the one place that skips for a missing foreign program."""

from __future__ import annotations

import asyncio
import os
from typing import TYPE_CHECKING

import pytest
from hypothesis import settings

from tests.support.machine import missing

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from pathlib import Path

settings.register_profile("fast", max_examples=100, deadline=None, derandomize=True)
settings.register_profile("deep", max_examples=5000, deadline=None)
settings.load_profile("deep" if os.environ.get("SIDECAR_SOAK") else "fast")


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line("markers", "needs(*parts): foreign programs and modules that the test talks to")


def pytest_asyncio_loop_factories(
    config: pytest.Config, item: pytest.Item
) -> Mapping[str, Callable[[], asyncio.AbstractEventLoop]]:
    factories: dict[str, Callable[[], asyncio.AbstractEventLoop]] = {"asyncio": asyncio.new_event_loop}
    if not missing("uvloop"):
        import uvloop

        factories["uvloop"] = uvloop.new_event_loop
    return factories


def pytest_make_parametrize_id(config: pytest.Config, val: object, argname: str) -> str | None:
    """Names long values by their argument: bytes may hold what is random, and every process has to use the same names."""
    return argname if isinstance(val, bytes) and len(val) > 64 else None


@pytest.fixture
def tmp_path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a short name: programs have UNIX sockets below it, and their paths have at most 107 bytes."""
    return tmp_path_factory.mktemp("t")


def pytest_runtest_setup(item: pytest.Item) -> None:
    parts = [part for mark in item.iter_markers("needs") for part in mark.args]
    absent = [part for part in parts if missing(part)]
    if not absent:
        return
    if os.environ.get("CI"):
        pytest.fail(f"this machine lacks {', '.join(absent)}; in CI that is a failure", pytrace=False)
    pytest.skip(f"this machine lacks {', '.join(absent)}")

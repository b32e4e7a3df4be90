"""Waiting for a state, never for a time."""

from __future__ import annotations

import asyncio
import threading
import time
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

SECONDS = 20.0
_TICK = threading.Event()


def eventually(condition: Callable[[], object], what: str, seconds: float = SECONDS) -> None:
    """Polls until the condition holds; otherwise fails and says what did not happen."""
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, f"waited {seconds:g} s in vain for {what}"
        _TICK.wait(0.005)


async def soon(condition: Callable[[], object], what: str, seconds: float = SECONDS) -> None:
    """The same for a state of the running loop."""
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, f"waited {seconds:g} s in vain for {what}"
        await asyncio.sleep(0.005)

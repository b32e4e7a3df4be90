"""Requests that wait for a connection to an upstream which has as many as it may have: a queue, oldest first.

What becomes free, a connection or the place of one, is for whoever has waited longest. Somebody who comes meanwhile goes to
the end, also in the moment in which the oldest was called and has not moved yet.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, TypeVar

if TYPE_CHECKING:
    from collections.abc import Callable

T = TypeVar("T")


class Line:
    """Those who wait. Whoever owns it calls one when something becomes free, and when somebody has left the queue."""

    __slots__ = ("turns",)

    def __init__(self) -> None:
        #: By ticket, oldest first. Done: was called, and has not moved yet.
        self.turns: dict[object, asyncio.Future[None]] = {}

    def call(self) -> None:
        """Calls the oldest that has not been called: there may be something for one more."""
        for turn in self.turns.values():
            if not turn.done():
                turn.set_result(None)
                return

    def call_all(self) -> None:
        """Calls everybody: there is something to be told."""
        for turn in self.turns.values():
            if not turn.done():
                turn.set_result(None)

    async def wait(self, find: Callable[[], T | None]) -> T:
        """Waits until one is called and ``find`` finds something; until then the place in the queue is kept."""
        loop, ticket = asyncio.get_running_loop(), object()
        try:
            while True:
                turn = self.turns[ticket] = loop.create_future()
                await turn
                found = find()
                if found is not None:
                    return found
        finally:
            del self.turns[ticket]

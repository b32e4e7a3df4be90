"""Notices that a file of the configuration has changed and has stopped changing."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Hashable

#: Two looks this far apart, in seconds, must agree: a file that is half written can widen a rule.
LOOK_SECONDS = 1.0


class Settled:
    """Compares looks: says "changed" once, when a look differs from what is in force and equals the look before."""

    def __init__(self, in_force: Hashable) -> None:
        self._in_force = in_force
        self._last = in_force

    def took(self, look: Hashable) -> None:
        """Notes what is in force now; also after a refusal, so that the same files are not tried again and again."""
        self._in_force = self._last = look

    def changed(self, look: Hashable) -> bool:
        """Takes one look and says whether it is new and stable."""
        stable = look == self._last
        self._last = look
        return stable and look != self._in_force


async def watch(settled: Settled, look: Callable[[], Hashable], changed: Callable[[], Awaitable[None]]) -> None:
    """Looks once a second, for ever, and calls ``changed`` when the files have settled on something new.

    What goes wrong once, perhaps because there was no memory, is told, and does not end the watch: a file that revokes
    somebody may come after it.
    """
    loop = asyncio.get_running_loop()
    while True:
        await asyncio.sleep(LOOK_SECONDS)
        try:
            seen = look()
            if settled.changed(seen):
                await changed()
        except Exception as error:  # noqa: BLE001 - see above
            loop.call_exception_handler({"message": "a look at the files failed", "exception": error, "where": "watch"})

"""The drain of several workers as one: outbound serves on in all of them while one has an inbound request in flight."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Final

from sidecar.app.workers.wire import Ask

if TYPE_CHECKING:
    from sidecar.app.workers.parent import Parent

#: How much longer than the drain itself its answer may take, in seconds.
_GRACE_SECONDS: Final = 2.0


async def drain(parent: Parent, seconds: float) -> bool:
    """Ends inbound in all workers, then outbound in all; says whether everything ended within ``seconds``.

    From now on no worker is replaced: one that is lost has nothing in flight any more.
    """
    fleet = parent.fleet
    fleet.stop_replacing()
    parent.reloader.give_up()
    deadline = parent.clock.monotonic() + seconds
    async with fleet.lock:  # a worker that was just being started, or a reload
        done = await _end(parent, "inbound", deadline)
        return await _end(parent, "outbound", deadline) and done


async def _end(parent: Parent, direction: str, deadline: float) -> bool:
    for place in [place for place in parent.sockets if place[0] == direction]:
        parent.sockets.pop(place).close()
    left = max(0.0, deadline - parent.clock.monotonic())
    content = {"direction": direction, "seconds": left}
    asking = [child.ask(Ask.DRAIN, content, seconds=left + _GRACE_SECONDS) for child in parent.fleet.children]
    found = await asyncio.gather(*asking, return_exceptions=True)
    return all(isinstance(answer, BaseException) or answer.get("done") is True for answer in found)

"""Ending without losing what was begun: inbound first, since the agent needs outbound to finish its answers."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from sidecar.proxy.failure import ProxyCode

if TYPE_CHECKING:
    from collections.abc import Callable, Collection

    from sidecar.proxy.connection import Connection
    from sidecar.proxy.hub import Hub
    from sidecar.proxy.listener import AnyListener

#: How often the drain looks whether what was in flight has ended, in seconds.
LOOK_SECONDS = 0.02


async def drain(hub: Hub, listeners: Collection[AnyListener], seconds: float) -> bool:
    """Stops taking work, waits for what is in flight, and closes the rest.

    Inbound stops accepting at once, outbound when no inbound request is in flight any more; idle connections close,
    answers carry ``connection: close``, tunnels go on. Returns whether everything ended within ``seconds``.
    """
    hub.draining = True
    deadline = hub.clock.monotonic() + seconds
    done = await end(hub, listeners, "inbound", deadline)
    done = await end(hub, listeners, "outbound", deadline) and done
    cut(hub)
    return done


async def end(hub: Hub, listeners: Collection[AnyListener], direction: str, deadline: float) -> bool:
    """Ends one direction: stops accepting, and waits for what is in flight; says whether all of it ended in time."""
    for listener in listeners:
        if listener.service.direction == direction:
            listener.stop()

    def live() -> list[Connection]:
        # Of all listeners, those that a reload has removed included: what was begun there is finished too.
        return [c for c in hub.connections if c.listener.service.direction == direction]

    for connection in live():
        connection.retire()
    return await _until(hub, lambda: not live(), deadline)


def cut(hub: Hub) -> None:
    """Closes what has not ended."""
    for connection in list(hub.connections):
        connection.give_up(ProxyCode.DRAINING)
    for stream in list(hub.streams):
        stream.abort()


async def _until(hub: Hub, condition: Callable[[], bool], deadline: float) -> bool:
    while not condition():
        if hub.clock.monotonic() >= deadline:
            return False
        await asyncio.sleep(LOOK_SECONDS)
    return True

"""What `sidecar exec` leaves to the proxy that it starts, by the numbers of inherited descriptors."""

from __future__ import annotations

import os
import socket
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from sidecar.config.values import TcpAddress
from sidecar.proxy.binding import Binding

if TYPE_CHECKING:
    import asyncio
    from collections.abc import Callable
    from typing import Self

    from sidecar.app.listening import Place


@dataclass(frozen=True, slots=True)
class Bequest:
    """``sockets`` are bound and do not listen yet: that of the ``agent``'s own listener, where there is one.

    ``lifeline`` is the end of a pipe into which nobody ever writes: its end is that of the process that we are for.
    """

    lifeline: int | None = None
    agent: TcpAddress | None = None
    sockets: dict[Place, Binding] = field(default_factory=dict)

    @classmethod
    def take(cls, lifeline: int | None, listener: int | None) -> Self:
        """Takes the descriptors over, so that what we start has none of them. Raises OSError where they are none."""
        if lifeline is not None:
            os.set_inheritable(lifeline, False)
        if listener is None:
            return cls(lifeline)
        sock = socket.socket(fileno=listener)
        sock.set_inheritable(False)
        sock.setblocking(False)
        agent = TcpAddress(*sock.getsockname())
        return cls(lifeline, agent, {("outbound", agent): Binding(sock)})

    def watch(self, loop: asyncio.AbstractEventLoop, stop: Callable[[], None]) -> None:
        """Calls ``stop`` when whoever started us has gone."""
        if self.lifeline is not None:
            loop.add_reader(self.lifeline, self._gone, loop, self.lifeline, stop)

    @staticmethod
    def _gone(loop: asyncio.AbstractEventLoop, lifeline: int, stop: Callable[[], None]) -> None:
        loop.remove_reader(lifeline)
        stop()

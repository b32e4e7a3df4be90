"""The name of an ordinary service, resolved by us: what an answer leads to is looked at, and exactly that is dialled.

Whoever can change a DNS answer, once or between two look-ups, must not be able to lead us to this machine, its network or
its cloud's metadata service (DNS rebinding). So there is one look-up for each connection, each address in it is judged by
`sidecar.policy.addresses`, and the numbers that passed are connected to: no name is handed on to be resolved again. No
variable of the environment leads to a proxy, and no answer of the service leads elsewhere.
"""

from __future__ import annotations

import asyncio
import socket
from typing import TYPE_CHECKING, Any, Final

from sidecar.policy.addresses import AddressError, check_address
from sidecar.proxy.failure import DialError, ProxyCode

if TYPE_CHECKING:
    from typing import TypeAlias

    from sidecar.proxy.hub import Hub
    from sidecar.proxy.stream import Stream

    #: An address family, and a numeric address of it.
    Found: TypeAlias = tuple[int, str]

#: How many addresses of one answer are tried.
MOST: Final = 8


class PublicTarget:
    """A host, without brackets, and a port. ``anywhere`` takes whatever address the name has."""

    def __init__(self, host: str, port: int, hub: Hub, *, anywhere: bool = False) -> None:
        self.text = f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
        self._host = host
        self._port = port
        self._hub = hub
        self.anywhere = anywhere

    async def open(self, loop: asyncio.AbstractEventLoop, stream: Stream) -> None:
        """Connects ``stream`` to the first address that takes it; each has its share of ``connect_timeout``.

        The addresses are numbers, which AI_NUMERICHOST says to whoever would look them up.

        Raises DialError (UPSTREAM_FORBIDDEN) where no address may be dialled, else what the system does, OSError.
        """
        addresses = await self._addresses(loop)
        share = self._hub.limits.connect_timeout / len(addresses)
        failure: OSError | None = None
        for family, host in addresses:
            try:
                async with asyncio.timeout(share):
                    await loop.create_connection(
                        lambda: stream, host, self._port, family=family, flags=socket.AI_NUMERICHOST
                    )
            except OSError as error:  # a TimeoutError is one
                failure = failure or error
                if stream.remote:
                    break  # it had its connection, and has no second one
            else:
                return
        try:
            raise failure or socket.gaierror(socket.EAI_NONAME, "no address")
        finally:
            failure = None  # its traceback has this frame

    async def _addresses(self, loop: asyncio.AbstractEventLoop) -> list[Found]:
        """Resolves the name, and leaves out what may not be dialled."""
        answer = await loop.getaddrinfo(self._host, self._port, type=socket.SOCK_STREAM, proto=socket.IPPROTO_TCP)
        found: dict[Found, None] = {}
        refused: AddressError | None = None
        for family, _, _, _, address in answer:
            try:
                if not self.anywhere:
                    check_address(_numeric(address))
            except AddressError as error:
                refused = refused or error
            else:
                found[family, _numeric(address)] = None
        if found:
            return list(found)[:MOST]
        if refused is None:
            raise socket.gaierror(socket.EAI_NONAME, "no address")
        text = f"{self.text} is not dialled: {refused} ({refused.code}); {refused.hint}"
        raise DialError(ProxyCode.UPSTREAM_FORBIDDEN, text) from refused


def _numeric(address: tuple[Any, ...]) -> str:
    """Returns the address as text, with its zone where it has one: the fourth number of an IPv6 address (RFC 4007 11)."""
    host = str(address[0])
    return f"{host}%{address[3]}" if len(address) == 4 and address[3] and "%" not in host else host

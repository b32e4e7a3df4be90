"""The name of an ordinary service, resolved by us: what an answer leads to is looked at, and exactly that is dialled.

Whoever can change a DNS answer, once or between two look-ups, must not be able to lead us to this machine, its network or
its cloud's metadata service (DNS rebinding). So each connection has one answer, that of a look-up which others
may share while it is under way and nobody afterwards; each address of it is judged by `sidecar.policy.addresses`, and the
numbers that passed are connected to: no name is handed on to be resolved again. No variable of the environment leads to a
proxy, and no answer of the service leads elsewhere.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from sidecar.policy.addresses import AddressError, check_address
from sidecar.proxy.failure import DialError, ProxyCode
from sidecar.proxy.resolve import Name, connect_in_order, no_address, numeric

if TYPE_CHECKING:
    import asyncio

    from sidecar.proxy.hub import Hub
    from sidecar.proxy.resolve import Found
    from sidecar.proxy.stream import Stream

#: How many addresses of one answer are tried.
MOST: Final = 8


class PublicTarget:
    """A host, without brackets, and a port. ``anywhere`` takes whatever address the name has."""

    def __init__(self, host: str, port: int, hub: Hub, *, anywhere: bool = False) -> None:
        self.text = f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
        self._name = Name(host, port)
        self._port = port
        self._hub = hub
        self.anywhere = anywhere

    async def open(self, loop: asyncio.AbstractEventLoop, stream: Stream) -> None:
        """Connects ``stream`` to the first address that takes it; each has its share of ``connect_timeout``.

        Raises DialError (UPSTREAM_FORBIDDEN) where no address may be dialled, else what the system does, OSError.
        """
        addresses = await self._addresses()
        share = self._hub.limits.connect_timeout / len(addresses)
        await connect_in_order(loop, stream, addresses, self._port, share)

    async def _addresses(self) -> list[Found]:
        """Resolves the name, and leaves out what may not be dialled."""
        found: dict[Found, None] = {}
        refused: AddressError | None = None
        for family, _, _, _, address in await self._name.look_up():
            try:
                if not self.anywhere:
                    check_address(numeric(address))
            except AddressError as error:
                refused = refused or error
            else:
                found[family, numeric(address)] = None
        if found:
            return list(found)[:MOST]
        if refused is None:
            raise no_address()
        text = f"{self.text} is not dialled: {refused} ({refused.code}); {refused.hint}"
        raise DialError(ProxyCode.UPSTREAM_FORBIDDEN, text) from refused

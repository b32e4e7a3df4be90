"""Names of upstreams: looked up in daemon threads of our own, so that a resolver that hangs holds up nothing else.

Event loops have a pool of a few threads for that. A name whose servers do not answer fills it, and then no other name is
looked up either; and its threads are waited for when the process ends. Here a name has one thread at the most, however
many connections wait for it, and nobody waits for that thread longer than a connection may take.
"""

from __future__ import annotations

import asyncio
import errno
import socket
import threading
from ipaddress import ip_address
from typing import TYPE_CHECKING, Any

from sidecar.threads import Job

if TYPE_CHECKING:
    from collections.abc import Sequence
    from typing import TypeAlias

    from sidecar.proxy.stream import Stream

    #: What `socket.getaddrinfo` says of one address.
    Info: TypeAlias = tuple[Any, Any, int, str, tuple[Any, ...]]
    #: An address family, and a numeric address of it.
    Found: TypeAlias = tuple[int, str]


class Name:
    """A host name, or an address without brackets, and a port. For one event loop."""

    def __init__(self, host: str, port: int) -> None:
        self.is_address = _is_address(host)
        self._host = host
        self._port = port
        #: A lookup is under way, and these wait for it; they may all have left.
        self._asking = False
        self._waiting: set[asyncio.Future[list[Info] | BaseException]] = set()

    async def look_up(self) -> list[Info]:
        """Returns its addresses; a lookup that is under way already answers too. Raises OSError, gaierror among them."""
        if self.is_address:
            return self._ask()
        answer: asyncio.Future[list[Info] | BaseException] = asyncio.get_running_loop().create_future()
        if not self._asking:
            self._begin()
        self._waiting.add(answer)
        try:
            found = await answer
        finally:
            self._waiting.discard(answer)
        if isinstance(found, OSError):
            raise type(found)(*found.args)  # each of those who waited has its own
        if isinstance(found, BaseException):
            raise found
        return found

    def _begin(self) -> None:
        job = Job(self._ask, self._answered)
        try:
            threading.Thread(target=job.run, name="resolve", daemon=True).start()
        except RuntimeError:
            raise OSError(errno.ENOMEM, "no thread can be had to look its name up") from None
        self._asking = True

    def _ask(self) -> list[Info]:
        # As bytes: text goes through the IDNA codec first, which knows names that it does not like.
        host, kind, protocol = self._host.encode("ascii"), socket.SOCK_STREAM, socket.IPPROTO_TCP
        return socket.getaddrinfo(host, self._port, type=kind, proto=protocol)

    def _answered(self, outcome: list[Info] | BaseException) -> None:
        self._asking = False
        for answer in self._waiting:
            if not answer.done():
                answer.set_result(outcome)


async def connect_in_order(
    loop: asyncio.AbstractEventLoop, stream: Stream, addresses: Sequence[Found], port: int, share: float | None = None
) -> None:
    """Connects ``stream`` to the first address that takes it; each has ``share`` seconds, or all that there are.

    The addresses are numbers, which AI_NUMERICHOST says to whoever would look them up. Raises what the first of them did,
    OSError.
    """
    failure: OSError | None = None
    for family, host in addresses:
        try:
            async with asyncio.timeout(share):
                await loop.create_connection(lambda: stream, host, port, family=family, flags=socket.AI_NUMERICHOST)
        except OSError as error:  # a TimeoutError is one
            failure = failure or error
            if stream.remote:
                break  # it had its connection, and has no second one
        else:
            return
    try:
        raise failure or no_address()
    finally:
        failure = None  # its traceback has this frame


def no_address() -> socket.gaierror:
    """Makes the error of a name that has none."""
    return socket.gaierror(socket.EAI_NONAME, "no address")


def numeric(address: tuple[Any, ...]) -> str:
    """Returns the address as text, with its zone where it has one: the fourth number of an IPv6 address (RFC 4007 11)."""
    host = str(address[0])
    return f"{host}%{address[3]}" if len(address) == 4 and address[3] and "%" not in host else host


def _is_address(host: str) -> bool:
    try:
        ip_address(host)
    except ValueError:
        return False
    return True

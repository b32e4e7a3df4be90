"""One client of the service: a request, its reply, the next request."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Protocol, cast

from sidecar.keys.errors import SignCode
from sidecar.keys.wire import Done, PublicKeyRequest, Refusal, WireError, encode_reply, parse_request
from sidecar.signer.log import UseCode
from sidecar.signer.use import Means, Use
from sidecar.sockets import Peer, peer

if TYPE_CHECKING:
    from collections.abc import Callable
    from enum import StrEnum

    from sidecar.keys.wire import Reply
    from sidecar.signer.limits import SignerLimits


class Owner(Protocol):
    """What a connection needs of its service."""

    means: Means
    limits: SignerLimits
    #: The public key, as it goes over the wire.
    spki: bytes

    def admit(self, connection: Connection, peer: Peer) -> UseCode | None:
        """Takes a connection in; says why not otherwise."""

    def rested(self, connection: Connection) -> None:
        """Hears that a connection has nothing to do from now on."""

    def forget(self, connection: Connection) -> None:
        """Hears that a connection is over."""


class Connection(asyncio.Protocol):
    """Admits its peer before a byte is read. Whatever is no request, or comes before the reply, ends it."""

    def __init__(self, owner: Owner) -> None:
        self._owner = owner
        self._loop = asyncio.get_running_loop()
        self._peer = Peer(None, None)
        self._data = b""
        self._use: Use | None = None
        self._ending = False
        self._timer: asyncio.TimerHandle | None = None

    @property
    def uid(self) -> int | None:
        """Whose it is."""
        return self._peer.uid

    @property
    def busy(self) -> bool:
        """Whether a request is being answered."""
        return self._use is not None

    def abort(self) -> None:
        """Ends it at once."""
        self._ending = True
        self._transport.abort()

    def stop(self) -> None:
        """Ends it with the service: a use that is under way is written down now."""
        if self._use is not None:
            self._use.stop()
        self.abort()

    # -- what the event loop calls ------------------------------------------------------------------------------------

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Asks the kernel who it is."""
        self._transport = cast("asyncio.Transport", transport)
        self._peer = peer(transport.get_extra_info("socket"))
        why = self._owner.admit(self, self._peer)
        if why is None:
            self._limit(self._owner.limits.idle, self.abort)
        else:
            self._expel(why)

    def data_received(self, data: bytes) -> None:
        """Reads a request; a piece of one has a few seconds for the rest."""
        if self._ending:
            return
        if self.busy or self._transport.get_write_buffer_size():
            self._expel(UseCode.HURRY)
            return
        if not self._data:
            self._limit(self._owner.limits.head, self._too_slow)
        self._data += data
        try:
            request = parse_request(self._data)
        except WireError as error:
            # In our format all the same: a client of ours that asks for too much reads why.
            self._owner.means.log.refused(self._peer, error.code)
            self._ending = True
            self._transport.write(encode_reply(Refusal(SignCode.REFUSED)))
            self._transport.close()
            self._limit(self._owner.limits.head, self.abort)
            return
        if request is None:
            return
        self._data = b""
        self._unlimit()
        if isinstance(request, PublicKeyRequest):
            self._answer(Done(self._owner.spki))
        else:
            self._use = Use(self._owner.means, self._peer, self._answer)
            self._use.begin(request)

    def connection_lost(self, exc: Exception | None) -> None:  # noqa: ARG002 - asyncio's signature; why does not matter
        """The connection is gone, from either side."""
        self._ending = True
        self._unlimit()
        if self._use is not None:
            self._use.leave()
        self._owner.forget(self)

    # -- the reply and the end ----------------------------------------------------------------------------------------

    def _answer(self, reply: Reply) -> None:
        self._use = None
        if self._ending:
            return
        self._transport.write(encode_reply(reply))
        self._limit(self._owner.limits.idle, self.abort)
        self._owner.rested(self)

    def _too_slow(self) -> None:
        self._expel(UseCode.SLOW)

    def _expel(self, why: StrEnum) -> None:
        self._owner.means.log.refused(self._peer, why)
        self.abort()

    def _limit(self, seconds: float, then: Callable[[], None]) -> None:
        """Sets the one timer there is."""
        self._unlimit()
        self._timer = self._loop.call_later(seconds, then)

    def _unlimit(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

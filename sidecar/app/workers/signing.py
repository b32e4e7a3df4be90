"""The process that has opened a hardware key for all workers: the service of `sidecar.signer` behind a door.

It is the only one that has the PIN and talks to the device. It signs what `sidecar signer` would sign: handshakes,
self-tests, and the tokens that the configuration has sources for.
"""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Final

from sidecar.app.workers.answering import Answering, check_version
from sidecar.app.workers.handed import unpack
from sidecar.app.workers.lent import DOOR
from sidecar.app.workers.wire import Ask
from sidecar.keys.errors import SignCode, SignError
from sidecar.keys.token_messages import Client, Mandate
from sidecar.signer.door import Porter
from sidecar.signer.limits import SignerLimits
from sidecar.signer.service import SignerService, open_key
from sidecar.threads import apart
from sidecar.tokens.settings import ClientAuth, OAuth2Source, SelfSignedSource

if TYPE_CHECKING:
    import socket

    from sidecar.app.workers.channel import Content
    from sidecar.clock import Clock
    from sidecar.config.load import Loaded

#: What opening a device may take, in seconds.
OPEN_SECONDS: Final = 10.0
#: Connections of one worker: as many as its threads that sign, and those that rest (`sidecar.keys.remote.IDLE`).
_CONNECTIONS: Final = 32


class _NoLines:
    """Uses of the key have no log of their own here: they are counted where they are asked for, in the worker."""

    def add(self, line: bytes) -> None:
        """Drops it."""

    def flush(self) -> None:
        """There is nothing to write."""


class SignerProcess(Answering):
    """Opens the key, and serves whoever comes through the door."""

    def __init__(self, sock: socket.socket, clock: Clock) -> None:
        super().__init__(sock, clock)
        self._service: SignerService | None = None
        self._porter: Porter | None = None
        self.handlers = {Ask.START: self._start, Ask.STATUS: self._status, Ask.END: self._end}

    async def close(self) -> None:
        """Lets go of the device."""
        if self._porter is not None:
            self._porter.close()
        if self._service is not None:
            await self._service.close()

    async def _start(self, content: Content) -> Content:
        check_version(content)
        door = self.take_handed()[DOOR]
        loaded = unpack(content)
        key, limit, workers = loaded.material.key, loaded.config.limits.sign_timeout, loaded.config.workers
        call = partial(open_key, key.spec, key.secrets, limit)
        try:
            signer = await apart(call, OPEN_SECONDS + limit, "signer-open")
        except TimeoutError:
            raise SignError(
                SignCode.TIMEOUT,
                f"{key.spec} did not answer within {OPEN_SECONDS + limit:g} s",
                hint="is the device hung? `sidecar key show` tries it",
            ) from None
        limits = SignerLimits(sign=limit, connections=_CONNECTIONS * workers, waiting=_CONNECTIONS * workers)
        self._service = SignerService(
            signer,
            None,
            _NoLines(),
            messages=self.messages,
            clock=self.clock,
            limits=limits,
            mandate=mandate_of(loaded),
        )
        self._porter = Porter(self._service, door)
        self._porter.start()
        return {"protection": str(signer.protection)}

    async def _status(self, _: Content) -> Content:
        return {}

    async def _end(self, content: Content) -> Content:
        self.finish(content["code"])
        return {}


def mandate_of(loaded: Loaded) -> Mandate:
    """The tokens that a configuration has signed by our key, and no others."""
    config, own = loaded.config, loaded.material.svid.id
    clients = frozenset(
        Client(source.assertion_audience or source.issuer, source.client_id or str(own))
        for source in config.tokens
        if isinstance(source, OAuth2Source) and source.client_auth is ClientAuth.PRIVATE_KEY_JWT
    )
    signs = any(isinstance(source, SelfSignedSource) for source in config.tokens)
    return Mandate(own if signs else None, clients)

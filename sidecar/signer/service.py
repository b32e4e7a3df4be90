"""The service: one key, one UNIX socket, whoever of the named uids asks.

A peer can have nothing but the public key and signatures over the messages that `sidecar.keys.messages` recognises, tokens
among them where the service has a mandate for them. What may hang is the device; it is only ever called from threads that may be lost, so that everything else goes on.
"""

from __future__ import annotations

import asyncio
import os
import threading
from contextlib import suppress
from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING

from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from sidecar.accept import Acceptor
from sidecar.errors import LocalError
from sidecar.identity.pins import Pin
from sidecar.keys.errors import KeyCode, PrivateKeyError, SignError
from sidecar.keys.messages import Recognisers
from sidecar.keys.open import open_signer
from sidecar.keys.selftest import self_test
from sidecar.keys.spec import RemoteKey
from sidecar.signer.connection import Connection
from sidecar.signer.log import KeyFacts, UseCode, UseLog
from sidecar.signer.use import Means
from sidecar.sockets import SocketFault, SocketFile, SocketRules
from sidecar.threads import Workers

if TYPE_CHECKING:
    from pathlib import Path

    from sidecar.clock import Clock
    from sidecar.keys.open import Secrets
    from sidecar.keys.signer import Signer
    from sidecar.keys.spec import KeySpec
    from sidecar.keys.token_messages import Mandate
    from sidecar.signer.limits import SignerLimits
    from sidecar.signer.log import Lines
    from sidecar.sockets import Peer
    from sidecar.telemetry.messages import Messages


class SocketCode(StrEnum):
    """Why the service's socket cannot be opened; part of the output, never renamed."""

    IN_USE = "signer_address_in_use"
    LOCKED = "signer_address_locked"
    NOT_A_SOCKET = "signer_address_no_socket"
    UNUSABLE = "signer_address_unusable"


@dataclass(frozen=True, slots=True)
class Place:
    """Where the service listens and whom it serves: our own uid and ``uids``; root only where it is one of these."""

    path: Path
    uids: frozenset[int] = frozenset()

    def rules(self) -> SocketRules:
        """How the socket is made: with other uids anybody may connect, and the kernel's word on the peer decides."""
        mode, folder_mode = (0o666, 0o711) if self.uids - {os.geteuid()} else (0o600, 0o700)
        return SocketRules("signer socket", "--listen", _error, mode, folder_mode)


def open_key(spec: KeySpec, secrets: Secrets, seconds: float) -> Signer:
    """Opens a key and tries it once. May block for ever: for a thread that may be lost.

    Raises PrivateKeyError for a key that is not ours to serve or never can be, SignError where it does not sign now.
    """
    if isinstance(spec, RemoteKey):
        raise PrivateKeyError(
            KeyCode.UNSUPPORTED,
            "a signer service does not pass on the key of another",
            hint="name the key itself: a PEM file, tpm:… or pkcs11:…; clients connect to the service that has it",
        )
    signer = open_signer(spec, secrets, limit=seconds)
    try:
        self_test(signer)
    except BaseException:
        with suppress(SignError):
            signer.close()
        raise
    return signer


class SignerService:
    """Serves a key that was opened and tried."""

    def __init__(
        self,
        signer: Signer,
        place: Place | None,
        lines: Lines,
        *,
        messages: Messages,
        clock: Clock,
        limits: SignerLimits,
        mandate: Mandate,
    ) -> None:
        """``place`` None: it has no socket and is not started; a `sidecar.signer.door.Porter` brings its connections."""
        self.limits = limits
        self.spki = signer.public_key.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
        self.facts = KeyFacts(str(Pin.of_spki(self.spki)), str(signer.protection))
        workers = Workers("signer", limits.threads, limits.waiting)
        log = UseLog(lines, self.facts, clock)
        recognisers = Recognisers.of(signer.public_key, mandate)
        self.means = Means(signer, recognisers, workers, log, messages, clock, limits.sign)
        self._place = place
        self._uids = (place.uids if place else frozenset()) | {os.geteuid()}
        #: The one that has had nothing to do for longest is the first of those that are not busy.
        self.open: dict[Connection, None] = {}
        self._file: SocketFile | None = None
        self._acceptor: Acceptor | None = None

    async def start(self) -> None:
        """Makes the socket and begins to accept. Raises LocalError."""
        assert self._place is not None  # noqa: S101 - see __init__
        self._file = SocketFile.make(self._place.path, self._place.rules())
        sock = self._file.sock
        sock.listen(self.limits.connections)
        self._acceptor = Acceptor(
            asyncio.get_running_loop(),
            sock,
            lambda _sock, _address: Connection(self),
            messages=self.means.messages,
            failed=lambda _error: None,  # nobody counts here: its messages tell of it
            address=f"unix:{self._place.path}",
        )
        self._acceptor.start()
        self.means.messages.info(
            "the signer service is ready",
            socket=self._place.path,
            pin=self.facts.pin,
            protection=self.facts.protection,
            uids=",".join(map(str, sorted(self._uids))),
            signs=",".join(row.name for row in self.means.recognisers.rows),
        )

    async def close(self) -> None:
        """Removes the socket's file, ends every connection, and lets go of the device for as long as that may take."""
        file, self._file = self._file, None
        if file is not None:
            file.remove()
        if self._acceptor is not None:
            self._acceptor.close()
        for connection in list(self.open):
            connection.stop()
        if file is not None:
            file.close()
        let_go(self.means.signer, self.limits.close)

    # -- what a connection asks and tells -----------------------------------------------------------------------------

    def admit(self, connection: Connection, peer: Peer) -> UseCode | None:
        """Takes a connection in, in place of an idle one of its uid where that has too many; says why not otherwise."""
        if peer.uid not in self._uids:
            self.means.messages.warning("the signer socket refused a connection", uid=peer.uid)
            return UseCode.UID
        # Each uid has its share, and makes room among its own: none can keep the others out.
        own = [each for each in self.open if each.uid == peer.uid]
        if len(own) >= max(1, self.limits.connections // len(self._uids)):
            idle = next((each for each in own if not each.busy), None)
            if idle is None:
                return UseCode.CONNECTIONS
            self.forget(idle)
            idle.abort()
        self.open[connection] = None
        return None

    def rested(self, connection: Connection) -> None:
        """Has nothing to do from now on: the last to give way."""
        if connection in self.open:
            del self.open[connection]
            self.open[connection] = None

    def forget(self, connection: Connection) -> None:
        """Is over, or was never admitted."""
        self.open.pop(connection, None)


def let_go(signer: Signer, seconds: float) -> None:
    """Closes a signer, so that no handle stays in the device; one that hangs is left to itself after a while."""

    def close() -> None:
        with suppress(SignError):  # the device hangs, and the process ends
            signer.close()

    thread = threading.Thread(target=close, name="signer-close", daemon=True)
    thread.start()
    thread.join(seconds)


_CODES = {
    SocketFault.IN_USE: SocketCode.IN_USE,
    SocketFault.LOCKED: SocketCode.LOCKED,
    SocketFault.NOT_A_SOCKET: SocketCode.NOT_A_SOCKET,
    SocketFault.UNUSABLE: SocketCode.UNUSABLE,
}


def _error(fault: SocketFault, message: str, hint: str) -> LocalError:
    return LocalError(_CODES[fault], message, hint=hint)

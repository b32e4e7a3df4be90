"""The use of our key in a worker, where one signer process has opened it for all of them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from sidecar.keys.door import Door
from sidecar.keys.protection import Protection
from sidecar.keys.remote import RemoteSigner

if TYPE_CHECKING:
    import socket

    from sidecar.keys.signer import Signer

#: The name under which the door to the signer process is handed over.
DOOR: Final = "door"


class LentKey:
    """A `sidecar.app.own_key.Lent`: what it signs with says of itself what the signer process says of the key."""

    def __init__(self, door: socket.socket, protection: str) -> None:
        """``door`` is ours to close. Raises ValueError for a protection that there is none of."""
        self._door = door
        self._protection = Protection(protection)

    def signer(self, limit: float) -> Signer:
        """Asks for the public key. Raises SignError."""
        # Of its own: it is closed with the signer, and another one may be made after it.
        return RemoteSigner(Door(self._door.dup()), limit=limit, protection=self._protection)

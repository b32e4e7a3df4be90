"""The file of the administration socket: made so that nobody else can ever connect, removed when it is ours."""

from __future__ import annotations

from enum import StrEnum
from typing import TYPE_CHECKING

from sidecar import sockets
from sidecar.errors import LocalError
from sidecar.sockets import SocketFault, SocketFile, SocketRules

if TYPE_CHECKING:
    from pathlib import Path
    from typing import Self

#: How long another process may hold the folder's lock, in seconds.
LOCK_SECONDS = sockets.LOCK_SECONDS


class AddressCode(StrEnum):
    """Why the administration socket cannot be opened."""

    ADMIN_ADDRESS_IN_USE = "admin_address_in_use"
    ADMIN_ADDRESS_LOCKED = "admin_address_locked"
    ADMIN_NOT_A_SOCKET = "admin_not_a_socket"
    ADMIN_UNUSABLE = "admin_unusable"


_CODES = {
    SocketFault.IN_USE: AddressCode.ADMIN_ADDRESS_IN_USE,
    SocketFault.LOCKED: AddressCode.ADMIN_ADDRESS_LOCKED,
    SocketFault.NOT_A_SOCKET: AddressCode.ADMIN_NOT_A_SOCKET,
    SocketFault.UNUSABLE: AddressCode.ADMIN_UNUSABLE,
}


class AddressError(LocalError):
    """The administration socket cannot be opened."""

    def __init__(self, code: AddressCode, message: str, *, hint: str = "") -> None:
        super().__init__(code, message, hint=hint)
        self.code: AddressCode = code


class AdminAddress(SocketFile):
    """A listening UNIX socket and its file."""

    @classmethod
    def open(cls, path: Path) -> Self:
        """Makes the folder if it is missing (its parent must exist), and the socket. Raises `AddressError`."""
        return cls.make(path, SocketRules("admin socket", "admin.listen", _error, lock_seconds=LOCK_SECONDS))


def _error(fault: SocketFault, message: str, hint: str) -> AddressError:
    return AddressError(_CODES[fault], message, hint=hint)

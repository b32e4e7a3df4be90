"""The service behind a door (`sidecar.keys.door`): serves whoever hands it a connection, and has no socket of its own."""

from __future__ import annotations

import asyncio
import os
import socket
from typing import TYPE_CHECKING

from sidecar.signer.connection import Connection
from sidecar.sockets import receive_descriptors
from sidecar.tasks import spawn

if TYPE_CHECKING:
    from sidecar.signer.service import SignerService


class Porter:
    """Takes connections in at our end of the door."""

    def __init__(self, service: SignerService, sock: socket.socket) -> None:
        self._service = service
        self._sock = sock
        self._loop = asyncio.get_running_loop()

    def start(self) -> None:
        """Begins to take them in: also those that wait already."""
        self._sock.setblocking(False)
        self._loop.add_reader(self._sock, self._ready)

    def close(self) -> None:
        """Takes no more in."""
        self._loop.remove_reader(self._sock)
        self._sock.close()

    def _ready(self) -> None:
        try:
            _, descriptors, _ = receive_descriptors(self._sock, 1, 1)
        except OSError:  # nobody is there after all, or no descriptor is left: who asks tries again
            return
        for descriptor in descriptors:
            try:
                sock = socket.socket(fileno=descriptor)
            except OSError:  # not one of us, whatever it is
                os.close(descriptor)
            else:
                spawn(self._take_in(sock), name="signer-door")

    async def _take_in(self, sock: socket.socket) -> None:
        sock.setblocking(False)
        try:
            await self._loop.connect_accepted_socket(lambda: Connection(self._service), sock)
        except OSError:  # it is gone again
            sock.close()

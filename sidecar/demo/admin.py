"""Questions to a sidecar's admin socket."""

from __future__ import annotations

import http.client
import json
import socket
from typing import TYPE_CHECKING

from sidecar.demo.outcome import UnexpectedError

if TYPE_CHECKING:
    from pathlib import Path

_SECONDS = 2.0


class _UnixConnection(http.client.HTTPConnection):
    def __init__(self, path: Path) -> None:
        super().__init__("sidecar", timeout=_SECONDS)
        self._path = path

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.sock.settimeout(_SECONDS)
        self.sock.connect(str(self._path))


def ready(path: Path) -> bool:
    """Says whether the sidecar with that socket is ready."""
    connection = _UnixConnection(path)
    try:
        connection.request("GET", "/ready")
        return connection.getresponse().status == http.client.OK
    except (OSError, http.client.HTTPException):
        return False
    finally:
        connection.close()


def identity(path: Path) -> dict[str, str | int]:
    """What the sidecar with that socket says of its own identity (``/certs``). Raises UnexpectedError."""
    connection = _UnixConnection(path)
    try:
        connection.request("GET", "/certs")
        (shown,) = json.loads(connection.getresponse().read())["certs"]
    except (OSError, http.client.HTTPException, ValueError, LookupError, TypeError) as error:
        raise UnexpectedError(f"{path.name} does not tell its identity: {type(error).__name__}", str(error)) from error
    else:
        found: dict[str, str | int] = shown
        return found
    finally:
        connection.close()

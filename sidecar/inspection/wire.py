"""A TCP connection to a peer that nobody trusts yet: one time for all of it, and a bound on what it sends."""

from __future__ import annotations

import socket
import time
from typing import TYPE_CHECKING, Final

from sidecar.inspection.errors import InspectCode, InspectError

if TYPE_CHECKING:
    from types import TracebackType
    from typing import Self

#: What a peer may send altogether. OpenSSL takes certificate messages of up to 100 KiB.
MOST_BYTES: Final = 256 * 1024
_BLOCK: Final = 16 * 1024
#: RFC 8446 5.1: what a server's first record can be, a handshake message or an alert.
_RECORDS: Final = (0x15, 0x16)


class Wire:
    """Dials when it is entered; every wait ends when ``seconds`` have passed since then. Raises InspectError."""

    def __init__(self, host: str, port: int, seconds: float) -> None:
        self.address = f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
        self._place = (host, port)
        self._seconds = seconds
        self._deadline = time.monotonic() + seconds
        self._received = 0
        self._sock: socket.socket | None = None

    def __enter__(self) -> Self:
        try:
            self._sock = socket.create_connection(self._place, self._left())
        except TimeoutError:
            raise self._late() from None
        except OSError as error:
            # A name that is not found has no strerror of the system, but one of the resolver.
            why = (error.strerror or type(error).__name__).lower()
            raise InspectError(
                InspectCode.UNREACHABLE,
                f"{self.address} cannot be reached: {why}",
                hint="is the name right, does it listen?",
            ) from None
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._sock is not None:
            self._sock.close()

    @property
    def remote(self) -> str:
        """The IP address that answers."""
        return str(self._socket().getpeername()[0])

    def send(self, data: bytes) -> None:
        """Sends all of it; what a peer that has closed does not take is lost: what it said before is still to be read."""
        try:
            if data:
                self._socket().sendall(data)
        except TimeoutError:
            raise self._late() from None
        except OSError:
            return

    def receive(self) -> bytes:
        """Returns what comes next; nothing where the peer has closed or reset the connection."""
        try:
            data = self._socket().recv(_BLOCK)
        except TimeoutError:
            raise self._late() from None
        except OSError:
            return b""
        if not self._received and data:
            self._look_at(data)
        self._received += len(data)
        if self._received > MOST_BYTES:
            raise InspectError(InspectCode.TOO_MUCH, f"{self.address} sent more than {MOST_BYTES // 1024} KiB")
        return data

    def receive_within(self, seconds: float) -> bytes | None:
        """Returns what comes next, as ``receive``; None where nothing came in so many seconds."""
        try:
            self._socket().settimeout(min(seconds, self._left()))
            waiting = self._socket().recv(1, socket.MSG_PEEK)
        except TimeoutError:
            return None
        except OSError:
            return b""
        return self.receive() if waiting else b""

    def _look_at(self, first: bytes) -> None:
        if first[0] in _RECORDS:
            return
        if first.startswith(b"HTTP/"):
            raise InspectError(
                InspectCode.PLAIN_HTTP,
                f"{self.address} answers in plain HTTP, without TLS",
                hint="is this the agent's own port, and not its sidecar's?",
            )
        raise InspectError(InspectCode.NOT_TLS, f"{self.address} answers, but not in TLS", hint="is it the right port?")

    def _socket(self) -> socket.socket:
        assert self._sock is not None  # noqa: S101 - it was entered
        self._sock.settimeout(self._left())
        return self._sock

    def _left(self) -> float:
        left = self._deadline - time.monotonic()
        if left <= 0:
            raise self._late()
        return left

    def _late(self) -> InspectError:
        return InspectError(
            InspectCode.TIMEOUT,
            f"{self.address} was not done after {self._seconds:g} s",
            hint="--timeout gives it longer",
        )

"""One connection to an issuer, in a thread that may block, bounded in every direction.

Two limits of time: each step has one, and all of them together another, which holds against a server that sends one
byte a second. The thread looks at both before each step; `Wire.stop`, from any other thread, wakes it where it waits.
What no limit reaches is the resolver: a thread inside it goes on until it returns, and nobody waits for it.

`http.client` gets this in place of a socket.
"""

from __future__ import annotations

import contextlib
import errno
import io
import os
import socket
import ssl
import threading
import time
from enum import StrEnum
from typing import TYPE_CHECKING, Final

from sidecar.tokens.codes import SourceCode, SourceError

if TYPE_CHECKING:
    from _typeshed import ReadableBuffer, WriteableBuffer

    from sidecar.tls.contexts import BareContext
    from sidecar.tokens.issuer.url import Endpoint

#: The longest body of an answer, in bytes. Key sets and metadata commonly have 1 to 10 KiB.
MAX_BODY: Final = 256 * 1024
#: All that is read from one connection: the body, and as much again for head and chunk sizes.
MAX_RECEIVED: Final = 2 * MAX_BODY


class Stage(StrEnum):
    """What was under way when it failed; for people."""

    LOOKUP = "while its name was looked up"
    CONNECT = "while connecting"
    HANDSHAKE = "in the TLS handshake"
    SEND = "while the request was sent"
    WAIT = "while its answer was awaited"
    READ = "while its answer was read"


class Wire:
    """A connection. All methods but `stop` are for the one thread that works on it, and raise OSError as sockets do.

    ``step``: the limit of one step, in seconds; ``deadline``: that of all, by `time.monotonic`.
    """

    def __init__(self, step: float, deadline: float) -> None:
        self.stage = Stage.LOOKUP
        self._step = step
        self._deadline = deadline
        self._received = 0
        self._lock = threading.Lock()  # held for no longer than a system call that does not block
        self._sock: socket.socket | None = None
        self._stopped = False

    def open(self, endpoint: Endpoint, context: BareContext | None) -> None:
        """Connects to whichever address of the host answers first in their order, and makes a handshake."""
        # As bytes: text goes through the IDNA codec first, which knows names that it does not like.
        found = socket.getaddrinfo(endpoint.host.encode("ascii"), endpoint.port, type=socket.SOCK_STREAM)
        self.stage = Stage.CONNECT
        sock = self._connect([(family, address) for family, _, _, _, address in found])
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        if context is not None:
            self.stage = Stage.HANDSHAKE
            # A body that ends with the connection is whole only if that ends with close_notify.
            context.sslsocket_class = _Secured
            secured = context.wrap_socket(
                sock, server_hostname=endpoint.host, do_handshake_on_connect=False, suppress_ragged_eofs=False
            )
            self._hold(secured)
            secured.settimeout(self._seconds())
            secured.do_handshake()
        self.stage = Stage.SEND

    def stop(self) -> None:
        """Ends whatever the thread waits for, and all that it would begin. For any thread; blocks nothing."""
        with self._lock:
            self._stopped = True
            if self._sock is not None:
                # That of TLS sockets also makes them plain ones, under the feet of whoever uses them.
                with contextlib.suppress(OSError):  # it is not connected yet, or no longer
                    socket.socket.shutdown(self._sock, socket.SHUT_RDWR)

    def end(self) -> None:
        """Closes. Under the lock, or `stop` could shut down a stranger that was given the same number."""
        with self._lock:
            sock, self._sock = self._sock, None
            if sock is not None:
                sock.close()

    def sendall(self, data: ReadableBuffer) -> None:
        """Sends it all."""
        sock = self._open_socket()
        sock.settimeout(self._seconds())
        sock.sendall(data)

    def makefile(self, _mode: str) -> io.BufferedReader:
        """Returns what the answer is read from."""
        return io.BufferedReader(_Incoming(self))

    def close(self) -> None:
        """Does nothing: `http.client` closes its socket as soon as it has made a file of it; see `end`."""

    def receive(self, buffer: WriteableBuffer) -> int:
        """Reads what is there, 0 at the end. Raises SourceError (TOO_LARGE) too."""
        sock = self._open_socket()
        if self._received > MAX_RECEIVED:
            raise SourceError(SourceCode.TOO_LARGE, f"an issuer's answer has more than {MAX_RECEIVED} bytes in all")
        sock.settimeout(self._seconds())
        count = sock.recv_into(buffer)
        self._received += count
        return count

    def _connect(self, addresses: list[tuple[socket.AddressFamily, tuple[object, ...]]]) -> socket.socket:
        failure = OSError("the name has no address")
        for family, address in addresses:
            self.end()
            try:
                sock = socket.socket(family, socket.SOCK_STREAM)
                self._hold(sock)
                sock.settimeout(self._seconds())
                sock.connect(address)
            except OSError as error:
                failure = error
            else:
                return sock
        try:
            raise failure
        finally:
            del failure  # its traceback holds this frame, and those of the request

    def _hold(self, sock: socket.socket) -> None:
        with self._lock:
            self._sock = sock  # `end` closes it, whatever happens
        self._seconds()

    def _open_socket(self) -> socket.socket:
        if self._sock is None:
            raise ConnectionAbortedError("closed")
        return self._sock

    def _seconds(self) -> float:
        """The time that the next step has; never 0, which sockets take for something else."""
        left = self._deadline - time.monotonic()
        if self._stopped or left <= 0:
            raise TimeoutError
        return min(left, self._step)


class _Secured(ssl.SSLSocket):
    """One that is closed if it cannot be made: where the other side has reset already, CPython only forgets it."""

    def getpeername(self) -> object:
        """Says who is at the other end; asked when a TLS socket is made, before anybody else has a hold of it."""
        try:
            return super().getpeername()
        except OSError:
            self.close()
            raise ConnectionResetError(errno.ECONNRESET, os.strerror(errno.ECONNRESET)) from None


class _Incoming(io.RawIOBase):
    """What arrives, for the buffered reader that `http.client` reads lines from."""

    def __init__(self, wire: Wire) -> None:
        self._wire = wire

    def readable(self) -> bool:
        """Says yes."""
        return True

    def readinto(self, buffer: WriteableBuffer, /) -> int:
        """Reads as `Wire.receive`."""
        return self._wire.receive(buffer)

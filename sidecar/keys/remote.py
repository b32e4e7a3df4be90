"""A key behind a signer service (`sidecar signer`): used over a UNIX socket, never seen.

The service is another party, whoever runs it. Every signature is verified with the public key that was there at the start,
which is that of our certificate, so that an impostor at the socket's path can withhold signatures and nothing else: what it
is asked to sign holds no secret. Whatever it does or leaves undone ends within the time limit. Each connection is for one
exchange at a time; a few that have done theirs wait for the next, so that several threads can sign at once.
"""

from __future__ import annotations

import socket
import threading
import time
from contextlib import suppress
from typing import TYPE_CHECKING, Final, Protocol

from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import load_der_public_key

from sidecar.keys import wire
from sidecar.keys.errors import SignCode, SignError
from sidecar.keys.protection import Protection
from sidecar.keys.selftest import check_signature
from sidecar.keys.signer import CURVES
from sidecar.keys.spec import RemoteKey

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from sidecar.keys.signer import Hash

#: Connections that wait for the next signature: as many as threads sign at once in a proxy, and some more.
IDLE: Final = 8
#: Between two tries to connect while the service's queue is full, in seconds: the kernel refuses at once (connect(2)).
_PAUSE: Final = 0.01
_REFUSED_HINT: Final = (
    "its log says more; it signs no tokens but those that its --spiffe-id and --client-assertion name"
)


class Service(Protocol):
    """A way to a signer service. ``name`` is what messages call it, ``hint`` what to do where it cannot be reached."""

    name: str
    hint: str

    def connect(self, left: Callable[[], float]) -> socket.socket:
        """Makes a connection within the seconds that ``left`` says. Raises OSError, and what ``left`` raises."""

    def close(self) -> None:
        """Makes no more of them."""


class ServiceSocket:
    """The UNIX socket of `sidecar signer`."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self.name = f"the signer service at {path}"
        self.hint = f"start it: sidecar signer --listen unix:{path} --key KEY"

    def connect(self, left: Callable[[], float]) -> socket.socket:
        """Connects, waiting for a place in its queue."""
        sock = socket.socket(socket.AF_UNIX)
        try:
            while True:
                sock.settimeout(left())
                try:
                    sock.connect(str(self._path))
                except BlockingIOError:
                    time.sleep(_PAUSE)
                else:
                    return sock
        except BaseException:
            sock.close()
            raise

    def close(self) -> None:
        """There is nothing to let go of."""


class RemoteSigner:
    """A `sidecar.keys.signer.Signer` whose key a signer service has. ``limit``: seconds for one signature."""

    def __init__(self, spec: RemoteKey | Service, *, limit: float, protection: Protection = Protection.REMOTE) -> None:
        """Asks for the public key. Raises SignError.

        ``protection`` is what the service says of itself, for whoever can believe it.
        """
        self._service = ServiceSocket(spec.path) if isinstance(spec, RemoteKey) else spec
        self.protection = protection
        self._limit = limit
        self._lock = threading.Lock()
        self._idle: list[_Link] = []  # the one used last is the last
        self._closed = False
        deadline = _Deadline(self._service, limit)
        try:
            link = _Link(self._service, deadline)
            self.public_key = link.public_key(deadline)
        except BaseException:
            self._service.close()
            raise
        self._put_back(link)

    def sign(self, message: bytes, hash_: Hash) -> bytes:
        """Lets the service sign, within the time limit. Raises SignError."""
        deadline = _Deadline(self._service, self._limit)
        try:
            request = wire.encode_request(wire.SignRequest(hash_, message))
        except wire.WireError as error:
            raise SignError(
                SignCode.REFUSED,
                f"no signer service signs that: {error}",
                hint="it signs TLS 1.3 handshakes, self-tests and tokens alone: is the chain in x5c too long?",
            ) from None
        signature = self._signature(request, deadline)
        check_signature(self.public_key, signature, message, hash_)
        return signature

    def close(self) -> None:
        """Closes the connections that wait; one that is in use is closed when its exchange ends."""
        with self._lock:
            self._closed = True
            idle, self._idle = self._idle, []
        for link in idle:
            link.close()
        self._service.close()

    def _signature(self, request: bytes, deadline: _Deadline) -> bytes:
        link = self._waiting()
        if link is not None:
            # Broken: the service was restarted, or closed what waited for too long. To sign twice does no harm.
            with suppress(_BrokenError):
                return self._exchanged(link, request, deadline)
        link = _Link(self._service, deadline)
        if link.public_key(deadline) != self.public_key:
            link.close()
            raise SignError(
                SignCode.NO_KEY,
                f"{self._service.name} has another key now",
                hint="start it with the key of our certificate, or have a certificate issued for the key it has",
            )
        return self._exchanged(link, request, deadline)

    def _exchanged(self, link: _Link, request: bytes, deadline: _Deadline) -> bytes:
        reply = link.ask(request, deadline)
        self._put_back(link)
        return _payload(reply, self._service)

    def _waiting(self) -> _Link | None:
        with self._lock:
            if self._closed:
                raise SignError(SignCode.CLOSED, "the signer service was let go of")
            return self._idle.pop() if self._idle else None

    def _put_back(self, link: _Link) -> None:
        with self._lock:
            if not self._closed and len(self._idle) < IDLE:
                self._idle.append(link)
                return
        link.close()


class _Deadline:
    """The end of the time that one signature has, with everything it takes."""

    def __init__(self, service: Service, limit: float) -> None:
        self._service = service
        self._limit = limit
        self._end = time.monotonic() + limit

    def left(self) -> float:
        """Seconds, more than none. Raises SignError (TIMEOUT)."""
        left = self._end - time.monotonic()
        if left <= 0:
            raise self.error()
        return left

    def error(self) -> SignError:
        return SignError(
            SignCode.TIMEOUT,
            f"{self._service.name} did not answer within {self._limit:g} s",
            hint="is it, or the device behind it, hung? `sidecar key show` tries it",
        )


class _BrokenError(SignError):
    """The connection ended before the reply: no news of one that has waited, and unavailable where it is new."""


class _Link:
    """One connection to the service. It is closed by whatever is raised in it."""

    def __init__(self, service: Service, deadline: _Deadline) -> None:
        """Connects. Raises SignError."""
        self._service = service
        self._sock = _connected(service, deadline)

    def close(self) -> None:
        self._sock.close()

    def public_key(self, deadline: _Deadline) -> ec.EllipticCurvePublicKey:
        """Asks for the key. Raises SignError."""
        reply = self.ask(wire.encode_request(wire.PublicKeyRequest()), deadline)
        try:
            return _public_key(_payload(reply, self._service), self._service)
        except SignError:
            self.close()
            raise

    def ask(self, request: bytes, deadline: _Deadline) -> wire.Reply:
        """Sends a request and waits for the reply. Raises SignError, _BrokenError where the connection ends."""
        reply = None
        try:
            reply = self._exchange(request, deadline)
        except TimeoutError:
            raise deadline.error() from None
        except OSError as error:
            raise self._broken(error.strerror or type(error).__name__) from None
        except wire.WireError as error:
            raise SignError(
                SignCode.FAILED,
                f"what answers as {self._service.name} is none: {error}",
                hint="is it another program, or another version of sidecar?",
            ) from None
        finally:
            if reply is None:
                self.close()
        return reply

    def _exchange(self, request: bytes, deadline: _Deadline) -> wire.Reply:
        self._sock.settimeout(deadline.left())
        self._sock.sendall(request)
        data = b""
        while (reply := wire.parse_reply(data)) is None:
            self._sock.settimeout(deadline.left())
            more = self._sock.recv(wire.MAX_REPLY)
            if not more:
                raise self._broken("it closed the connection")
            data += more
        return reply

    def _broken(self, why: str) -> _BrokenError:
        return _BrokenError(
            SignCode.UNAVAILABLE,
            f"{self._service.name} broke off: {why}",
            hint="its log says why: does it run, and does it serve our uid (--uid)?",
        )


def _connected(service: Service, deadline: _Deadline) -> socket.socket:
    try:
        return service.connect(deadline.left)
    except OSError as error:
        raise SignError(
            SignCode.UNAVAILABLE,
            f"{service.name} cannot be reached: {error.strerror or error}",
            hint=service.hint,
        ) from None


def _payload(reply: wire.Reply, service: Service) -> bytes:
    if isinstance(reply, wire.Done):
        return reply.payload
    # That its key was let go of is the end of the service, not of us.
    code = SignCode.UNAVAILABLE if reply.code is SignCode.CLOSED else reply.code
    hint = _REFUSED_HINT if code is SignCode.REFUSED else "its log says more"
    raise SignError(code, f"{service.name} refused: {reply.code}", hint=hint)


def _public_key(spki: bytes, service: Service) -> ec.EllipticCurvePublicKey:
    key = None
    with suppress(ValueError, UnsupportedAlgorithm):
        key = load_der_public_key(spki)
    if not isinstance(key, ec.EllipticCurvePublicKey) or not isinstance(key.curve, CURVES):
        raise SignError(
            SignCode.FAILED,
            f"what answers as {service.name} shows no public key on P-256 or P-384",
            hint="is it another program, or another version of sidecar?",
        )
    return key

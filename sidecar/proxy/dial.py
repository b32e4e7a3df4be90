"""Making one connection to an upstream: with a permit, within the limits, and with a name for whatever goes wrong."""

from __future__ import annotations

import asyncio
import errno
import socket
from typing import TYPE_CHECKING, Protocol, TypeVar

from sidecar.errors import SidecarError
from sidecar.policy.decision import Permit
from sidecar.proxy.failure import DialError, HandshakeQueueError, HandshakeTimeoutError, ProxyCode, SigningLateError
from sidecar.tls.failure import SigningFailedError

if TYPE_CHECKING:
    from sidecar.proxy.hub import Hub
    from sidecar.proxy.stream import Stream

T = TypeVar("T")

#: What the system says when it has nothing left for us. That is no fault of the upstream.
EXHAUSTED = frozenset({errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM})


class Place(Protocol):
    """Where to connect to; ``text`` names it in the log."""

    text: str

    async def open(self, stream: Stream) -> None:
        """Makes the connection whose protocol is ``stream``; raises OSError."""


def demand(permit: Permit) -> None:
    """Raises TypeError for anything but a permit (DESIGN 4, rule 1)."""
    # The type checker says it; this says it to code that was not checked.
    if not isinstance(permit, Permit):
        raise TypeError("an upstream is reached with a permit only")


def over_limit() -> DialError:
    """Returns the error of ``upstream_connections``."""
    return DialError(ProxyCode.LIMIT_UPSTREAM_CONNECTIONS, "too many connections to this upstream")


async def connect(hub: Hub, where: Place, stream: Stream, ready: asyncio.Future[T]) -> None:
    """Connects a stream within ``connect_timeout``; ``ready`` is resolved, or given its error, by the stream's user.

    Raises:
        DialError: the upstream refuses, does not answer in time, or is not who it should be. Whatever is raised, a
            stream that has a connection is the caller's to end.

    """
    connected = False
    try:
        async with asyncio.timeout(hub.limits.connect_timeout):
            await where.open(stream)
            connected = True
            await ready
    except BaseException as error:
        if not ready.cancel() and not ready.cancelled():
            ready.exception()  # seen: it came while this task was being cancelled
        if not connected:
            stream.disown()
        failure = dial_error(error, where.text)
        if failure is None or failure is error:
            failure = None
            raise
        try:
            raise failure from error
        finally:
            del failure  # its traceback has this frame, and would keep it and all that it names


def dial_error(error: BaseException, text: str) -> DialError | None:
    """Names why a connection could not be made; None for what is no failure of the upstream (a cancellation)."""
    if isinstance(error, DialError):
        return error  # whoever opens it has said so
    # The latter: the same limit, where a busy loop looks at the stream's deadline first.
    if isinstance(error, (TimeoutError, HandshakeTimeoutError)):
        return DialError(ProxyCode.UPSTREAM_CONNECT_TIMEOUT, f"{text} did not answer in time")
    if isinstance(error, (ConnectionRefusedError, FileNotFoundError)):  # the latter: no such socket file
        return DialError(ProxyCode.UPSTREAM_REFUSED, f"nothing listens on {text}")
    if isinstance(error, socket.gaierror):
        return DialError(ProxyCode.UPSTREAM_NAME, f"the name in {text} cannot be resolved")
    if isinstance(error, (SigningFailedError, SigningLateError, HandshakeQueueError)):
        return DialError(ProxyCode.SIGNING, str(error), cause=error.code)
    if isinstance(error, SidecarError):
        return DialError(ProxyCode.UPSTREAM_TLS, str(error), cause=error.code)
    if isinstance(error, ConnectionResetError):
        return DialError(ProxyCode.UPSTREAM_RESET, f"{text} closed the connection before it was ready")
    if isinstance(error, OSError) and error.errno in EXHAUSTED:
        return DialError(ProxyCode.OUT_OF_RESOURCES, f"{text} cannot be dialled: {error.strerror}")
    if isinstance(error, OSError):
        return DialError(ProxyCode.UPSTREAM_UNREACHABLE, f"{text} cannot be reached: {error.strerror or error}")
    return None

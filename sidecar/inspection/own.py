"""The handshake that the proxy makes: with our own identity and full verification, and a second one that tries to resume."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Final

from sidecar.errors import SidecarError
from sidecar.tls.engine import TlsEngine
from sidecar.tls.failure import TlsCode, TlsError

if TYPE_CHECKING:
    import ssl
    from collections.abc import Callable

    from sidecar.clock import Clock
    from sidecar.inspection.wire import Wire
    from sidecar.tls.contexts import Proving

#: How long a peer has, after the handshake, to refuse our certificate or to give a session ticket, in seconds.
TICKET_SECONDS: Final = 1.0


@dataclass(frozen=True, slots=True)
class Own:
    """What came of it. ``name`` is the SPIFFE ID that was proven, or the host name. ``resumed``: whether a second handshake resumed the first one's session; None where none was tried."""

    name: str
    pin: str
    version: str | None
    cipher: str | None
    alpn: str | None
    resumed: bool | None = None


def handshake(
    dial: Callable[[], Wire], context: Proving, server_name: str | None, clock: Clock, *, resume: bool
) -> Own:
    """Connects as the proxy does, once and, where ``resume``, a second time. No application data is sent.

    Raises InspectError, TlsError or VerificationError: the code is the one that the proxy would log.
    """
    first, session = _connect(dial, context, server_name, clock, None)
    own = _own(first)
    if not resume or session is None:
        return own
    second, _ = _connect(dial, context, server_name, clock, session)
    return replace(own, resumed=second.resumed)


def _own(engine: TlsEngine) -> Own:
    if engine.peer is not None:
        return Own(str(engine.peer.id), str(engine.peer.pin), engine.version, engine.cipher, engine.alpn)
    if engine.site is not None:
        return Own(engine.site.name, str(engine.site.pin), engine.version, engine.cipher, engine.alpn)
    raise RuntimeError("a handshake was done without a proven peer")


def _connect(
    dial: Callable[[], Wire],
    context: Proving,
    server_name: str | None,
    clock: Clock,
    session: ssl.SSLSession | None,
) -> tuple[TlsEngine, ssl.SSLSession | None]:
    with dial() as wire:
        engine = TlsEngine(context, server_name=server_name, session=session)
        try:
            while not engine.handshake(clock.wall()):
                wire.send(engine.to_send())
                _hear(engine, wire.receive())
            wire.send(engine.to_send())
            found = _ticket(engine, wire) if engine.peer is not None else None
            engine.close()
        except SidecarError:
            wire.send(engine.to_send())  # the alert, or nothing
            raise
        wire.send(engine.to_send())
        return engine, found


def _ticket(engine: TlsEngine, wire: Wire) -> ssl.SSLSession | None:
    """Waits for the server's verdict on us, which over TLS 1.3 comes after our handshake is done: a ticket, or an alert."""
    while (session := engine.session()) is None:
        data = wire.receive_within(TICKET_SECONDS)
        if data is None:
            return None
        if not data:
            raise TlsError(TlsCode.TRUNCATED, "the peer closed after the handshake: it does not take our certificate")
        _hear(engine, data)
        engine.read()  # raises its alert; what else it may say is nobody's business here
    return session


def _hear(engine: TlsEngine, data: bytes) -> None:
    if data:
        engine.receive(data)
    else:
        engine.receive_eof()

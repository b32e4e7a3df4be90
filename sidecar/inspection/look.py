"""What any TLS peer presents to a client without a certificate, seen by pyOpenSSL.

Python's own ``ssl`` shows no group, no list of authorities, and no chain of a handshake that fails. Nothing is verified
here, so every version from TLS 1.0 on and every cipher is offered: whatever is there is to be seen. No application data is
ever sent.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

from OpenSSL import SSL, crypto

from sidecar.inspection.errors import InspectCode, InspectError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from sidecar.inspection.wire import Wire

#: How long a peer that asked for a certificate has to say that it wants one, in seconds: over TLS 1.3 it says so after the
#: client's handshake is done.
JUDGEMENT_SECONDS: Final = 1.0
#: Names of authorities that are kept.
MOST_AUTHORITIES: Final = 100
_BLOCK: Final = 16 * 1024
#: RFC 8446 6, RFC 5246 7.2: the alerts that a peer may answer with.
ALERTS: Final = {
    0: "close_notify",
    10: "unexpected_message",
    20: "bad_record_mac",
    22: "record_overflow",
    40: "handshake_failure",
    42: "bad_certificate",
    43: "unsupported_certificate",
    44: "certificate_revoked",
    45: "certificate_expired",
    46: "certificate_unknown",
    47: "illegal_parameter",
    48: "unknown_ca",
    49: "access_denied",
    50: "decode_error",
    51: "decrypt_error",
    70: "protocol_version",
    71: "insufficient_security",
    80: "internal_error",
    86: "inappropriate_fallback",
    90: "user_canceled",
    109: "missing_extension",
    110: "unsupported_extension",
    112: "unrecognized_name",
    113: "bad_certificate_status_response",
    115: "unknown_psk_identity",
    116: "certificate_required",
    120: "no_application_protocol",
}


@dataclass(frozen=True, slots=True)
class Seen:
    """What was presented. ``chain`` is DER, leaf first, as it was sent.

    ``asks``: it asked for a client certificate, of one of ``authorities`` where it names some. ``verdict`` is the alert, or
    ``closed``, with which it answered that there is none; empty where it goes on.
    """

    version: str
    cipher: str | None
    group: str | None
    alpn: str | None
    chain: tuple[bytes, ...]
    asks: bool = False
    authorities: tuple[str, ...] = ()
    verdict: str = ""


@dataclass(slots=True)
class _Heard:
    """What OpenSSL tells while it works."""

    asks: bool = False
    alerts: list[str] = field(default_factory=list)


def look(wire: Wire, server_name: str | None, alpn: Iterable[str]) -> Seen:
    """Shakes hands on an open connection and says what was seen. Raises InspectError where there is nothing to see."""
    heard = _Heard()
    connection = SSL.Connection(_context(alpn, heard), None)
    connection.set_connect_state()
    if server_name is not None:
        connection.set_tlsext_host_name(server_name.encode("ascii"))
    try:
        _advance(connection, wire, connection.do_handshake)
    except SSL.Error as error:
        if not _chain(connection):
            raise _failed(wire, heard, error) from None
        # TLS 1.2 refuses a client without a certificate within the handshake: its chain was shown all the same.
        return _seen(connection, heard, _verdict(heard))
    return _seen(connection, heard, _judgement(connection, wire, heard) if heard.asks else "")


def _context(alpn: Iterable[str], heard: _Heard) -> SSL.Context:
    context = SSL.Context(SSL.TLS_CLIENT_METHOD)
    context.set_min_proto_version(SSL.TLS1_VERSION)
    context.set_cipher_list(b"ALL:@SECLEVEL=0")
    context.set_verify(SSL.VERIFY_NONE)
    names = [name.encode("ascii") for name in alpn]
    if names:
        context.set_alpn_protos(names)
    context.set_info_callback(_listener(heard))
    return context


def _listener(heard: _Heard) -> Callable[[SSL.Connection, int, int], None]:
    def told(connection: SSL.Connection, where: int, value: int) -> None:
        if where & SSL.SSL_CB_READ_ALERT == SSL.SSL_CB_READ_ALERT:
            number = value & 0xFF
            heard.alerts.append(ALERTS.get(number, f"number {number}"))
        # OpenSSL's names of states, ssl_stat.c: "... read server certificate request" in every version of TLS.
        elif where & SSL.SSL_CB_LOOP and b"read server certificate request" in connection.get_state_string():
            heard.asks = True

    return told


def _advance(connection: SSL.Connection, wire: Wire, step: Callable[[], object]) -> None:
    """Repeats a step of OpenSSL's until it is done; raises SSL.Error where it fails, with its alert sent."""
    while True:
        try:
            step()
        except SSL.WantReadError:
            pass
        else:
            return
        finally:
            _flush(connection, wire)
        data = wire.receive()
        if not data:
            raise InspectError(
                InspectCode.CLOSED,
                f"{wire.address} closed the connection in the handshake, without a TLS alert",
                hint="is it the right port? It may serve some addresses or names alone: --server-name",
            )
        connection.bio_write(data)


def _judgement(connection: SSL.Connection, wire: Wire, heard: _Heard) -> str:
    """Waits for what a server says to a client that has no certificate."""
    while (data := wire.receive_within(JUDGEMENT_SECONDS)) is not None:
        if not data:
            return _verdict(heard)
        connection.bio_write(data)
        try:
            while True:
                connection.recv(_BLOCK)
        except SSL.WantReadError:
            continue
        except SSL.Error:  # an alert, close_notify included
            return _verdict(heard)
    return ""


def _verdict(heard: _Heard) -> str:
    told = [alert for alert in heard.alerts if alert != "close_notify"]
    return told[-1] if told else "closed"


def _flush(connection: SSL.Connection, wire: Wire) -> None:
    data = b""
    try:
        while True:
            data += connection.bio_read(_BLOCK)
    except SSL.WantReadError:
        wire.send(data)


def _seen(connection: SSL.Connection, heard: _Heard, verdict: str) -> Seen:
    names = connection.get_client_ca_list()[:MOST_AUTHORITIES] if heard.asks else []
    group = getattr(connection, "get_group_name", None)  # pyOpenSSL 25.1 and newer
    alpn = connection.get_alpn_proto_negotiated()
    return Seen(
        version=connection.get_protocol_version_name(),
        cipher=connection.get_cipher_name(),
        group=group() if group is not None else None,
        alpn=alpn.decode("ascii", "replace") or None,
        chain=tuple(_chain(connection)),
        asks=heard.asks,
        authorities=tuple(_text(name.get_components()) for name in names),
        verdict=verdict,
    )


def _chain(connection: SSL.Connection) -> list[bytes]:
    # Taken as OpenSSL has them: it reads what cryptography refuses to, and that is to be seen too.
    found = connection.get_peer_cert_chain() or []
    return [crypto.dump_certificate(crypto.FILETYPE_ASN1, certificate) for certificate in found]


def _text(components: list[tuple[bytes, bytes]]) -> str:
    return ", ".join(
        f"{name.decode('ascii', 'replace')}={value.decode('utf-8', 'replace')}" for name, value in components
    )


def _failed(wire: Wire, heard: _Heard, error: SSL.Error) -> InspectError:
    if heard.alerts:
        return InspectError(
            InspectCode.HANDSHAKE,
            f"{wire.address} refused the handshake with the TLS alert {heard.alerts[-1]}",
            hint="unrecognized_name, internal_error: --server-name; no_application_protocol: --alpn",
        )
    reasons = error.args[0] if error.args else []
    reason = reasons[-1][-1] if isinstance(reasons, list) and reasons else "no reason given"
    return InspectError(InspectCode.HANDSHAKE, f"the handshake with {wire.address} failed: {reason}")

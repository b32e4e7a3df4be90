"""Everything that goes wrong after a permit, and the one table that turns it into an answer."""

from __future__ import annotations

import errno
from enum import StrEnum
from typing import TYPE_CHECKING, ClassVar

from sidecar.errors import LocalError, PeerError, UpstreamError

if TYPE_CHECKING:
    from sidecar.sockets import Peer


class ProxyCode(StrEnum):
    """Stable codes of the ``error`` field in the log, in metrics and in answers."""

    # The upstream.
    UPSTREAM_REFUSED = "upstream_refused"
    UPSTREAM_UNREACHABLE = "upstream_unreachable"
    UPSTREAM_NAME = "upstream_name_unknown"
    UPSTREAM_FORBIDDEN = "upstream_address_forbidden"
    UPSTREAM_CONNECT_TIMEOUT = "upstream_connect_timeout"
    UPSTREAM_TLS = "upstream_tls"
    UPSTREAM_RESET = "upstream_reset"
    UPSTREAM_TIMEOUT = "upstream_timeout"
    UPSTREAM_STALLED = "upstream_stalled"
    UPSTREAM_BAD_RESPONSE = "upstream_bad_response"
    UPSTREAM_TRUNCATED = "upstream_truncated"
    UPSTREAM_GONE = "upstream_gone"
    STREAM_IDLE = "limit_stream_idle_timeout"
    TOTAL_TIMEOUT = "limit_total_timeout"
    # The end of a connection that carries requests, on either side.
    CONNECTION_LIFETIME = "limit_connection_lifetime"
    # The ends of a tunnel; those of its upstream have the codes above.
    TUNNEL_IDLE = "limit_tunnel_idle_timeout"
    TUNNEL_LIFETIME = "limit_tunnel_lifetime"
    CERTIFICATE_EXPIRED = "certificate_expired"
    CLIENT_RESET = "client_reset"
    CLIENT_TRUNCATED = "client_truncated"
    # What a reload ends, beside what the new policy denies.
    ENTRY_REMOVED = "entry_removed"
    ENTRY_CHANGED = "entry_changed"
    TRUST_CHANGED = "trust_changed"
    # The other end of the downstream connection.
    CLIENT_CLOSED = "client_closed"
    CLIENT_STALLED = "limit_stall_timeout"
    HEAD_TIMEOUT = "limit_head_timeout"
    IDLE_TIMEOUT = "limit_idle_timeout"
    BODY_BYTES = "limit_body_bytes"
    LAST_REQUEST = "limit_requests_per_connection"
    REQUEST_RATE = "limit_request_rate"
    HANDSHAKE_TIMEOUT = "limit_handshake_timeout"
    UID_NOT_ALLOWED = "uid_not_allowed"
    UID_UNKNOWN = "uid_unknown"
    AGENT_TLS = "agent_tls"
    # Tokens.
    TOKEN_UNAVAILABLE = "token_unavailable"  # noqa: S105 - a code
    # Ourselves.
    LIMIT_CONNECTIONS = "limit_connections"
    LIMIT_CONNECTIONS_PER_CALLER = "limit_connections_per_caller"
    LIMIT_HANDSHAKES = "limit_handshakes"
    LIMIT_HANDSHAKE_QUEUE = "limit_handshake_queue"
    LIMIT_TLS_RECORDS = "limit_tls_records"
    LIMIT_UPSTREAM_CONNECTIONS = "limit_upstream_connections"
    LIMIT_UPSTREAM_WAITING = "limit_upstream_waiting"
    RETRIES = "limit_retries"
    SIGNING_LATE = "signer_timeout"
    SIGNING = "signing_failed"
    OUT_OF_RESOURCES = "out_of_resources"
    LOG_FULL = "log_full"
    DRAINING = "draining"
    INTERNAL = "internal"


#: Code -> HTTP status, where the response has not begun. What is not here never becomes an answer.
STATUS: dict[ProxyCode, int] = {
    ProxyCode.UPSTREAM_REFUSED: 502,
    ProxyCode.UPSTREAM_UNREACHABLE: 502,
    ProxyCode.UPSTREAM_NAME: 502,
    ProxyCode.UPSTREAM_FORBIDDEN: 502,
    ProxyCode.UPSTREAM_CONNECT_TIMEOUT: 504,
    ProxyCode.UPSTREAM_TLS: 502,
    ProxyCode.UPSTREAM_RESET: 502,
    ProxyCode.UPSTREAM_TIMEOUT: 504,
    ProxyCode.UPSTREAM_STALLED: 504,
    ProxyCode.UPSTREAM_BAD_RESPONSE: 502,
    ProxyCode.UPSTREAM_TRUNCATED: 502,
    ProxyCode.UPSTREAM_GONE: 503,
    ProxyCode.CONNECTION_LIFETIME: 504,
    ProxyCode.CERTIFICATE_EXPIRED: 502,
    ProxyCode.CLIENT_STALLED: 408,
    ProxyCode.HEAD_TIMEOUT: 408,
    ProxyCode.BODY_BYTES: 413,
    ProxyCode.REQUEST_RATE: 429,
    ProxyCode.TOTAL_TIMEOUT: 504,
    ProxyCode.LIMIT_UPSTREAM_CONNECTIONS: 503,
    ProxyCode.LIMIT_UPSTREAM_WAITING: 503,
    ProxyCode.SIGNING: 503,
    ProxyCode.TOKEN_UNAVAILABLE: 503,
    ProxyCode.OUT_OF_RESOURCES: 503,
    ProxyCode.LOG_FULL: 503,
    ProxyCode.DRAINING: 503,
    ProxyCode.INTERNAL: 500,
}


#: How a stream ended, which does not know its side: what it says by the name that this has downstream -> upstream.
UPSTREAM_NAMES: dict[ProxyCode, ProxyCode] = {
    ProxyCode.CLIENT_STALLED: ProxyCode.UPSTREAM_STALLED,
    ProxyCode.CLIENT_RESET: ProxyCode.UPSTREAM_RESET,
}


class DialError(UpstreamError):
    """No connection to the upstream could be made. ``cause`` is the precise code where TLS has one."""

    def __init__(self, code: ProxyCode, message: str, *, cause: StrEnum | None = None) -> None:
        super().__init__(code, message)
        self.code: ProxyCode = code
        self.cause: StrEnum = code if cause is None else cause


class CutOffError(UpstreamError):
    """We ended the connection to an upstream, which has met a limit: the code says which."""

    def __init__(self, code: ProxyCode) -> None:
        super().__init__(code, "the upstream has met a limit")


class StrangerError(PeerError):
    """A process on this machine that the listener does not serve; ``client`` is None where nobody knows whose it is."""

    def __init__(self, code: ProxyCode, client: Peer | None) -> None:
        super().__init__(code, "the listener does not serve this user")
        self.code: ProxyCode = code
        self.client = client


class HandshakeTimeoutError(PeerError):
    """The peer did not finish its handshake within ``handshake_timeout``."""

    def __init__(self) -> None:
        super().__init__(ProxyCode.HANDSHAKE_TIMEOUT, "the TLS handshake was not finished in time")


class AgentTlsError(PeerError):
    """The agent began TLS inside a CONNECT to an http entry, whose TLS is the proxy's to do."""

    CODE: ClassVar[ProxyCode] = ProxyCode.AGENT_TLS

    def __init__(self) -> None:
        super().__init__(self.CODE, "the agent began TLS where HTTP is expected")


class HandshakeOutdatedError(PeerError):
    """A handshake that a reload has overtaken: what it was begun with is no longer in force. ``code`` says what."""

    def __init__(self, code: ProxyCode) -> None:
        super().__init__(code, "a reload came during the handshake")


class OwnCertificateError(LocalError):
    """Our own certificate has expired: a peer that did not mind gets nothing from us all the same."""

    def __init__(self) -> None:
        super().__init__(ProxyCode.CERTIFICATE_EXPIRED, "our own certificate has expired")


class SigningLateError(LocalError):
    """The device with our private key did not answer within ``sign_timeout``: the handshake is given up."""

    def __init__(self) -> None:
        super().__init__(ProxyCode.SIGNING_LATE, "the device with our private key did not answer in time")


class HandshakeQueueError(LocalError):
    """Too many handshakes wait for the device with our private key: this one is not begun."""

    def __init__(self) -> None:
        super().__init__(ProxyCode.LIMIT_HANDSHAKE_QUEUE, "too many handshakes wait for the device with our key")


class HandshakeLimitError(PeerError):
    """The oldest of too many handshakes: it gives way to a newcomer."""

    def __init__(self) -> None:
        super().__init__(ProxyCode.LIMIT_HANDSHAKES, "too many handshakes at once, and this one was the oldest")


class BindCode(StrEnum):
    """Why an address cannot be listened on."""

    IN_USE = "address_in_use"
    NOT_OURS = "address_not_available"
    FORBIDDEN = "address_forbidden"
    LOCKED = "address_locked"
    NOT_A_SOCKET = "address_no_socket"
    UIDS_UNKNOWN = "address_uids_unknown"
    FAILED = "address_failed"

    @classmethod
    def of(cls, error: OSError) -> BindCode:
        """Names what the kernel said."""
        known = {errno.EADDRINUSE: cls.IN_USE, errno.EADDRNOTAVAIL: cls.NOT_OURS, errno.EACCES: cls.FORBIDDEN}
        return known.get(error.errno or 0, cls.FAILED)

    @property
    def hint(self) -> str:
        """What to change."""
        return _BIND_HINTS[self]


_BIND_HINTS = {
    BindCode.IN_USE: "another process listens there: stop it, or name another port",
    BindCode.NOT_OURS: "this machine has no such address: name one of its own, or 127.0.0.1",
    BindCode.FORBIDDEN: "ports below 1024 need the capability CAP_NET_BIND_SERVICE: name a higher port",
    BindCode.LOCKED: "end the process that has locked the folder, or name another one",
    BindCode.NOT_A_SOCKET: "move the file away, or name another path",
    BindCode.UIDS_UNKNOWN: "let the agent connect to a UNIX socket: listen: unix:PATH",
    BindCode.FAILED: "look at the address in the configuration",
}


class BindError(LocalError):
    """An address that the configuration names cannot be listened on."""


class ReloadCode(StrEnum):
    """Why a reload is refused although the file is right."""

    NEEDS_RESTART = "reload_needs_restart"
    SYSTEM = "reload_system"

"""The configuration as frozen values: what a file says, checked, with every default filled in.

Times are seconds, sizes bytes, paths absolute. Nothing here can hold a secret: keys and secrets are named by where they
are.
"""

from __future__ import annotations

import ipaddress
from dataclasses import dataclass, field
from enum import StrEnum
from typing import TYPE_CHECKING, ClassVar, TypeAlias

from sidecar.limits import Limits

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from sidecar.identity.pattern import IdPattern
    from sidecar.identity.pins import Pin
    from sidecar.identity.spiffe import TrustDomain
    from sidecar.keys.spec import KeySpec
    from sidecar.policy.paths import PathPattern
    from sidecar.policy.rules import Rule
    from sidecar.tokens.settings import Issuer, SecretRef, SourceSettings


@dataclass(frozen=True, slots=True, order=True)
class TcpAddress:
    """A host and a port: an IP address in its canonical spelling without brackets, or a lower-case DNS name."""

    host: str
    port: int

    def __str__(self) -> str:
        """Returns ``host:port``, an IPv6 address in brackets."""
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"

    @property
    def ip(self) -> ipaddress.IPv4Address | ipaddress.IPv6Address | None:
        """The host as an IP address; None for a name."""
        try:
            return ipaddress.ip_address(self.host)
        except ValueError:
            return None

    @property
    def name(self) -> str | None:
        """The host where it is a DNS name."""
        return self.host if self.ip is None else None

    @property
    def loopback(self) -> bool:
        """Whether bytes sent there stay on this machine: a loopback address, or ``localhost`` (RFC 6761 6.3)."""
        ip = self.ip
        return self.host == "localhost" if ip is None else ip.is_loopback


@dataclass(frozen=True, slots=True, order=True)
class UnixAddress:
    """The absolute path of a UNIX socket."""

    #: It has no DNS name.
    name: ClassVar[None] = None

    path: str

    def __str__(self) -> str:
        """Returns ``unix:PATH``."""
        return f"unix:{self.path}"


Address: TypeAlias = TcpAddress | UnixAddress


class Protocol(StrEnum):
    """What an entry carries: requests, each decided by itself, or bytes, decided once for a connection."""

    HTTP = "http"
    TCP = "tcp"


class Tls(StrEnum):
    """Whom an outbound entry leads to: a peer that we prove and that proves us, or an ordinary HTTPS service."""

    MUTUAL = "mutual"
    PUBLIC = "public"


@dataclass(frozen=True, slots=True)
class Forward:
    """Where what an inbound entry permits goes, in plaintext."""

    address: Address
    protocol: Protocol = Protocol.HTTP

    def __str__(self) -> str:
        """Returns the URL as the file writes it."""
        return f"{self.protocol}{'+' if isinstance(self.address, UnixAddress) else '://'}{self.address}"


@dataclass(frozen=True, slots=True)
class Identity:
    """Where our own identity lives, and whom we can prove. ``certificate`` and a key in a file may be one file."""

    certificate: Path
    key: KeySpec
    trust: Mapping[TrustDomain, Path]


@dataclass(frozen=True, slots=True)
class Sources:
    """As much of an `Identity` as its section says soundly, so that every fault of its files is found at once.

    ``trust_sound`` is False when ``trust`` lacks an entry that the file tried to name.
    """

    certificate: Path | None = None
    key: KeySpec | None = None
    trust: Mapping[TrustDomain, Path] = field(default_factory=dict)
    trust_sound: bool = False


@dataclass(frozen=True, slots=True)
class TokenRefs:
    """What ``tokens`` and ``issuers`` name outside the file, with the key path of each, for faults of what is there."""

    cas: list[tuple[str, Path]] = field(default_factory=list)
    secrets: list[tuple[str, SecretRef]] = field(default_factory=list)


class Resumption(StrEnum):
    """Whether TLS sessions are resumed, which saves both ends their signature."""

    ALLOW = "allow"
    NEVER = "never"


class ProxyProtocol(StrEnum):
    """How an upstream is told who is at the other end of a connection."""

    V2 = "v2"


@dataclass(frozen=True, slots=True)
class Inbound:
    """One mutual-TLS listener and the callers it lets through to one local server."""

    name: str
    listen: TcpAddress
    forward: Forward
    allow: tuple[Rule, ...]
    resumption: Resumption | None = None
    proxy_protocol: ProxyProtocol | None = None


@dataclass(frozen=True, slots=True)
class Outbound:
    """One plaintext listener for the agent, and the one peer or service that its requests, or connections, go to.

    ``peer`` is None for an ordinary HTTPS service alone; ``passthrough`` and ``unsafe_private_addresses`` are about those.
    ``methods`` and ``paths`` are what requests may ask for, empty for anything.

    ``uids`` are the users beside our own whose processes may use ``listen``.
    ``hosts`` and ``origins`` are as `sidecar.policy.routes` parses them. ``server_name`` is the SNI to send: the DNS
    name in ``connect`` unless the file says otherwise, None for an IP address. ``host`` is the outgoing ``Host``, None
    for "as received". No pins means that chain and name decide. ``token`` is the name of the source whose tokens
    requests get, in the field ``token_header``, as the file spells it, behind ``token_scheme``, which may be empty.
    """

    name: str
    listen: Address
    connect: Address
    peer: IdPattern | None
    pins: frozenset[Pin] = frozenset()
    hosts: frozenset[bytes] = frozenset()
    server_name: str | None = None
    host: bytes | None = None
    origins: frozenset[bytes] = frozenset()
    protocol: Protocol = Protocol.HTTP
    resumption: Resumption | None = None
    token: str | None = None
    token_header: bytes = b"Authorization"
    token_scheme: bytes = b"Bearer"
    tls: Tls = Tls.MUTUAL
    passthrough: bool = False
    unsafe_private_addresses: bool = False
    methods: frozenset[bytes] = frozenset()
    paths: tuple[PathPattern, ...] = ()
    uids: frozenset[int] = frozenset()

    @property
    def service(self) -> TcpAddress:
        """Where an ordinary HTTPS service is; ValueError for the UNIX socket of a peer."""
        if isinstance(self.connect, UnixAddress):
            raise ValueError("an ordinary HTTPS service has no UNIX socket")  # noqa: TRY004 - as named_peer
        return self.connect

    @property
    def named_peer(self) -> IdPattern:
        """The peer, where there has to be one; ValueError for an ordinary HTTPS service."""
        if self.peer is None:
            raise ValueError("an ordinary HTTPS service has no SPIFFE ID")
        return self.peer


@dataclass(frozen=True, slots=True)
class Admin:
    """The administration socket, and which uids it serves beside our own and root."""

    listen: UnixAddress
    uids: frozenset[int] = frozenset()


@dataclass(frozen=True, slots=True)
class Health:
    """The listener for probes and metrics."""

    listen: Address


class LogFull(StrEnum):
    """What happens to a request whose access log line cannot be taken."""

    DROP = "drop"
    DENY = "deny"


@dataclass(frozen=True, slots=True)
class Config:
    """One configuration file. ``access_log`` is a file's path, None for standard output; ``source`` is the file.

    ``agent`` stands in no file: one more listener, for the agent of `sidecar exec`, which serves every outbound entry.
    """

    source: Path
    version: int
    identity: Identity
    inbound: tuple[Inbound, ...]
    outbound: tuple[Outbound, ...]
    admin: Admin
    health: Health | None = None
    access_log: Path | None = None
    log_full: LogFull = LogFull.DROP
    drain_timeout: float = 30.0
    resumption: Resumption = Resumption.ALLOW
    workers: int = 1
    limits: Limits = field(default_factory=Limits)
    tokens: tuple[SourceSettings, ...] = ()
    issuers: tuple[Issuer, ...] = ()
    agent: TcpAddress | None = None

    def resumption_of(self, entry: Inbound | Outbound) -> Resumption:
        """What an entry says about resumption, or else the file."""
        return entry.resumption or self.resumption

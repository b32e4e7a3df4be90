"""The TLS side of our own load generators."""

from __future__ import annotations

import socket
import ssl
from typing import TYPE_CHECKING

from bench.processes import HOST

if TYPE_CHECKING:
    from pathlib import Path

SSLContext = ssl.SSLContext  # noqa: TID251 - a caller that is not ours


def client_context(authority: Path, certificate: Path, key: Path) -> SSLContext:
    """A client that verifies the chain, shows its certificate, and speaks TLS 1.3 alone.

    SPIFFE certificates have no host name to check; whom it talks to it has started itself.
    """
    context = stranger_context()
    context.verify_mode = ssl.CERT_REQUIRED
    context.load_verify_locations(authority)
    context.load_cert_chain(certificate, key)
    return context


def stranger_context() -> SSLContext:
    """A client that has no certificate and asks for none."""
    context = SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    return context


def connect(port: int, timeout: float = 10.0) -> socket.socket:
    """A connection without Nagle's delay: a request right after the handshake would wait for the acknowledgement of it."""
    made = socket.create_connection((HOST, port), timeout=timeout)
    made.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return made

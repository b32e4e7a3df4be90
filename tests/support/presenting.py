"""Servers that present something to look at: TLS of other kinds, and what is no TLS at all."""

from __future__ import annotations

import ssl
from contextlib import suppress
from typing import TYPE_CHECKING

from OpenSSL import SSL

from tests.support.processes import SSLContext
from tests.support.raw import Raw

if TYPE_CHECKING:
    import socket
    from pathlib import Path

    from cryptography import x509

    from tests.support.ca import Identity


def tls(
    identity: Identity, authority: x509.Certificate | None = None, *, names: bool = False, **knobs: int
) -> tuple[Raw, list[bytes]]:
    """A pyOpenSSL server (knobs as in `foreign_context`), and what it was sent after the handshake.

    ``authority``: it asks for a certificate of this authority, and insists; ``names``: and says which authorities it means.
    """
    from tests.support.tls import foreign_context

    received: list[bytes] = []

    def serve(sock: socket.socket) -> None:
        context = foreign_context(identity, authority, **knobs)  # type: ignore[arg-type]  # its own knobs
        context.set_alpn_select_callback(
            lambda _, offered: b"http/1.1" if b"http/1.1" in offered else SSL.NO_OVERLAPPING_PROTOCOLS
        )
        if names:
            assert authority is not None
            context.add_client_ca(authority)
        sock.settimeout(None)
        connection = SSL.Connection(context, sock)
        connection.set_app_data([])
        connection.set_accept_state()
        try:
            connection.do_handshake()
            while True:
                received.append(connection.recv(65536))
        except SSL.Error:
            return

    return Raw(serve), received


def presenting(der: bytes, key_pem: bytes, folder: Path) -> Raw:
    """A server that presents these very bytes as its certificate, as long as OpenSSL reads them."""
    certificate, key = folder / "presented.crt", folder / "presented.key"
    certificate.write_text(ssl.DER_cert_to_PEM_cert(der))
    key.write_bytes(key_pem)
    context = SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate, key)

    def serve(sock: socket.socket) -> None:
        with suppress(OSError), context.wrap_socket(sock, server_side=True) as secured:
            secured.recv(65536)

    return Raw(serve)


def saying(data: bytes) -> Raw:
    """A server that says so much, whatever it is told, and waits for the end."""

    def serve(sock: socket.socket) -> None:
        sock.recv(1)
        sock.sendall(data)
        while sock.recv(65536):
            pass

    return Raw(serve)


def closing() -> Raw:
    """A server that closes after the first bytes."""
    return Raw(lambda sock: sock.recv(65536) and None)


def silent() -> Raw:
    """A server that never says anything."""

    def serve(sock: socket.socket) -> None:
        while sock.recv(65536):
            pass

    return Raw(serve)

"""Two ends of TLS in memory and a wire between them: ours, the standard library's, and pyOpenSSL's (another OpenSSL).

Every end has the same face: ``turn()`` lets it work, ``receive`` and ``to_send`` move bytes, and it keeps what it was
told (``plain``, ``error``, ``eof``, ``alerts`` as numbers of RFC 8446 6).
"""

from __future__ import annotations

import _ssl
import ctypes
import ssl
from typing import TYPE_CHECKING, Protocol

from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from OpenSSL import SSL, crypto

from sidecar.clock import Clock
from sidecar.errors import SidecarError
from sidecar.keys import software
from sidecar.keys.software import SoftwareKey
from sidecar.tls.contexts import Credentials, client_context, server_context
from sidecar.tls.engine import State, TlsEngine
from sidecar.tls.handover import path_holding
from tests.support.ca import DAY, Ca, Identity, tlv

if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

    from cryptography import x509

    from sidecar.identity.bundle import Bundles
    from sidecar.identity.peer import Peer
    from sidecar.tls.contexts import TlsContext

#: OpenSSL looks at the real clock.
NOW = Clock().wall()

CA = Ca(now=NOW)
INTERMEDIATE = CA.intermediate()
TOOLS = INTERMEDIATE.leaf("/agent/tools/1", lifetime=5 * DAY)
PLANNER = INTERMEDIATE.leaf("/agent/planner/1", lifetime=5 * DAY)

#: The numbers of RFC 8446 6.
BAD_CERTIFICATE, UNSUPPORTED_CERTIFICATE, CERTIFICATE_EXPIRED, CERTIFICATE_UNKNOWN = 42, 43, 45, 46
ILLEGAL_PARAMETER, UNKNOWN_CA, DECRYPT_ERROR, PROTOCOL_VERSION, CERTIFICATE_REQUIRED = 47, 48, 51, 70, 116


def credentials(identity: Identity) -> Credentials:
    return Credentials(identity.chain_pem, software.load(identity.key_pem))


def anybody(_peer: Peer) -> None:
    """Expects no peer in particular."""


def tools_context(identity: Identity = TOOLS, bundles: Bundles = CA.bundles, **knobs: Any) -> TlsContext:
    """The server's context, good unless something else is asked for."""
    return server_context(credentials(identity), bundles, **knobs)


def planner_context(
    identity: Identity = PLANNER, bundles: Bundles = CA.bundles, expect: Callable[[Peer], None] = anybody, **knobs: Any
) -> TlsContext:
    """The client's context, good unless something else is asked for."""
    return client_context(credentials(identity), bundles, CA.domain, expect, **knobs)


SSLContext = ssl.SSLContext  # noqa: TID251 - what our contexts cannot be needs one that is not ours


class End(Protocol):
    """One end of a wire."""

    sent: bytes

    def turn(self) -> None: ...

    def receive(self, data: bytes) -> None: ...

    def to_send(self) -> bytes: ...


class Ours:
    """A `TlsEngine` with an owner who does what the theory of operation asks for, and nothing else."""

    def __init__(self, engine: TlsEngine, *, now: float = NOW) -> None:
        self.engine = engine
        self.now = now
        self.plain = b""
        self.error: SidecarError | None = None
        self.sent = b""

    def turn(self) -> None:
        if self.error is not None:
            return
        try:
            if self.engine.handshake(self.now):
                while data := self.engine.read():
                    self.plain += data
        except SidecarError as error:
            self.error = error

    def receive(self, data: bytes) -> None:
        self.engine.receive(data)

    def receive_eof(self) -> None:
        self.engine.receive_eof()
        self.turn()

    def write(self, data: bytes) -> None:
        self.engine.write(data)

    def to_send(self) -> bytes:
        return self.engine.to_send()

    @property
    def open(self) -> bool:
        return self.engine.state is State.OPEN

    @property
    def code(self) -> str:
        return str(self.error.code) if self.error is not None else ""


class Stdlib:
    """A peer made of a bare ``ssl.SSLContext``, for what our contexts cannot be."""

    def __init__(self, context: SSLContext, *, server: bool, name: str | None = None) -> None:
        self._incoming, self.outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
        self.object = context.wrap_bio(self._incoming, self.outgoing, server_side=server, server_hostname=name)
        self.plain = b""
        self.error: ssl.SSLError | None = None
        self.done = self.eof = False
        self.sent = b""

    def turn(self) -> None:
        try:
            if not self.done:
                self.object.do_handshake()
                self.done = True
            while not self.eof:
                data = self.object.read(65536)
                self.plain += data
                self.eof = not data
        except ssl.SSLWantReadError:
            pass
        except ssl.SSLError as error:
            self.error = error

    def receive(self, data: bytes) -> None:
        self._incoming.write(data)

    def write(self, data: bytes) -> None:
        self.object.write(data)

    def to_send(self) -> bytes:
        return self.outgoing.read()


class Foreign:
    """A peer made of pyOpenSSL: another OpenSSL, with another binding."""

    def __init__(self, context: SSL.Context, *, server: bool, session: SSL.Session | None = None) -> None:
        self.alerts: list[int] = []
        self.connection = SSL.Connection(context, None)
        self.connection.set_app_data(self.alerts)
        if session is not None:
            self.connection.set_session(session)
        (self.connection.set_accept_state if server else self.connection.set_connect_state)()
        self.plain = b""
        self.error: SSL.Error | None = None
        self.done = self.eof = False
        self.sent = b""

    def turn(self) -> None:
        try:
            if not self.done:
                self.connection.do_handshake()
                self.done = True
            while not self.eof:
                self.plain += self.connection.recv(65536)
        except SSL.WantReadError:
            pass
        except SSL.ZeroReturnError:
            self.eof = True
        except SSL.Error as error:
            self.error = error

    def receive(self, data: bytes) -> None:
        while data:
            data = data[self.connection.bio_write(data) :]

    def write(self, data: bytes) -> None:
        while data:
            data = data[self.connection.send(data) :]

    def to_send(self) -> bytes:
        pieces = []
        try:
            while True:
                pieces.append(self.connection.bio_read(65536))
        except SSL.WantReadError:
            return b"".join(pieces)


def foreign_context(
    identity: Identity | None,
    authority: x509.Certificate | None = None,
    *,
    version: int = SSL.TLS1_3_VERSION,
    extra: int = 0,
    key_pem: bytes | None = None,
) -> SSL.Context:
    """A pyOpenSSL context of that one protocol version, which trusts the authority, or anybody where none is given.

    Without an identity it presents no certificate. ``extra`` times the chain's last certificate is sent once more. ``key_pem``
    stands in for the identity's own key.
    """
    context = SSL.Context(SSL.TLS_METHOD)
    context.set_min_proto_version(version)
    context.set_max_proto_version(version)
    context.set_session_id(b"tests")
    context.set_info_callback(_note_alerts)
    if identity is not None:
        context.use_certificate(identity.leaf)
        for certificate in identity.chain[1:] + identity.chain[-1:] * extra:
            context.add_extra_chain_cert(certificate)
        with path_holding(key_pem or identity.key_pem) as path:
            context.use_privatekey_file(path)
    if authority is not None:
        store = context.get_cert_store()
        assert store is not None
        store.add_cert(crypto.X509.from_cryptography(authority))
        context.set_verify(SSL.VERIFY_PEER | SSL.VERIFY_FAIL_IF_NO_PEER_CERT)
    return context


def _note_alerts(connection: SSL.Connection, where: int, value: int) -> None:
    if where & SSL.SSL_CB_READ_ALERT == SSL.SSL_CB_READ_ALERT:
        connection.get_app_data().append(value & 0xFF)


def carry(sender: End, receiver: End, chunk: int | None = None) -> bool:
    """Brings what one end has to send to the other, which works on every piece as it arrives; False for nothing."""
    data = sender.to_send()
    sender.sent += data
    for start in range(0, len(data), chunk or len(data) or 1):
        receiver.receive(data[start : start + chunk] if chunk else data)
        receiver.turn()
    return bool(data)


def converse(client: End, server: End, chunk: int | None = None) -> None:
    """Lets both ends talk until neither has anything to send; ``chunk`` is how many bytes arrive at once."""
    client.turn()
    server.turn()
    while carry(client, server, chunk) | carry(server, client, chunk):
        pass


def connected(
    client: TlsContext | None = None,
    server: TlsContext | None = None,
    *,
    chunk: int | None = None,
    now: float = NOW,
    session: ssl.SSLSession | None = None,
) -> tuple[Ours, Ours]:
    """Our client and our server after their handshake, whatever came of it."""
    ours = Ours(TlsEngine(client or planner_context(), server_name="tools.internal", session=session), now=now)
    theirs = Ours(TlsEngine(server or tools_context()), now=now)
    converse(ours, theirs, chunk)
    return ours, theirs


def stolen_identity(certificate_of: Identity, impostor: ec.EllipticCurvePrivateKey | None = None) -> Credentials:
    """A chain with the private key of somebody else, in a form that TLS libraries load.

    They compare the public key of the certificate with the one that the key file *states*. An ECPrivateKey (RFC 5915 3)
    holds both halves, and OpenSSL does not multiply one out to check the other: here the number is the impostor's and
    the point is the victim's. P-256 only.
    """
    impostor = impostor or ec.generate_private_key(ec.SECP256R1())
    point = certificate_of.leaf.public_key().public_bytes(Encoding.X962, PublicFormat.UncompressedPoint)
    prime256v1 = bytes.fromhex("06082a8648ce3d030107")
    number = impostor.private_numbers().private_value.to_bytes(32, "big")
    contents = tlv(2, b"\1") + tlv(4, number) + tlv(0xA0, prime256v1) + tlv(0xA1, tlv(3, b"\0" + point))
    pem = ssl.DER_cert_to_PEM_cert(tlv(0x30, contents)).replace("CERTIFICATE", "EC PRIVATE KEY")
    return Credentials(certificate_of.chain_pem, SoftwareKey(certificate_of.leaf.public_key(), pem.encode()))


def prefer_groups(context: ssl.SSLContext, names: bytes) -> None:  # noqa: TID251 - a foreign one
    """Sets the groups of a client (RFC 8446 4.2.7), for the first of which it sends a key share: Python takes one alone."""
    library = ctypes.CDLL(_ssl.__file__)
    library.SSL_CTX_ctrl.argtypes = [ctypes.c_void_p, ctypes.c_int, ctypes.c_long, ctypes.c_char_p]
    library.SSL_CTX_ctrl.restype = ctypes.c_long
    pointer = ctypes.c_void_p.from_address(id(context) + object.__basicsize__).value  # PySSLContext begins with it
    assert library.SSL_CTX_ctrl(pointer, 92, 0, names) == 1  # SSL_CTRL_SET_GROUPS_LIST


def key_update(end: Ours) -> None:
    """Queues a KeyUpdate that asks for one in return (RFC 8446 4.6.3), which Python has no function for."""
    library = ctypes.CDLL(_ssl.__file__)
    library.SSL_key_update.argtypes = [ctypes.c_void_p, ctypes.c_int]
    library.SSL_version.argtypes = [ctypes.c_void_p]
    # PySSLSocket begins with the object's head and one pointer; then comes the SSL*.
    position = id(end.engine._object._sslobj) + object.__basicsize__ + ctypes.sizeof(ctypes.c_void_p)  # type: ignore[attr-defined]  # private
    pointer = ctypes.c_void_p.from_address(position).value
    assert library.SSL_version(pointer) == 0x304
    assert library.SSL_key_update(pointer, 1) == 1

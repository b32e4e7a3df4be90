"""Servers of the web, as issuers are, in threads: ordinary certificates for host names, and whatever bytes a test likes."""

from __future__ import annotations

import contextlib
import ipaddress
import ssl
import threading
from typing import TYPE_CHECKING, Any

from cryptography import x509

from sidecar.keys import software
from sidecar.tls.contexts import Credentials
from sidecar.tls.handover import path_holding
from tests.support.ca import DAY, HOUR, SERVER_AUTH, Identity, Signer, forge, forge_signing, keypair, name, pem
from tests.support.raw import Raw
from tests.support.tls import CA, NOW, PLANNER, SSLContext

if TYPE_CHECKING:
    import socket
    from collections.abc import Callable

    from tests.support.ca import Key

    Answer = Callable[[socket.socket], None]

_LIFE = {"not_before": NOW - HOUR, "not_after": NOW + DAY}
#: Our certificate, as issuers see it.
OURS = Credentials(PLANNER.chain_pem, software.load(PLANNER.key_pem))


class Authority:
    """An authority that issues certificates for host names: a root, or one below another."""

    def __init__(self, title: str, above: Authority | None = None, **knobs: Any) -> None:
        self.signer = Signer(name(title), keypair(title))
        signer = self.signer if above is None else above.signer
        self.certificate = forge_signing(signer, keypair(title), title, uris=(), **(_LIFE | knobs))
        self.pem = pem(self.certificate)
        #: What its certificates are sent with.
        self.chain: tuple[x509.Certificate, ...] = () if above is None else (self.certificate, *above.chain)

    def below(self, title: str, **knobs: Any) -> Authority:
        """An authority that this one vouches for."""
        return Authority(title, self, **knobs)

    def site(self, *hosts: str, key: Key | None = None, **knobs: Any) -> Identity:
        """A server's certificate for these names and addresses."""
        names, key = [_general(host) for host in hosts], key or keypair("site")
        defaults: dict[str, Any] = {"subject": "", "uris": (), "names": names, "purposes": [SERVER_AUTH], **_LIFE}
        leaf = forge(self.signer, key.public_key(), **(defaults | knobs))
        return Identity((leaf, *self.chain), key)


def _general(host: str) -> x509.GeneralName:
    with contextlib.suppress(ValueError):
        return x509.IPAddress(ipaddress.ip_address(host))
    return x509.DNSName(host)


AUTHORITY = Authority("web authority")
STRANGER = Authority("another web authority")
SITE = AUTHORITY.site("localhost", "127.0.0.1")


def https(identity: Identity = SITE, *, clients: bytes | None = None) -> SSLContext:
    """A server's context; with ``clients``, PEM of authorities, it demands a certificate."""
    context = SSLContext(ssl.PROTOCOL_TLS_SERVER)
    with path_holding(identity.chain_pem) as certificate, path_holding(identity.key_pem) as key:
        context.load_cert_chain(certificate, key)
    if clients is not None:
        context.verify_mode = ssl.CERT_REQUIRED
        context.load_verify_locations(cadata=clients.decode())
    return context


def demanding() -> SSLContext:
    """One that demands a certificate of our trust domain."""
    return https(clients=CA.pem)


class Web(Raw):
    """A server: over TLS with a context, in plaintext without. Each connection is one request, and the answer."""

    def __init__(self, answer: Answer, context: SSLContext | None = None) -> None:
        super().__init__(self._serve)
        self.answer = answer
        self.context = context
        #: What arrived, whole.
        self.requests: list[bytes] = []
        #: The certificates that clients showed (DER), and the versions of TLS that were spoken.
        self.shown: list[bytes | None] = []
        self.versions: list[str | None] = []
        #: Connections whose conversation has not ended.
        self.open = 0
        self._lock = threading.Lock()

    def url(self, path: str = "/token?tenant=hush", host: str = "localhost") -> str:
        return f"{'http' if self.context is None else 'https'}://{host}:{self.port}{path}"

    def _serve(self, sock: socket.socket) -> None:
        with self._lock:
            self.open += 1
        try:
            if self.context is None:
                self._converse(sock)
                return
            with self.context.wrap_socket(sock, server_side=True) as secured:
                self.shown.append(secured.getpeercert(binary_form=True))
                self.versions.append(secured.version())
                self._converse(secured)
        finally:
            with self._lock:
                self.open -= 1

    def _converse(self, sock: socket.socket) -> None:
        self.requests.append(read_request(sock))
        self.answer(sock)


def read_request(sock: socket.socket) -> bytes:
    """Reads one request to its end."""
    data = b""
    while b"\r\n\r\n" not in data:
        piece = sock.recv(65536)
        if not piece:
            return data
        data += piece
    head, _, body = data.partition(b"\r\n\r\n")
    length = 0
    for line in head.split(b"\r\n")[1:]:
        if line.lower().startswith(b"content-length:"):
            length = int(line.partition(b":")[2])
    while len(body) < length:
        body += sock.recv(65536)
    return head + b"\r\n\r\n" + body


def sending(data: bytes) -> Answer:
    """Answers with these bytes, and ends well."""

    def answer(sock: socket.socket) -> None:
        sock.sendall(data)
        if isinstance(sock, ssl.SSLSocket):
            sock.unwrap()

    return answer


def page(body: bytes = b"{}", *fields: str, status: str = "200 OK", kind: str = "application/json") -> bytes:
    """An ordinary answer."""
    head = (f"HTTP/1.1 {status}", f"Content-Type: {kind}", f"Content-Length: {len(body)}", *fields)
    return "\r\n".join(head).encode() + b"\r\n\r\n" + body


def hanging(sock: socket.socket) -> None:
    """Says nothing, until the other side ends."""
    sock.recv(1)


def dripping(first: bytes, drop: bytes, seconds: float = 0.02) -> Answer:
    """Sends ``first``, and then a drop at a time, for ever."""

    def answer(sock: socket.socket) -> None:
        never = threading.Event()
        sock.sendall(first)
        while not never.wait(seconds):
            sock.sendall(drop)

    return answer


def endless(first: bytes, piece: bytes) -> Answer:
    """Sends ``first``, and then more and more, as fast as it is taken."""

    def answer(sock: socket.socket) -> None:
        sock.sendall(first)
        while True:
            sock.sendall(piece)

    return answer

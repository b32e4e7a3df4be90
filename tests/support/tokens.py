"""What tests of token sources share: means, JWTs that nobody verifies, and an issuer that does as it is told.

`ScriptedIssuer` speaks HTTPS in threads of its own; what it answers is set by the test, and what it was asked is kept.
"""

from __future__ import annotations

import base64
import contextlib
import functools
import hashlib
import json
import ssl
import threading
from dataclasses import dataclass, field, replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self
from urllib.parse import parse_qsl

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec

from sidecar.clock import Clock
from sidecar.identity.issue import issue
from sidecar.identity.spiffe import SpiffeId
from sidecar.identity.svid import Svid
from sidecar.keys import software
from sidecar.threads import Workers
from sidecar.tls.contexts import Credentials
from sidecar.tls.handover import path_holding
from sidecar.tokens.settings import Reach
from sidecar.tokens.sources.source import Means
from tests.support.ca import DAY, SERVER_AUTH, Ca, Identity, Signer, forge, forge_signing, key_pem, keypair, name, pem
from tests.support.tls import CA, NOW, PLANNER, SSLContext

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from sidecar.keys.signer import Signer as OurSigner
    from sidecar.tokens.settings import SecretRef

#: The file that trusts `ScriptedIssuer`, by name alone: it is never read.
CA_FILE = Path("/nowhere/issuer-ca.pem")
#: Found in no message, log or repr.
CANARY = "canary-5f1e7c0d"


def base64url(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()


def jwt(claims: Mapping[str, Any] | str, header: str = '{"alg":"ES256","typ":"at+jwt"}') -> str:
    """A JWT with a signature that is none; its identifier is the canary. A text is taken for the claims as it is."""
    text = claims if isinstance(claims, str) else json.dumps({"jti": CANARY, **claims})
    return ".".join(base64url(part) for part in (header.encode(), text.encode(), CANARY.encode()))


def parts(token: str) -> tuple[dict[str, Any], dict[str, Any], bytes]:
    """Header, claims and signature, without a check of any."""
    header, claims, signature = (base64.urlsafe_b64decode(part + "=" * (-len(part) % 4)) for part in token.split("."))
    return json.loads(header), json.loads(claims), signature


def thumbprint(identity: Identity | Svid) -> str:
    """The SHA-256 of a leaf, as ``x5t#S256`` has it."""
    return base64url(
        hashlib.sha256((identity.der if isinstance(identity, Identity) else identity.chain_der)[0]).digest()
    )


def means(
    identity: Identity = PLANNER,
    signer: OurSigner | None = None,
    *,
    clock: Clock | None = None,
    secrets: Mapping[SecretRef, str] | None = None,
    workers: Workers | None = None,
) -> Means:
    """What a source is made with, as that identity."""
    key = software.load(identity.key_pem)
    return Means(
        svid=Svid.from_pem(identity.chain_pem, NOW),
        credentials=Credentials(identity.chain_pem, key),
        signer=signer or software.SoftwareSigner(key),
        clock=clock or Clock(),
        workers=workers or Workers("token-test", 4, 16),
        local=workers or Workers("token-local", 2, 16),
        files={CA_FILE: issuer_tls().ca},
        secrets=secrets or {},
    )


def means_of(signer: OurSigner, *, ca: Ca = CA) -> Means:
    """The same with a certificate for a key that is in a device; nothing is shown with it by TLS."""
    certificate = issue(ca.authority, signer.public_key, SpiffeId(ca.domain, "/agent/planner/1"), now=NOW, lifetime=DAY)
    svid = Svid.from_pem(pem(certificate), NOW)
    software_one = means()
    return replace(software_one, svid=svid, signer=signer, clock=Clock())


@dataclass(frozen=True)
class IssuerTls:
    """What the issuer shows, and the authority to trust for it; PEM."""

    ca: bytes
    chain: bytes
    key: bytes = field(repr=False)


@functools.cache
def issuer_tls() -> IssuerTls:
    """An ordinary authority, and a certificate for ``localhost``."""
    authority, key = keypair("a scripted issuer's authority"), keypair("a scripted issuer")
    assert isinstance(authority, ec.EllipticCurvePrivateKey)
    identifier = x509.SubjectKeyIdentifier.from_public_key(authority.public_key())
    signer = Signer(name("a web authority"), authority)
    ca = forge_signing(
        signer,
        authority,
        "a web authority",
        uris=(),
        extensions=[(identifier, False)],
        not_before=NOW - DAY,
        not_after=NOW + DAY,
    )
    leaf = forge(
        signer,
        key.public_key(),
        subject="",
        uris=(),
        names=[x509.DNSName("localhost")],
        purposes=[SERVER_AUTH],
        extensions=[(x509.AuthorityKeyIdentifier.from_issuer_subject_key_identifier(identifier), False)],
        not_before=NOW - DAY,
        not_after=NOW + DAY,
    )
    return IssuerTls(pem(ca), pem(leaf), key_pem(key))


@dataclass(frozen=True)
class Asked:
    """One request: ``certificate`` is the SHA-256 of the client's leaf, base64url; None where it showed none."""

    method: str
    path: str
    headers: dict[str, str]
    form: dict[str, str]
    pairs: list[tuple[str, str]]
    certificate: str | None


@dataclass(frozen=True)
class Reply:
    """``body`` is sent as it is, or as JSON."""

    status: int = 200
    body: Any = field(default_factory=dict)
    headers: tuple[tuple[str, str], ...] = ()

    @property
    def data(self) -> bytes:
        return self.body if isinstance(self.body, bytes) else json.dumps(self.body).encode()


class ScriptedIssuer:
    """Answers ``replies[path]``, a reply or what makes one of a request; 404 elsewhere. ``with`` ends it.

    Mutual TLS is spoken on the same port, with whoever shows a certificate of the tests' authority.
    """

    def __init__(self) -> None:
        self.asked: list[Asked] = []
        self.replies: dict[str, Reply | Callable[[Asked], Reply]] = {}
        #: Set this to let go of what hangs.
        self.go_on = threading.Event()
        issuer = self

        class Handler(_Handler):
            owner = issuer

        self._server = _Server(("127.0.0.1", 0), Handler)
        self.url = f"https://localhost:{self._server.server_port}"
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.02,), daemon=True)
        self._thread.start()
        self.metadata: dict[str, Any] = {
            "issuer": self.url,
            "token_endpoint": f"{self.url}/token",
            "revocation_endpoint": f"{self.url}/revoke",
        }
        self.replies["/.well-known/oauth-authorization-server"] = lambda _: Reply(body=self.metadata)
        self.replies["/revoke"] = Reply(body=b"")

    @property
    def reach(self) -> Reach:
        return Reach(ca=CA_FILE)

    def give(self, value: str, **more: Any) -> None:
        """Has the token endpoint give a token; ``more`` is put into the answer, and None takes something out of it."""
        body = {"access_token": value, "token_type": "Bearer", "expires_in": 300} | more
        self.replies["/token"] = Reply(body={key: each for key, each in body.items() if each is not None})

    def to(self, path: str) -> list[Asked]:
        return [asked for asked in self.asked if asked.path == path]

    def hang(self) -> None:
        """Lets the token endpoint answer nothing until `go_on`."""
        self.go_on.clear()

        def wait(_: Asked) -> Reply:
            self.go_on.wait(20)
            return Reply(503)

        self.replies["/token"] = wait

    def close(self) -> None:
        self.go_on.set()
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


class _Server(ThreadingHTTPServer):
    daemon_threads = True

    def __init__(self, *args: Any) -> None:
        super().__init__(*args)
        self.context = SSLContext(ssl.PROTOCOL_TLS_SERVER)
        self.context.verify_mode = ssl.CERT_OPTIONAL
        self.context.verify_flags |= ssl.VERIFY_X509_PARTIAL_CHAIN
        self.context.load_verify_locations(cadata=CA.pem.decode())
        tls = issuer_tls()
        with path_holding(tls.chain) as chain, path_holding(tls.key) as key:
            self.context.load_cert_chain(chain, key)

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A client that leaves is no error here."""


class _Handler(BaseHTTPRequestHandler):
    owner: ScriptedIssuer
    server: _Server

    def setup(self) -> None:
        self.request.settimeout(20)
        self.request = self.server.context.wrap_socket(self.request, server_side=True)
        super().setup()

    def finish(self) -> None:
        with contextlib.suppress(OSError):
            super().finish()
        self.request.close()

    def do_GET(self) -> None:
        self._answer(b"")

    def do_POST(self) -> None:
        self._answer(self.rfile.read(int(self.headers["Content-Length"])))

    def _answer(self, body: bytes) -> None:
        leaf = self.request.getpeercert(binary_form=True)
        pairs = parse_qsl(body.decode(), keep_blank_values=True, strict_parsing=bool(body))
        certificate = None if leaf is None else base64url(hashlib.sha256(leaf).digest())
        asked = Asked(self.command, self.path, dict(self.headers), dict(pairs), pairs, certificate)
        self.owner.asked.append(asked)
        reply = self.owner.replies.get(self.path, Reply(404))
        reply = reply if isinstance(reply, Reply) else reply(asked)
        self.send_response(reply.status)
        for field_name, value in reply.headers:
            self.send_header(field_name, value)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(reply.data)))
        self.end_headers()
        self.wfile.write(reply.data)

    def log_message(self, *_: object) -> None:
        """Says nothing."""

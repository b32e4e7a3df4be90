"""TLS contexts: the only place that makes ``ssl.SSLContext``, and with `sidecar.tls.web` the only one that names versions.

Between sidecars: mutual TLS 1.3 and nothing else (`sidecar.tls.web` is for issuers, which have no SPIFFE ID). What is set
here, and why:

* Minimum and maximum version 1.3, so there is no renegotiation and no compression to switch off (RFC 8446 4.1.2 removed
  both). No early data: OpenSSL's default of 0 bytes is never changed, and Python has no way to change it.
* The groups are OpenSSL's own list: newer releases put a post-quantum hybrid first by themselves.
* A certificate is always required, and host names are never compared: who a peer is stands in its SPIFFE ID.
* Trust is exactly what the bundles hold. A plain ``SSLContext`` does not look at the system's store and does not honour
  SSLKEYLOGFILE; the helper functions of ``ssl`` that do both are banned by lint.
* ``PARTIAL_CHAIN``: an authority in a bundle is an anchor even if it is not self-signed, as SPIFFE bundles may hold
  intermediate authorities.
* One session ticket a handshake: a connection uses one and gets the next, and each one costs the server 0.1 ms.

A context also decides who the peer is (:meth:`TlsContext.prove`), because the verdict lives as long as the context: a
reload makes new contexts, so neither tickets nor remembered peers survive a change.
"""

from __future__ import annotations

import hashlib
import ssl
from collections.abc import Callable
from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING, Protocol, TypeAlias

from sidecar.errors import ConfigurationError, LocalError
from sidecar.identity.peer import Peer, Role
from sidecar.identity.verify import verify
from sidecar.tls.chain import presented_chain
from sidecar.tls.failure import TlsCode, TlsError, reason_of
from sidecar.tls.handover import path_holding
from sidecar.tls.memory import SESSION_KEYS, PeerMemory, SessionStore

if TYPE_CHECKING:
    from sidecar.identity.bundle import Bundles
    from sidecar.identity.spiffe import TrustDomain
    from sidecar.tls.site import Site

#: What an HTTP listener or entry offers, and what one offers whose bytes are nobody's business.
HTTP_ALPN = ("http/1.1",)
NO_ALPN = ()
#: Session tickets that a server sends after a full handshake; after a resumed one OpenSSL always sends one.
TICKETS = 1

BareContext: TypeAlias = ssl.SSLContext  # noqa: TID251 - made by `bare`, and nowhere else

#: A check of the peer that was proven: returns, or raises a PeerError.
Expectation = Callable[[Peer], None]


class ContextCode(StrEnum):
    """Why no context can be made; part of the output and of the log, never renamed."""

    CREDENTIALS = "tls_credentials_unusable"
    HANDOVER = "tls_handover_failed"
    AUTHORITIES = "tls_authorities_unusable"
    NO_AUTHORITY = "tls_no_authority"


class ContextError(ConfigurationError):
    """OpenSSL does not take what the configuration gives it. Messages never hold any part of a key."""


class PrivateKey(Protocol):
    """Our own private key as a context needs it: itself, or something that can use it (`sidecar.keys.openssl`)."""

    @property
    def blocking(self) -> bool:
        """Whether a handshake step that signs may take long, and belongs into a thread."""

    def lend(self, context: object, /) -> bytes:
        """Returns unencrypted PEM that OpenSSL takes for the key, good for as long as ``context`` lives."""

    def take_failure(self) -> BaseException | None:
        """Returns, once, why the last signature in this thread failed; None if it did not."""


@dataclass(frozen=True, slots=True)
class Credentials:
    """Our own identity, read and checked once.

    ``certificate_pem``: the chain, leaf first. ``key``: the leaf's private key.
    """

    certificate_pem: bytes
    key: PrivateKey

    def __repr__(self) -> str:
        return "Credentials(…)"


@dataclass(frozen=True, slots=True)
class Recipe:
    """Everything a context is made of, kept so that it can have a successor."""

    role: Role
    credentials: Credentials
    bundles: Bundles
    alpn: tuple[str, ...]
    expect: Expectation | None = None
    resumption: bool = True


class Proving(Protocol):
    """What an engine needs of a context: OpenSSL's part of it, and who is at the other end once OpenSSL is done."""

    @property
    def role(self) -> Role:
        """Our own."""

    @property
    def blocking(self) -> bool:
        """Whether a handshake step may wait for the device with our key, and is to be made in a thread."""

    @property
    def sslcontext(self) -> BareContext:
        """OpenSSL's part."""

    @property
    def take_failure(self) -> Callable[[], BaseException | None]:
        """Gives, once, why the last signature in this thread failed."""

    def prove(self, connection: ssl.SSLObject, now: float) -> Peer | Site:
        """Says who is there, or raises: before anything of ours but a handshake has left."""


def server_context(
    credentials: Credentials, bundles: Bundles, alpn: tuple[str, ...] = HTTP_ALPN, *, resumption: bool = True
) -> TlsContext:
    """Makes a listener's context: OpenSSL trusts the union of all bundles, ``prove`` the leaf's own domain alone.

    Without ``resumption`` it gives no ticket and takes none. Raises ContextError, or LocalError where the machine cannot
    hold the credentials in memory.
    """
    return TlsContext(Recipe(Role.SERVER, credentials, dict(bundles), alpn, resumption=resumption))


def client_context(
    credentials: Credentials,
    bundles: Bundles,
    trust_domain: TrustDomain,
    expect: Expectation,
    alpn: tuple[str, ...] = HTTP_ALPN,
    *,
    resumption: bool = True,
) -> TlsContext:
    """Makes an outbound entry's context, which trusts the bundle of the peer's trust domain and no other.

    ``expect`` is called with every proven peer, on full and on resumed handshakes, and raises where the name or the key
    is not the one that was asked for. Without ``resumption`` no session is kept. Raises as ``server_context``.
    """
    bundle = bundles.get(trust_domain)
    bundles = {trust_domain: bundle} if bundle else {}
    return TlsContext(Recipe(Role.CLIENT, credentials, bundles, alpn, expect, resumption))


class TlsContext:
    """An ``ssl.SSLContext`` with our role and with what was learnt through it.

    ``role`` is our own; ``sessions`` is the store of a client's sessions, which its owner fills and empties. ``blocking``
    says that a handshake step may wait for the device with our key, and is to be made in a thread.
    """

    __slots__ = ("_memory", "_recipe", "blocking", "role", "sessions", "sslcontext", "take_failure")

    def __init__(self, recipe: Recipe) -> None:
        self._recipe = recipe
        self._memory = PeerMemory()
        self.role = recipe.role
        self.sessions = SessionStore(keys=SESSION_KEYS if recipe.resumption else 0)
        self.blocking = recipe.credentials.key.blocking
        #: Why the last signature in this thread failed, once.
        self.take_failure = recipe.credentials.key.take_failure
        self.sslcontext = _ssl_context(recipe)

    @property
    def full(self) -> bool:
        """Says that enough peers are remembered: new connections should use :meth:`successor`."""
        return self._memory.full

    def successor(self) -> TlsContext:
        """Makes a fresh context of the same inputs. Old tickets fall back to a full handshake there."""
        return TlsContext(self._recipe)

    def prove(self, connection: ssl.SSLObject, now: float) -> Peer:
        """Decides who is at the other end of a connection whose handshake OpenSSL has finished.

        OpenSSL has proven that the peer holds the leaf's key and that the leaf chains to something we trust; which
        SPIFFE ID may come from which authority is decided here. Raises VerificationError, TlsError, or what the
        expectation raises.
        """
        leaf = connection.getpeercert(binary_form=True)
        if leaf is None:
            raise TlsError(TlsCode.NO_CERTIFICATE, "the connection belongs to no certificate")
        if connection.session_reused:
            peer = self._memory.recall(hashlib.sha256(leaf).digest(), now)
        else:
            peer = self._prove_chain(leaf, presented_chain(connection), now)
        self.check(peer)
        return peer

    def check(self, peer: Peer) -> None:
        """Raises what the expectation raises where a proven peer is not the one that was asked for."""
        if self._recipe.expect is not None:
            self._recipe.expect(peer)

    def _prove_chain(self, leaf: bytes, chain: list[bytes], now: float) -> Peer:
        # The key that was proven is the leaf's. A list that began with any other certificate would let a caller present
        # somebody else's, so what Python says about the order is not taken on trust.
        if chain[:1] != [leaf]:
            raise TlsError(
                TlsCode.BAD_CERTIFICATE, "the chain does not begin with the certificate whose key was proven"
            )
        # Every certificate is a DER SEQUENCE with its own length, so the concatenation is unambiguous.
        digest = hashlib.sha256(b"".join(chain)).digest()
        peer = self._memory.recognise(digest, now)
        if peer is None:
            presented = Role.CLIENT if self.role is Role.SERVER else Role.SERVER
            peer = verify(chain, self._recipe.bundles, role=presented, now=now)
            self._memory.remember(peer, digest)
        return peer


def bare(role: Role, least: ssl.TLSVersion = ssl.TLSVersion.TLSv1_3) -> BareContext:
    """Makes a context for our role that demands a certificate, and trusts nobody yet; a client's compares host names."""
    context = BareContext(ssl.PROTOCOL_TLS_SERVER if role is Role.SERVER else ssl.PROTOCOL_TLS_CLIENT)
    context.minimum_version = least
    context.maximum_version = ssl.TLSVersion.TLSv1_3
    context.verify_mode = ssl.CERT_REQUIRED
    # An end without close_notify is a truncation (RFC 8446 6.1), whatever OpenSSL's configuration file says.
    context.options &= ~getattr(ssl, "OP_IGNORE_UNEXPECTED_EOF", 0)
    return context


def _ssl_context(recipe: Recipe) -> BareContext:
    context = bare(recipe.role)
    context.check_hostname = False
    context.verify_flags |= ssl.VERIFY_X509_PARTIAL_CHAIN
    if recipe.alpn:
        context.set_alpn_protocols(list(recipe.alpn))
    if recipe.role is Role.SERVER:
        context.num_tickets = TICKETS if recipe.resumption else 0
    _trust(context, recipe.bundles)
    present(context, recipe.credentials)
    return context


def _trust(context: BareContext, bundles: Bundles) -> None:
    authorities = b"".join(der for bundle in bundles.values() for der in bundle.der())
    if not authorities:
        raise ContextError(
            ContextCode.NO_AUTHORITY,
            "no trust bundle for the peers of this connection",
            hint="name the peer's trust domain and its bundle under `identity.trust`",
        )
    try:
        context.load_verify_locations(cadata=authorities)
    except ssl.SSLError as error:
        raise ContextError(
            ContextCode.AUTHORITIES,
            f"OpenSSL does not take the trust bundles ({reason_of(error) or 'no reason given'})",
        ) from error


def present(context: BareContext, credentials: Credentials) -> None:
    """Lets a context show our certificate. Raises ContextError (CREDENTIALS), LocalError, and what the key's ``lend`` does."""
    try:
        pem = credentials.key.lend(context)
        with path_holding(credentials.certificate_pem) as certificate, path_holding(pem) as key:
            # Without a password OpenSSL would ask for one on the terminal and stop the process.
            context.load_cert_chain(certificate, key, password="")
    except ssl.SSLError as error:
        raise ContextError(
            ContextCode.CREDENTIALS,
            f"OpenSSL does not take the certificate with its key ({reason_of(error) or 'no reason given'})",
            hint="check that `identity.certificate` and `identity.key` belong together",
        ) from None
    except OSError as error:
        raise LocalError(
            ContextCode.HANDOVER, f"the certificate and its key cannot be handed to OpenSSL: {error.strerror}"
        ) from error

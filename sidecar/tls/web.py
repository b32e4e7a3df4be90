"""TLS to servers that have no SPIFFE ID: issuers of tokens, known by a host name as servers of the web are (RFC 9525).

Nothing here is ever used between sidecars, and nothing of SPIFFE decides here. What is set beside `contexts.bare`:

* TLS 1.2 is the least, as issuers exist that have no newer one, and there ciphers with forward secrecy and authenticated
  encryption alone (RFC 9325 4.2); what Python offers by itself differs from one build to the next. Where
  our own certificate is shown it is TLS 1.3: in 1.2 it crosses the network in the clear. No renegotiation, which 1.2
  would have.
* The certificate is for the host that was asked for, by its subjectAltName: a common name counts for nothing.
* Trust is exactly what the ``ca:`` file holds, in which any authority is an anchor, as in bundles; without one it is the
  system's roots. OpenSSL's own variables SSL_CERT_FILE and SSL_CERT_DIR say where those are, and are honoured: whoever
  sets our environment decides about more than that. SSLKEYLOGFILE is not.
* Our certificate is in a context of its own, so that no server that is not meant to see it can ask for it.
"""

from __future__ import annotations

import ssl
from typing import TYPE_CHECKING

from sidecar.identity.peer import Role
from sidecar.identity.pem import PemError, blocks
from sidecar.tls.contexts import HTTP_ALPN, BareContext, ContextCode, ContextError, bare, present
from sidecar.tls.failure import reason_of

if TYPE_CHECKING:
    from sidecar.tls.contexts import Credentials

#: For TLS 1.2; those of 1.3 are all of this kind.
_CIPHERS = "ECDHE+AESGCM:ECDHE+CHACHA20:DHE+AESGCM"
_HINT = "the file that `ca` names has to hold certificates of authorities, in PEM"


def web_context(authorities: bytes | None, credentials: Credentials | None = None) -> BareContext:
    """Makes a client's context. It reads files of the system, and may take 0.1 s.

    ``authorities``: PEM of all that is trusted; None for the system's roots. ``credentials``: what is shown to a server
    that asks. Raises ContextError (AUTHORITIES, NO_AUTHORITY, CREDENTIALS), LocalError (HANDOVER), and PrivateKeyError
    where OpenSSL cannot use the key.
    """
    context = bare(Role.CLIENT, ssl.TLSVersion.TLSv1_2 if credentials is None else ssl.TLSVersion.TLSv1_3)
    context.check_hostname = True
    context.hostname_checks_common_name = False
    context.options |= ssl.OP_NO_RENEGOTIATION
    context.set_ciphers(_CIPHERS)
    context.set_alpn_protocols(list(HTTP_ALPN))
    if authorities is None:
        context.load_default_certs(ssl.Purpose.SERVER_AUTH)
    else:
        _trust(context, authorities)
    if credentials is not None:
        present(context, credentials)
    return context


def _trust(context: BareContext, pem: bytes) -> None:
    context.verify_flags |= ssl.VERIFY_X509_PARTIAL_CHAIN
    try:
        authorities = b"".join(block.der() for block in blocks(pem) if block.is_certificate)
    except PemError as error:
        raise ContextError(
            ContextCode.AUTHORITIES, f"the issuer's authorities are damaged: {error}", hint=_HINT
        ) from None
    if not authorities:
        raise ContextError(ContextCode.NO_AUTHORITY, "no certificate among the issuer's authorities", hint=_HINT)
    try:
        context.load_verify_locations(cadata=authorities)
    except ssl.SSLError as error:
        reason = reason_of(error) or "no reason given"
        message = f"OpenSSL does not take the issuer's authorities ({reason})"
        raise ContextError(ContextCode.AUTHORITIES, message, hint=_HINT) from None

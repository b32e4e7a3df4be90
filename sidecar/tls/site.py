"""Ordinary HTTPS services as upstreams: known by their host name, by the system's authorities, perhaps by a pin.

Nothing of SPIFFE decides here, and nothing of ours is shown: the context has no certificate. What it is made with stands
in `sidecar.tls.web`: TLS 1.2 or newer, forward secrecy, the name of the host compared by OpenSSL with the
subjectAltName. Sessions are not resumed: what was verified once would count without being looked at again.
"""

from __future__ import annotations

import os
import ssl
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from cryptography import x509

from sidecar.identity.der import not_after
from sidecar.identity.peer import Role
from sidecar.identity.pins import Pin
from sidecar.tls.chain import verified_chain
from sidecar.tls.failure import TlsCode, TlsError
from sidecar.tls.web import web_context

if TYPE_CHECKING:
    from sidecar.tls.contexts import BareContext


@dataclass(frozen=True, slots=True)
class Site:
    """The server at the other end, after OpenSSL has verified its chain and that it is for this host.

    ``serial`` is lower-case hex without a prefix; ``not_after`` is the earliest of the chain that was verified, its root
    included, in seconds since the epoch.
    """

    name: str
    pin: Pin
    serial: str
    not_after: float


class SiteContext:
    """What proves one service: ``name`` is a host name or an IP address, ``pins`` are those of its leaf's key.

    ``sslcontext`` is of `site_tls`, and may be that of other services too.
    """

    __slots__ = ("_name", "pins", "sslcontext")

    role: Final = Role.CLIENT
    blocking: Final = False

    def __init__(self, sslcontext: BareContext, name: str, pins: frozenset[Pin]) -> None:
        self.sslcontext = sslcontext
        self._name = name
        self.pins = pins

    @staticmethod
    def take_failure() -> BaseException | None:
        """Nothing is signed here, so no signature fails."""
        return None

    def prove(self, connection: ssl.SSLObject, now: float) -> Site:  # noqa: ARG002 - OpenSSL has looked at the clock
        """Says which site it is. Raises TlsError: BAD_CERTIFICATE, PEER_PIN."""
        chain = verified_chain(connection)
        if not chain or connection.session_reused:
            raise TlsError(TlsCode.NO_CERTIFICATE, "the connection belongs to no certificate that was verified now")
        try:
            leaf = x509.load_der_x509_certificate(chain[0])
            pin, end = Pin.of_certificate(leaf), min(map(not_after, chain))
        except (ValueError, x509.InvalidVersion):
            raise TlsError(TlsCode.BAD_CERTIFICATE, "a certificate of the server's cannot be read") from None
        if self.pins and pin not in self.pins:
            raise TlsError(
                TlsCode.PEER_PIN,
                f"the key of {self._name} has the pin {pin}, which is not among the {len(self.pins)} that are allowed",
                hint="add the new pin to this outbound entry, if the service has announced it",
            )
        return Site(self._name, pin, f"{leaf.serial_number:x}", end)


def site_tls() -> BareContext:
    """Makes OpenSSL's part, which knows no name and trusts the system's roots. It reads files, and may take 0.1 s."""
    return web_context(None)


def roots_version() -> tuple[object, ...]:
    """Tells whether the system's roots are those that an earlier context was made with: of what OpenSSL reads, as it is now."""
    paths = ssl.get_default_verify_paths()
    return tuple(_seen(path) for path in (paths.cafile, paths.capath))


def _seen(path: str | None) -> tuple[object, ...]:
    try:
        found = os.stat(path) if path else None  # noqa: PTH116 - a folder or a file, as OpenSSL names it
    except OSError:
        found = None
    return (path,) if found is None else (path, found.st_ino, found.st_mtime_ns, found.st_size)

"""The certificates of a peer, as it presented them and as OpenSSL verified them, by way of whatever this Python offers."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import ssl

#: ``_ssl.ENCODING_DER``: the argument by which ``_ssl.Certificate.public_bytes`` gives DER.
_ENCODING_DER = 2


def presented_chain(connection: ssl.SSLObject) -> list[bytes]:
    """Returns the DER certificates as the peer sent them, leaf first; empty on a server's resumed session."""
    return _chain(connection, "get_unverified_chain")


def verified_chain(connection: ssl.SSLObject) -> list[bytes]:
    """Returns the DER certificates by which OpenSSL believed the peer, from its leaf to the root that is trusted.

    Empty on a resumed session, where nothing was verified.
    """
    return _chain(connection, "get_verified_chain")


def _chain(connection: ssl.SSLObject, which: str) -> list[bytes]:
    """Public from Python 3.13 on; 3.10 to 3.12 have it one attribute below, giving objects instead of bytes."""
    public: Any = connection
    if sys.version_info >= (3, 13):
        return list(getattr(public, which)())
    certificates = getattr(public._sslobj, which)() or ()  # noqa: SLF001 - the only way before 3.13
    return [certificate.public_bytes(_ENCODING_DER) for certificate in certificates]

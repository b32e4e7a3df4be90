"""The certificates that a peer presented, by way of whatever this Python offers."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import ssl

#: ``_ssl.ENCODING_DER``: the argument by which ``_ssl.Certificate.public_bytes`` gives DER.
_ENCODING_DER = 2


def presented_chain(connection: ssl.SSLObject) -> list[bytes]:
    """Returns the DER certificates as the peer sent them, leaf first; empty on a server's resumed session.

    Public from Python 3.13 on; 3.10 to 3.12 have it one attribute below, giving objects instead of bytes.
    """
    public: Any = connection
    if sys.version_info >= (3, 13):
        return list(public.get_unverified_chain())
    certificates = public._sslobj.get_unverified_chain() or ()  # noqa: SLF001 - the only way before 3.13
    return [certificate.public_bytes(_ENCODING_DER) for certificate in certificates]

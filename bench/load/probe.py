"""One request, to see that a way through is there."""

from __future__ import annotations

import http.client
import ssl
from typing import TYPE_CHECKING

from bench.load.tls import stranger_context
from bench.processes import HOST

if TYPE_CHECKING:
    from bench.certificates import Certificates

#: Seconds for one look; a proxy that is just starting is asked again.
_TIMEOUT = 5.0


def answers(port: int) -> bool:
    """Says whether a small GET in plaintext is answered with 200."""
    return _ok(http.client.HTTPConnection(HOST, port, timeout=_TIMEOUT))


def answers_tls(port: int, certificates: Certificates) -> bool:
    """Says whether a small GET over mutual TLS is answered with 200."""
    return _ok(http.client.HTTPSConnection(HOST, port, timeout=_TIMEOUT, context=certificates.context()))


def answers_strangers(port: int) -> bool:
    """Says whether a client without a certificate is answered with 200, which no proxy here may do."""
    return _ok(http.client.HTTPSConnection(HOST, port, timeout=_TIMEOUT, context=stranger_context()))


def asks_for_token(port: int, certificates: Certificates) -> bool:
    """Says whether a small GET over mutual TLS that comes without a token is answered with 401."""
    context = certificates.context()
    return _status(http.client.HTTPSConnection(HOST, port, timeout=_TIMEOUT, context=context)) == 401


def _ok(connection: http.client.HTTPConnection) -> bool:
    return _status(connection) == http.client.OK


def _status(connection: http.client.HTTPConnection) -> int | None:
    try:
        connection.request("GET", "/")
        return connection.getresponse().status
    except (OSError, ssl.SSLError, http.client.HTTPException):
        return None  # not yet; whoever asks has a deadline
    finally:
        connection.close()

r"""The identity header that the proxy sets: Envoy's ``x-forwarded-client-cert``.

Format as in Envoy's documentation of the HTTP connection manager: ``key=value`` pairs joined by ``;``, a value that has
``,``, ``;`` or ``=`` in double quotes, a double quote in it as ``\"``. One element: what a client sent was removed.
"""

from __future__ import annotations

from typing import Final

NAME: Final = "x-forwarded-client-cert"
CALLER_NAME: Final = "x-sidecar-caller"

_QUOTED: Final = frozenset(',;="')


def xfcc_value(by: str, leaf_sha256: bytes, uri: str) -> str:
    """The value for a caller: ``by`` is our own SPIFFE ID, ``uri`` the caller's, ``leaf_sha256`` its certificate's digest.

    The names must be SPIFFE IDs, hence ASCII; they are made once a connection, so is this.
    """
    return f"By={_quote(by)};Hash={leaf_sha256.hex()};URI={_quote(uri)}"


def identity_block(by: str, leaf_sha256: bytes, uri: str) -> bytes:
    """The field block with both identity fields, for ``extra`` in :func:`sidecar.http.fields.forward_request`.

    Raises ``UnicodeEncodeError`` for names that are not ASCII, and ``ValueError`` for ones with a control character:
    neither is a SPIFFE ID.
    """
    if not (by + uri).isprintable():
        raise ValueError("not a SPIFFE ID")
    block = f"{NAME}: {xfcc_value(by, leaf_sha256, uri)}\r\n{CALLER_NAME}: {uri}\r\n"
    return block.encode("ascii")


def _quote(value: str) -> str:
    if _QUOTED.isdisjoint(value):
        return value
    return '"' + value.replace('"', '\\"') + '"'

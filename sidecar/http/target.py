"""The request target and the authority in it (RFC 9112 section 3.2, RFC 9110 section 4.2).

What is accepted is narrower than RFC 3986: no userinfo (RFC 9110 section 4.2.4 tells us to treat it as an error), no
percent-encoding and no sub-delims in a name, no empty port, no IPvFuture, no zone: nothing of that names an agent, and
each is a place where two parsers part.
"""

from __future__ import annotations

import re
from ipaddress import IPv6Address
from typing import Final, NamedTuple

from sidecar.http.errors import HttpCode, HttpError
from sidecar.http.grammar import PATH_CHAR, QUERY_CHAR
from sidecar.http.messages import TargetForm

# Lower-cased before it is matched. 255 is the length of a DNS name (RFC 1035 section 2.3.4).
_AUTHORITY: Final = re.compile(rb"(?:[-a-z0-9._~]{1,255}+|\[([0-9a-f:.]{2,45}+)\])(?::([0-9]{1,5}+))?")
_ORIGIN: Final = re.compile(rb"(/" + PATH_CHAR + rb"*+)(\?" + QUERY_CHAR + rb"*+)?")
_ABSOLUTE: Final = re.compile(
    rb"([A-Za-z][-A-Za-z0-9+.]*+)://([^/?#]*+)(/" + PATH_CHAR + rb"*+)?(\?" + QUERY_CHAR + rb"*+)?"
)
_SCHEME: Final = re.compile(rb"[A-Za-z][-A-Za-z0-9+.]*+://")
_DEFAULT_PORT: Final = {b"http": b":80", b"https": b":443"}


class Target(NamedTuple):
    """A request target taken apart; see :class:`~sidecar.http.messages.RequestHead` for each part."""

    form: TargetForm
    scheme: bytes
    authority: bytes
    path: bytes
    query: bytes


def parse_target(method: bytes, target: bytes, *, secure: bool) -> Target:
    """Takes a request target apart; ``secure`` says that the connection it came by is TLS.

    Raises ``HttpError``: BAD_TARGET (a character that may not stand there), BAD_TARGET_FORM (a form that the method does
    not have), BAD_SCHEME, SECURE_SCHEME_ON_PLAINTEXT, BAD_AUTHORITY.
    """
    if method == b"CONNECT":  # RFC 9112 section 3.2.3: authority-form only, and only here; the port is not optional
        authority = target.lower()
        if not is_authority(authority) or not authority.rpartition(b":")[2].isdigit():
            raise HttpError(HttpCode.BAD_TARGET_FORM, "CONNECT takes host:port")
        return Target(TargetForm.AUTHORITY, b"", authority, b"", b"")
    if target == b"*":  # RFC 9112 section 3.2.4
        if method != b"OPTIONS":
            raise HttpError(HttpCode.BAD_TARGET_FORM, "only OPTIONS takes the target *")
        return Target(TargetForm.ASTERISK, b"", b"", b"*", b"")
    if target.startswith(b"/"):
        match = _ORIGIN.fullmatch(target)
        if match is None:
            raise HttpError(HttpCode.BAD_TARGET, "the request target has a character that must be percent-encoded")
        return Target(TargetForm.ORIGIN, b"", b"", match[1], match[2] or b"")
    return _parse_absolute(method, target, secure=secure)


def _parse_absolute(method: bytes, target: bytes, *, secure: bool) -> Target:
    match = _ABSOLUTE.fullmatch(target)
    if match is None:
        if _SCHEME.match(target) is None:
            raise HttpError(HttpCode.BAD_TARGET_FORM, "the request target is neither a path nor an absolute URI")
        raise HttpError(HttpCode.BAD_TARGET, "the request target has a character that must be percent-encoded")
    scheme, authority, path, query = match[1].lower(), match[2].lower(), match[3] or b"", match[4] or b""
    if scheme not in _DEFAULT_PORT:
        raise HttpError(HttpCode.BAD_SCHEME, "the scheme of the request target is neither http nor https")
    if scheme == b"https" and not secure:
        # What was asked for is a secured exchange, and this hop is none (RFC 9110 section 4.2.2).
        raise HttpError(
            HttpCode.SECURE_SCHEME_ON_PLAINTEXT,
            "an https target came by a connection that is not TLS: say http://, the proxy does the TLS",
        )
    if not is_authority(authority):
        raise HttpError(HttpCode.BAD_AUTHORITY, "the authority of the request target is not host or host:port")
    if not path:
        # RFC 9112 sections 3.2.1 and 3.2.4: an empty path is sent as "/", and by OPTIONS without a query as "*".
        path = b"*" if method == b"OPTIONS" and not query else b"/"
    return Target(TargetForm.ABSOLUTE, scheme, authority, path, query)


def is_authority(authority: bytes) -> bool:
    """Whether these lower-case bytes are ``name``, ``address`` or ``[v6 address]``, with or without ``:port``."""
    match = _AUTHORITY.fullmatch(authority)
    if match is None:
        return False
    address, port = match.groups()
    if port is not None and int(port) > 65535:
        return False
    if address is None:
        return True
    try:
        IPv6Address(address.decode("ascii"))
    except ValueError:
        return False
    return True


def same_authority(one: bytes, other: bytes, scheme: bytes) -> bool:
    """Whether two lower-case authorities are the same bytes once the scheme's default port is cut off.

    Nothing else is normalised (RFC 3986 section 6.2.3 knows more): the answer to a doubtful pair is "no".
    """
    port = _DEFAULT_PORT.get(scheme, b"")
    return one.removesuffix(port) == other.removesuffix(port)

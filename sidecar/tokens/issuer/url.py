"""The URL of an issuer, its metadata, keys or endpoints, read strictly: some of these come from the issuer itself."""

from __future__ import annotations

import ipaddress
import re
from dataclasses import dataclass, field
from typing import Final, NoReturn

from sidecar.tokens.codes import SourceCode, SourceError

#: Longer than any URL of an issuer, and shorter than any server's limit for a request line.
MAX_CHARACTERS: Final = 2048
#: scheme "://" host [":" port] [path] ["?" query] (RFC 3986 3), all of it ASCII. There is no room for user information
#: ("@") or a fragment ("#"), nor for anything that two readers could take for different things, such as a backslash.
_URL: Final = re.compile(
    r"(?P<scheme>[A-Za-z][A-Za-z0-9+.-]*)://"
    r"(?P<host>\[[0-9A-Fa-f:.]+\]|[A-Za-z0-9._-]+)(?::(?P<port>[0-9]{1,5}))?"
    r"(?P<path>/[A-Za-z0-9._~:/@!$&'()*+,;=%-]*)?(?P<query>\?[A-Za-z0-9._~:/?@!$&'()*+,;=%-]*)?"
)
#: RFC 1035 2.3.4; an underscore is no letter of a host name, but some have one.
_NAME: Final = re.compile(r"(?=.{1,253}\Z)[A-Za-z0-9_-]{1,63}(?:\.[A-Za-z0-9_-]{1,63})*")
_PORTS: Final = {"https": 443, "http": 80}


@dataclass(frozen=True, slots=True)
class Endpoint:
    """Where a request goes. ``host``: a name, or an address without brackets. ``target``: path and query, never shown."""

    secure: bool
    host: str
    port: int
    target: str = field(repr=False)

    def __str__(self) -> str:
        """Returns host and port, as messages show them."""
        return f"{self._bracketed}:{self.port}"

    @property
    def host_field(self) -> str:
        """The value of the ``Host`` field: without the port where it is the scheme's own (RFC 9110 4.2.3)."""
        return self._bracketed if self.port == _PORTS["https" if self.secure else "http"] else str(self)

    @property
    def _bracketed(self) -> str:
        return f"[{self.host}]" if ":" in self.host else self.host


def endpoint(url: str, *, plaintext: bool = False) -> Endpoint:
    """Reads a URL: https, or http where ``plaintext`` allows it. Raises SourceError (METADATA), which quotes none of it."""
    found = _URL.fullmatch(url) if len(url) <= MAX_CHARACTERS else None
    if found is None:
        _refuse(
            "is not https://HOST[:PORT][/PATH][?QUERY]",
            f"at most {MAX_CHARACTERS} ASCII characters; no user, no fragment, no blanks",
        )
    scheme = found["scheme"].lower()
    if scheme not in _PORTS:
        _refuse("has another scheme than https", "issuers are reached by https")
    if scheme == "http" and not plaintext:
        _refuse("begins with http://", "use https, or say `unsafe_plaintext_issuer: true`")
    port = int(found["port"] or _PORTS[scheme])
    if not 0 < port < 65536:
        _refuse("has a port that is none", "ports are 1 to 65535")
    path = found["path"] or "/"
    return Endpoint(scheme == "https", _host(found["host"]), port, path + (found["query"] or ""))


def _host(written: str) -> str:
    if not written.startswith("["):
        if _NAME.fullmatch(written) is None:
            _refuse("has a host that is no name", "labels have 1 to 63 letters, and there is no dot at the end")
        return written
    address = written[1:-1]
    if not _is_ipv6(address):
        _refuse("has a host that is no IPv6 address", "between brackets is an IPv6 address")
    return address


def _is_ipv6(address: str) -> bool:
    try:
        ipaddress.IPv6Address(address)
    except ValueError:
        return False
    return True


def _refuse(what: str, hint: str) -> NoReturn:
    raise SourceError(SourceCode.METADATA, f"the URL of an issuer {what}", hint=hint)

"""The URLs of issuers and resources. They are kept byte for byte: what an issuer calls itself is compared so.

No message quotes one: what stands in its user name or query may be a secret.
"""

from __future__ import annotations

import re
from typing import Final

from sidecar.config import forms
from sidecar.config.addresses import tcp_address
from sidecar.config.faults import ConfigCode, Refused
from sidecar.config.schema import Kind, text

#: The parts of an http URL (RFC 3986 3): scheme, authority, path, query, fragment.
_HTTP: Final = re.compile(r"(https?)://([^/?#]*)(/[^?#]*)?(\?[^#]*)?(#.*)?")
#: Every character that a URI has (RFC 3986 2), less the # that begins a fragment.
_URI: Final = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*:(?:[A-Za-z0-9._~:/?@!$&'()*+,;=\[\]-]|%[0-9A-Fa-f]{2})+")
_AUTHORITY: Final = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*://([^/?#]*)")
_PLAINTEXT: Final = "http://"


def plaintext(url: str) -> bool:
    """Says whether what is fetched from a URL crosses the network in clear."""
    return url.startswith(_PLAINTEXT)


def in_clear() -> Refused:
    """Returns the refusal of such a URL."""
    return Refused(
        ConfigCode.PLAINTEXT_ISSUER,
        "the URL is http://: whoever is on the way could read or make tokens",
        hint="write https://, or accept it with unsafe_plaintext_issuer: true",
    )


def _no_user(value: str) -> None:
    authority = _AUTHORITY.match(value)
    if authority is not None and "@" in authority[1]:
        raise Refused(
            ConfigCode.SECRET, "the URL holds a user name or password", hint="remove it; no secret stands in this file"
        )


def _http(*, query: bool) -> Kind[str]:
    def parse(value: str) -> str:
        _no_user(value)
        match = _HTTP.fullmatch(value)
        if match is None or not value.isascii() or " " in value:
            raise Refused(
                ConfigCode.BAD_URL,
                "this is not an https URL",
                hint="write https:// and host, port and path as the issuer has them, in ASCII, without blanks",
            )
        _, authority, _, found, fragment = match.groups()
        if fragment is not None:
            raise Refused(ConfigCode.BAD_URL, "the URL has a fragment", hint="end it before the #")
        if found is not None and not query:
            raise Refused(ConfigCode.BAD_URL, "the URL has a query (RFC 8414 2)", hint="end it before the ?")
        _check_authority(authority)
        return value

    return text(parse, "https URL", forms.starting("https?://"))


def _check_authority(authority: str) -> None:
    """Accepts ``host`` or ``host:port``; raises Refused."""
    if not authority:
        raise Refused(ConfigCode.BAD_URL, "the URL has no host", hint="write https://HOST/…")
    behind = authority.rpartition("]")[2]
    tcp_address(authority if ":" in behind else f"{authority}:443")


def _resource(value: str) -> str:
    _no_user(value)
    if _URI.fullmatch(value) is None:
        raise Refused(
            ConfigCode.BAD_URL,
            "this is not an absolute URI without a fragment (RFC 8707 2)",
            hint="write the URI of the service as its issuer knows it: https://tools.example.org",
        )
    return value


ISSUER: Final = _http(query=False)
JWKS: Final = _http(query=True)
RESOURCE: Final = text(_resource, "absolute URI", forms.matching(_URI))

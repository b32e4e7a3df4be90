"""SPIFFE IDs and trust domains, by the SPIFFE-ID specification, section 2.

Nothing is normalised: a text either is a SPIFFE ID byte for byte or is refused. RFC 3986 would let scheme and host be
compared without regard to case (SPIFFE-ID 2.4), but 2.1 demands lower case of whoever writes one, and two spellings of
one identity are what allow lists are bypassed with.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from enum import StrEnum
from typing import Final

from sidecar.errors import PeerError

MAX_ID_BYTES: Final = 2048
"""Length of a whole SPIFFE ID (SPIFFE-ID 2.3)."""

MAX_TRUST_DOMAIN_BYTES: Final = 255
"""Length of a trust domain name (SPIFFE-ID 2.3)."""

SCHEME: Final = "spiffe://"

# Spelled out, and matched with fullmatch only: `\w`, `\d` and IGNORECASE know letters beyond ASCII (U+017F, the long s,
# folds to "s"), and `$` also matches before a final newline.
TRUST_DOMAIN: Final = re.compile(r"[a-z0-9._-]+")
_SEGMENT: Final = re.compile(r"[a-zA-Z0-9._-]+")

_SHOWN: Final = 80


class SpiffeIdCode(StrEnum):
    """What is wrong with a text that is not a SPIFFE ID."""

    EMPTY = "spiffe_id_empty"
    TOO_LONG = "spiffe_id_too_long"
    WRONG_SCHEME = "spiffe_id_wrong_scheme"
    NO_TRUST_DOMAIN = "spiffe_id_no_trust_domain"
    TRUST_DOMAIN_TOO_LONG = "spiffe_id_trust_domain_too_long"
    TRUST_DOMAIN_CHARACTER = "spiffe_id_trust_domain_character"
    USERINFO = "spiffe_id_userinfo"
    PORT = "spiffe_id_port"
    QUERY = "spiffe_id_query"
    FRAGMENT = "spiffe_id_fragment"
    PERCENT_ENCODING = "spiffe_id_percent_encoding"
    PATH_CHARACTER = "spiffe_id_path_character"
    PATH_NOT_ABSOLUTE = "spiffe_id_path_not_absolute"
    EMPTY_SEGMENT = "spiffe_id_empty_segment"
    DOT_SEGMENT = "spiffe_id_dot_segment"
    TRAILING_SLASH = "spiffe_id_trailing_slash"


class SpiffeIdError(PeerError):
    """A text is not a valid SPIFFE ID or trust domain name; ``code`` is a :class:`SpiffeIdCode`."""


@dataclass(frozen=True, slots=True, order=True)
class TrustDomain:
    """The name of a trust domain, such as ``example.org`` (SPIFFE-ID 2.1). Every instance is valid.

    Raises :class:`SpiffeIdError` when made from a name that is not valid. IP addresses and DNS names are treated like
    any other name, as 2.1 requires.
    """

    name: str

    def __post_init__(self) -> None:
        name = self.name
        if not name:
            raise SpiffeIdError(SpiffeIdCode.NO_TRUST_DOMAIN, "the trust domain name is empty")
        if len(name) > MAX_TRUST_DOMAIN_BYTES:
            raise SpiffeIdError(
                SpiffeIdCode.TRUST_DOMAIN_TOO_LONG,
                f"the trust domain name is longer than {MAX_TRUST_DOMAIN_BYTES} bytes",
            )
        if not TRUST_DOMAIN.fullmatch(name):
            raise SpiffeIdError(
                _authority_defect(name),
                f"a trust domain name has only the characters a-z 0-9 . - _, this is {shown(name)}",
            )

    @classmethod
    def parse(cls, text: str) -> TrustDomain:
        """The trust domain of that bare name (without ``spiffe://``); raises :class:`SpiffeIdError`."""
        return cls(text)

    def __str__(self) -> str:
        return self.name


@dataclass(frozen=True, slots=True, order=True)
class SpiffeId:
    """A SPIFFE ID: a trust domain and a path that is ``""`` or ``"/a/b"`` (SPIFFE-ID 2). Every instance is valid.

    Raises :class:`SpiffeIdError` when made from a path that is not valid, or when the whole is too long.
    """

    trust_domain: TrustDomain
    path: str

    def __post_init__(self) -> None:
        path = self.path
        if len(SCHEME) + len(self.trust_domain.name) + len(path) > MAX_ID_BYTES:
            raise SpiffeIdError(SpiffeIdCode.TOO_LONG, f"the SPIFFE ID is longer than {MAX_ID_BYTES} bytes")
        if not path:
            return
        if path[0] != "/":
            raise SpiffeIdError(SpiffeIdCode.PATH_NOT_ABSOLUTE, f"the path does not start with /: {shown(path)}")
        if path[-1] == "/":
            raise SpiffeIdError(SpiffeIdCode.TRAILING_SLASH, f"the path ends with a slash: {shown(path)}")
        for segment in path[1:].split("/"):
            check_segment(segment)

    @classmethod
    def parse(cls, text: str) -> SpiffeId:
        """The SPIFFE ID ``spiffe://<trust domain>[/<segment>...]``, so that ``str(parse(x)) == x``.

        Raises :class:`SpiffeIdError`, and nothing else, for every other text.
        """
        if not text:
            raise SpiffeIdError(SpiffeIdCode.EMPTY, "the SPIFFE ID is empty")
        # Before anything is cut or searched. Characters count as bytes: whatever is not ASCII is refused below.
        if len(text) > MAX_ID_BYTES:
            raise SpiffeIdError(SpiffeIdCode.TOO_LONG, f"the SPIFFE ID is longer than {MAX_ID_BYTES} bytes")
        if not text.startswith(SCHEME):
            raise SpiffeIdError(
                SpiffeIdCode.WRONG_SCHEME, f"a SPIFFE ID starts with {SCHEME} in lower case, this is {shown(text)}"
            )
        name, slash, path = text[len(SCHEME) :].partition("/")
        return cls(TrustDomain(name), slash + path)

    @property
    def segments(self) -> tuple[str, ...]:
        """The segments of the path; empty for the SPIFFE ID of a trust domain itself."""
        return tuple(self.path[1:].split("/")) if self.path else ()

    def __str__(self) -> str:
        return f"{SCHEME}{self.trust_domain.name}{self.path}"


def check_segment(segment: str) -> None:
    """Accepts one path segment (SPIFFE-ID 2.2) or raises :class:`SpiffeIdError`."""
    if not segment:
        raise SpiffeIdError(SpiffeIdCode.EMPTY_SEGMENT, "the path has an empty segment (two slashes in a row)")
    if segment in {".", ".."}:
        raise SpiffeIdError(SpiffeIdCode.DOT_SEGMENT, "the path has a segment that is . or ..")
    if not _SEGMENT.fullmatch(segment):
        raise SpiffeIdError(
            _path_defect(segment), f"a path segment has only the characters a-z A-Z 0-9 . - _, this is {shown(segment)}"
        )


def shown(text: str) -> str:
    """Untrusted text as it may stand in a message: quoted, ASCII, without control characters, cut."""
    return ascii(text) if len(text) <= _SHOWN else f"{text[:_SHOWN]!a}..."


def _authority_defect(name: str) -> SpiffeIdCode:
    """The most telling code for a trust domain name with a character that may not be there."""
    if "@" in name:
        return SpiffeIdCode.USERINFO
    if "?" in name:
        return SpiffeIdCode.QUERY
    if "#" in name:
        return SpiffeIdCode.FRAGMENT
    if ":" in name:
        return SpiffeIdCode.PORT
    if "%" in name:
        return SpiffeIdCode.PERCENT_ENCODING
    return SpiffeIdCode.TRUST_DOMAIN_CHARACTER


def _path_defect(segment: str) -> SpiffeIdCode:
    """The most telling code for a segment with a character that may not be there."""
    if "?" in segment:
        return SpiffeIdCode.QUERY
    if "#" in segment:
        return SpiffeIdCode.FRAGMENT
    if "%" in segment:
        return SpiffeIdCode.PERCENT_ENCODING
    return SpiffeIdCode.PATH_CHARACTER

"""Request paths: which ones are unambiguous, and the patterns that rules compare them with.

A path is compared byte for byte exactly as it will be sent, never decoded or normalised. That is only sound when every
server reads those bytes alike, so whatever servers are known to read differently is refused first (`check_path`): a
dot segment, also one spelled with escapes or hidden before a ``;``; a slash or backslash spelled with an escape; an
empty segment; NUL; a broken escape.
"""

from __future__ import annotations

import itertools
import re
from dataclasses import dataclass, field
from enum import StrEnum

from sidecar.errors import ConfigurationError, PeerError
from sidecar.policy.tree import DEEP, ONE, PathTree

#: How often ``**`` may stand in one pattern. Matching stays linear with any number; people do not.
MAX_DEEP = 4


class PathCode(StrEnum):
    """What makes a path ambiguous; also a denial's reason."""

    RELATIVE = "path_relative"
    CHARACTER = "path_character"
    BACKSLASH = "path_backslash"
    BAD_ESCAPE = "path_bad_escape"
    NUL = "path_nul"
    ENCODED_SLASH = "path_encoded_slash"
    ENCODED_BACKSLASH = "path_encoded_backslash"
    OVERLONG_ESCAPE = "path_overlong_escape"
    DOT_SEGMENT = "path_dot_segment"
    EMPTY_SEGMENT = "path_empty_segment"


class PathError(PeerError):
    """A path that two servers may read differently."""

    def __init__(self, code: PathCode, message: str) -> None:
        super().__init__(code, message)
        self.code: PathCode = code


# Printable ASCII without "#", "%", ".", "/", ";", "?" and "\": how a segment begins that needs no second look.
_FIRST = rb"!\"$&-\-0-:<->@-\[\]-~"
# The whole path is such segments, each perhaps after one "." (as in /.well-known); the last one may be empty.
_PLAIN = re.compile(rb"(?=/)(?:/\.?[" + _FIRST + rb"][" + _FIRST + rb".;]*+)*+/?")
_ODD_CHARACTER = re.compile(rb"[^!-~]|[#?]")
_BAD_ESCAPE = re.compile(rb"%(?![0-9A-Fa-f]{2})")
_ESCAPE = re.compile(rb"%([0-9A-Fa-f]{2})")
# A character spelled in more UTF-8 bytes than it needs (RFC 3629 3): %C0%AF was read as a slash by real servers.
_OVERLONG = re.compile(rb"[\xc0\xc1]|\xe0[\x80-\x9f]|\xf0[\x80-\x8f]")
_SEPARATOR = re.compile(rb"[/\\]")


def check_path(path: bytes, *, strict: bool) -> None:
    """Refuses a path (origin-form, without its query) that two servers may read differently.

    ``strict`` holds for every inbound request and for outbound entries with ``paths``. Without it valid escapes and
    empty segments pass unchanged, since the peer decides about them; dot segments are still found behind an encoded
    slash. RFC 3986 3.3 and 6.2.2 name the spellings that count as equal. Raises `PathError`.
    """
    if _PLAIN.fullmatch(path) is None:
        _check_unusual(path, strict=strict)


def _check_unusual(path: bytes, *, strict: bool) -> None:
    if not path.startswith(b"/"):
        raise PathError(PathCode.RELATIVE, "the path does not begin with a slash")
    if b"\\" in path:
        raise PathError(PathCode.BACKSLASH, "the path holds a backslash")
    if _ODD_CHARACTER.search(path):
        raise PathError(PathCode.CHARACTER, "the path holds a byte that RFC 3986 does not allow there")
    if _BAD_ESCAPE.search(path):
        raise PathError(PathCode.BAD_ESCAPE, "the path holds a % that two hexadecimal digits do not follow")
    decoded = _ESCAPE.sub(lambda escape: bytes((int(escape[1], 16),)), path)
    if b"\0" in decoded:
        raise PathError(PathCode.NUL, "the path holds an encoded NUL")
    if strict:
        _check_escapes(path, decoded)
    # Every byte that some server takes for a separator is one here, so that nothing can hide a dot segment.
    names = [segment.partition(b";")[0] for segment in _SEPARATOR.split(decoded)]
    if b"." in names or b".." in names:
        raise PathError(PathCode.DOT_SEGMENT, "the path holds a dot segment")
    # Servlet containers drop ";parameters", so that "/;x/" becomes "//". Only a trailing slash leaves nothing behind it.
    if strict and (b"" in names[1:-1] or (not names[-1] and not decoded.endswith(b"/"))):
        raise PathError(PathCode.EMPTY_SEGMENT, "the path holds an empty segment")


def _check_escapes(path: bytes, decoded: bytes) -> None:
    escapes = {escape.lower() for escape in _ESCAPE.findall(path)}
    if b"2f" in escapes:
        raise PathError(PathCode.ENCODED_SLASH, "the path holds an encoded slash")
    if b"5c" in escapes:
        raise PathError(PathCode.ENCODED_BACKSLASH, "the path holds an encoded backslash")
    if _OVERLONG.search(decoded):
        raise PathError(PathCode.OVERLONG_ESCAPE, "the path spells a character with more bytes than UTF-8 has for it")


class PatternCode(StrEnum):
    """What is wrong with a path pattern in the configuration."""

    PATTERN_RELATIVE = "pattern_relative"
    PATTERN_CHARACTER = "pattern_character"
    PATTERN_EMPTY_SEGMENT = "pattern_empty_segment"
    PATTERN_PARTIAL_WILDCARD = "pattern_partial_wildcard"
    PATTERN_TOO_DEEP = "pattern_too_deep"
    PATTERN_NEVER_MATCHES = "pattern_never_matches"


class PatternError(ConfigurationError):
    """A path pattern that is not one, or that no request could ever match."""

    def __init__(self, code: PatternCode, message: str, *, hint: str = "") -> None:
        super().__init__(code, message, hint=hint)
        self.code: PatternCode = code


@dataclass(frozen=True, slots=True)
class PathPattern:
    """A path with wildcards: ``*`` is one whole segment (not an empty one), ``**`` zero or more.

    ``/tools/**`` matches ``/tools``, ``/tools/`` and everything below; ``/tools/*`` none of the first two. A trailing
    slash counts: ``/mcp`` and ``/mcp/`` are two paths. Everything else is compared byte for byte, case and the
    spelling of escapes included.
    """

    text: str
    segments: tuple[bytes, ...] = field(repr=False, compare=False)

    @classmethod
    def parse(cls, text: str) -> PathPattern:
        """Reads a pattern as the configuration writes it. Raises `PatternError`."""
        if not text.startswith("/"):
            raise PatternError(
                PatternCode.PATTERN_RELATIVE, f"the path {text!r} does not begin with /", hint=f"write '/{text}'"
            )
        if not text.isascii() or not text.isprintable() or set(text) & set(" #?\\"):
            raise PatternError(
                PatternCode.PATTERN_CHARACTER,
                f"the path {text!r} holds a character that no request path has",
                hint="write it as clients send it: percent-encoded, without query and fragment",
            )
        segments = tuple(text.encode("ascii")[1:].split(b"/"))
        _check_segments(text, segments)
        return cls(text, segments)

    def matches(self, path: bytes) -> bool:
        """Says whether a path, exactly as it will be sent and without its query, is one that the pattern means."""
        tree: PathTree[bool] = PathTree()
        tree.slot(self.segments, lambda: True)
        return bool(tree.find(path))

    def __str__(self) -> str:
        """Returns the pattern as it was written."""
        return self.text


def _check_segments(text: str, segments: tuple[bytes, ...]) -> None:
    if b"" in segments[:-1]:
        raise PatternError(PatternCode.PATTERN_EMPTY_SEGMENT, f"the path {text!r} holds an empty segment")
    if any(b"*" in segment and segment not in {ONE, DEEP} for segment in segments):
        raise PatternError(
            PatternCode.PATTERN_PARTIAL_WILDCARD,
            f"the path {text!r} has a wildcard within a segment",
            hint="* stands for one whole segment, ** for any number of them",
        )
    if segments.count(DEEP) > MAX_DEEP or (DEEP, DEEP) in itertools.pairwise(segments):
        raise PatternError(
            PatternCode.PATTERN_TOO_DEEP,
            f"the path {text!r} has ** twice in a row or more than {MAX_DEEP} times",
            hint="one ** already stands for any number of segments",
        )
    try:
        check_path(text.encode("ascii"), strict=True)
    except PathError as error:
        raise PatternError(
            PatternCode.PATTERN_NEVER_MATCHES,
            f"no request can match {text!r}: {error}",
            hint="requests with such a path are refused before any rule is looked at",
        ) from error

"""Patterns over SPIFFE IDs: how callers and peers are named in a configuration."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum, StrEnum

from sidecar.identity.spiffe import SCHEME, SpiffeId, SpiffeIdError, TrustDomain, check_segment, shown


class IdPatternCode(StrEnum):
    """What is wrong with a pattern, beyond what :class:`~sidecar.identity.spiffe.SpiffeIdCode` says of its literals."""

    WILDCARD_TRUST_DOMAIN = "pattern_wildcard_trust_domain"
    WILDCARD_NOT_LAST = "pattern_wildcard_not_last"
    WILDCARD_WITHOUT_SEGMENT = "pattern_wildcard_without_segment"
    WILDCARD_PARTIAL = "pattern_wildcard_partial"
    NO_PATH = "pattern_no_path"


class IdPatternError(SpiffeIdError):
    """A text is not a valid pattern; ``code`` is an :class:`IdPatternCode`."""


class Tail(Enum):
    """What may follow the literal segments: nothing, exactly one segment, or one and more."""

    EXACT = ""
    ONE = "/*"
    MANY = "/**"


@dataclass(frozen=True, slots=True)
class IdPattern:
    """A trust domain, at least one literal segment, and a tail. Every instance is valid.

    Segments are compared whole, so ``spiffe://td/agent/a`` never matches ``spiffe://td/agent/ab``.
    """

    trust_domain: TrustDomain
    segments: tuple[str, ...]
    tail: Tail = Tail.EXACT

    def __post_init__(self) -> None:
        if not self.segments:
            # A pattern over a whole trust domain would let in whatever anybody there ever gets issued, and the
            # domain's own ID names no workload (X509-SVID 3.1: the path of a leaf is not empty).
            if self.tail is Tail.EXACT:
                raise IdPatternError(
                    IdPatternCode.NO_PATH,
                    "this names a trust domain, which no workload is",
                    hint="add the path of the caller or peer",
                )
            raise IdPatternError(
                IdPatternCode.WILDCARD_WITHOUT_SEGMENT,
                "a wildcard stands only after a literal path segment",
                hint=f"write {SCHEME}{self.trust_domain}/<segment>{self.tail.value}",
            )
        for segment in self.segments:
            check_segment(segment)

    @classmethod
    def parse(cls, text: str) -> IdPattern:
        """The pattern ``spiffe://<trust domain>/<segment>...`` with nothing, ``/*`` or ``/**`` at its end.

        Raises :class:`IdPatternError` for a wildcard in another place and :class:`SpiffeIdError` for literals that
        cannot stand in a SPIFFE ID.
        """
        tail = next((t for t in (Tail.MANY, Tail.ONE) if text.endswith(t.value)), Tail.EXACT)
        literal = text.removesuffix(tail.value)
        _check_wildcards(text, literal)
        parsed = SpiffeId.parse(literal)
        return cls(parsed.trust_domain, parsed.segments, tail)

    def matches(self, spiffe_id: SpiffeId) -> bool:
        """Whether the SPIFFE ID is one that the pattern names."""
        if spiffe_id.trust_domain != self.trust_domain:
            return False
        segments = spiffe_id.segments
        extra = len(segments) - len(self.segments)
        if self.tail is Tail.EXACT:
            return segments == self.segments
        if extra < 1 or (extra > 1 and self.tail is Tail.ONE):
            return False
        return segments[:-extra] == self.segments

    def __str__(self) -> str:
        return f"{SCHEME}{self.trust_domain}/{'/'.join(self.segments)}{self.tail.value}"


def _check_wildcards(text: str, literal: str) -> None:
    """Refuses a wildcard anywhere but in the tail, ahead of the general complaint about the character ``*``."""
    if not text.startswith(SCHEME):
        return  # SpiffeId.parse says so
    trust_domain, _, path = text[len(SCHEME) :].partition("/")
    if "*" in trust_domain:
        raise IdPatternError(
            IdPatternCode.WILDCARD_TRUST_DOMAIN,
            f"the trust domain of a pattern is literal: {shown(text)}",
            hint="write one entry for each trust domain",
        )
    if "*" not in literal:
        return
    if any("*" in segment and segment.strip("*") for segment in path.split("/")):
        raise IdPatternError(
            IdPatternCode.WILDCARD_PARTIAL,
            f"a wildcard stands for whole segments: {shown(text)}",
            hint="end the pattern with /* (one segment) or /** (one or more)",
        )
    raise IdPatternError(
        IdPatternCode.WILDCARD_NOT_LAST,
        f"/* or /** stands at the end of a pattern, once: {shown(text)}",
        hint="end the pattern with /* (one segment) or /** (one or more)",
    )

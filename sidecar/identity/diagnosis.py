"""Why no path was found, told from the certificates: the library says it in a sentence only, which is no code.

Nothing here accepts anything. The walk follows names and signatures from the leaf towards the authorities, one issuer
a step, and stops at the first thing that explains the refusal.
"""

from __future__ import annotations

from itertools import islice
from typing import TYPE_CHECKING, Final

from sidecar.identity.facts import Facts, issued_by
from sidecar.identity.refusal import Refusal, VerificationError

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from cryptography import x509

_CANDIDATES: Final = 4
"""Issuers of one name whose signatures are tried at a step; an explanation is worth no more."""


def diagnose(
    leaf: Facts, intermediates: Sequence[Facts], authorities: Iterable[x509.Certificate], now: float
) -> VerificationError:
    """The refusal for a leaf and intermediates that keep every rule by themselves but lead to no authority."""
    anchors = sorted(
        (Facts.of_certificate(authority) for authority in authorities),
        key=lambda facts: not facts.not_before <= now <= facts.not_after,
    )
    unused = list(intermediates)
    current, depth = leaf, 0
    while True:
        anchor = _issuer(current, anchors)
        if anchor is not None:
            return _at_authority(anchor, depth, now)
        issuer = _issuer(current, unused)
        if issuer is None:
            return _without_issuer(current, [*anchors, *unused])
        if _too_deep(issuer, depth):
            return _path_length_exceeded()
        unused = [facts for facts in unused if facts is not issuer]
        # A self-issued intermediate does not count (RFC 5280 6.1.4 l).
        depth += issuer.subject != issuer.issuer
        current = issuer


def _issuer(current: Facts, candidates: Sequence[Facts]) -> Facts | None:
    named = (facts for facts in candidates if facts.subject == current.issuer)
    return next((facts for facts in islice(named, _CANDIDATES) if issued_by(current, facts)), None)


def _at_authority(anchor: Facts, depth: int, now: float) -> VerificationError:
    """An authority signed what the walk reached, so the fault is the authority's, or the path's as a whole."""
    if now < anchor.not_before:
        return VerificationError(
            Refusal.AUTHORITY_NOT_YET_VALID, "the authority that signed the chain is not valid yet"
        )
    if now > anchor.not_after:
        return VerificationError(
            Refusal.AUTHORITY_EXPIRED,
            "the authority that signed the chain has expired",
            hint="the trust bundle holds the authority's renewal, or the peer needs a certificate of a newer authority",
        )
    if _too_deep(anchor, depth):
        return _path_length_exceeded()
    return VerificationError(Refusal.PATH_INVALID, "the path to the authority is not valid by RFC 5280, section 6")


def _without_issuer(current: Facts, candidates: Iterable[Facts]) -> VerificationError:
    if any(facts.subject == current.issuer for facts in candidates):
        return VerificationError(
            Refusal.SIGNATURE_INVALID, "a certificate names an issuer that is known, but that one did not sign it"
        )
    return VerificationError(
        Refusal.AUTHORITY_UNKNOWN,
        "the chain leads to no authority in the bundle of its trust domain",
        hint="the peer presents its intermediates, and the bundle holds the authority above them",
    )


def _too_deep(signing: Facts, depth: int) -> bool:
    """Whether more intermediates follow than the signing certificate's pathLenConstraint allows (RFC 5280 4.2.1.9)."""
    constraints = signing.basic_constraints
    return constraints is not None and constraints.path_length is not None and depth > constraints.path_length


def _path_length_exceeded() -> VerificationError:
    return VerificationError(
        Refusal.PATH_LENGTH_EXCEEDED, "more intermediates follow a certificate than its path length allows"
    )

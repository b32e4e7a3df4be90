"""What comes of asking whether a request's token meets a requirement."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from sidecar.tokens.codes import TokenCode
    from sidecar.tokens.requirement import Requirement, Verified


class Admitted(NamedTuple):
    """A token that let a request pass, and the requirement that it met."""

    requirement: Requirement
    token: Verified


class Refused(NamedTuple):
    """A token that did not help; ``token`` only where its signature was verified.

    ``detail`` is for the operator, and holds nothing of the token but numbers and names of ours.
    """

    code: TokenCode
    requirement: Requirement
    token: Verified | None = None
    detail: str = ""


class KeysWanted(NamedTuple):
    """It cannot be said yet: the issuer's keys have to be fetched first. ``issuer`` is its name in the configuration."""

    issuer: str

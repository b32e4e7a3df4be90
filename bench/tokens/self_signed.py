"""Tokens that the calling side signs with its own identity key (ES256), and sends with its certificate in them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from bench.tokens.kind import AUDIENCE, SOURCE, Tokens

if TYPE_CHECKING:
    from bench.site import Site


@dataclass(frozen=True, slots=True)
class SelfSigned:
    """One is signed when the first request comes, and after some minutes the next one."""

    name: str = "self-signed"
    title: str = "with a self-signed token"

    def begin(self, site: Site) -> Tokens:  # noqa: ARG002 - both sides have what it takes
        """Says so in both configurations."""
        source = {"name": SOURCE, "kind": "self-signed", "audience": AUDIENCE}
        return Tokens(source, {"issuer": "self-signed", "audience": AUDIENCE})

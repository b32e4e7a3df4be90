"""What a row asks of a kind of token, whichever it is, and what it says to every kind."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final, Protocol

if TYPE_CHECKING:
    from bench.site import Site

#: Whom the tokens are for: the accepting side, by a name that means nothing to anybody else here.
AUDIENCE: Final = "https://tools.example.org"
#: What the calling side's source is called.
SOURCE: Final = "bench"


@dataclass(frozen=True, slots=True, eq=False)
class Tokens:
    """What the configurations of a pair say: where the calling side has its tokens from, and what the accepting side asks.

    Each is as it stands in the file: ``source`` one of ``tokens``, ``requirement`` the ``token`` of an allow rule, and
    ``issuers`` the whole list.
    """

    source: dict[str, Any]
    requirement: dict[str, Any]
    issuers: list[dict[str, Any]] = field(default_factory=list)


class Kind(Protocol):
    """One kind of token."""

    @property
    def name(self) -> str:
        """The second part of its lines' names."""
        ...

    @property
    def title(self) -> str:
        """How a line of the table ends."""
        ...

    def begin(self, site: Site) -> Tokens:
        """Sets up what it takes to have such tokens. Raises CouldNotRunError."""
        ...

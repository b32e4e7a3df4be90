"""What an issuer answered."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from sidecar.identity.strict_json import Defect, read_object
from sidecar.tokens.codes import SourceCode, SourceError


@dataclass(frozen=True, slots=True)
class Answer:
    """An answer of any status; 3xx, 4xx and 5xx are for the caller to judge.

    ``content_type``: the media type in lower case, without parameters; "" where there is none. ``body`` may hold tokens,
    and never appears in ``repr``; it is whole.
    """

    status: int
    content_type: str
    body: bytes = field(repr=False)

    def json(self) -> dict[str, Any]:
        """Returns the one JSON object that the body is (RFC 8259). Raises SourceError (BAD_ANSWER), which quotes nothing."""
        found = read_object(self.body)
        if isinstance(found, Defect):
            raise SourceError(
                SourceCode.BAD_ANSWER,
                f"the issuer's answer (status {self.status}) is no JSON object with each name once",
                hint="look at what this URL answers: it may be another service, or an error page",
            )
        return found

"""The steps of the story, one file each."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from sidecar.demo.steps import (
    impostor,
    named_caller,
    no_certificate,
    set_up,
    spoofed_identity,
    unnamed_caller,
)

if TYPE_CHECKING:
    from sidecar.demo.outcome import Step

STORY: Final[tuple[Step, ...]] = (
    set_up.STEP,
    named_caller.STEP,
    unnamed_caller.STEP,
    impostor.STEP,
    spoofed_identity.STEP,
    no_certificate.STEP,
)
"""In this order; the first one makes what the others need."""

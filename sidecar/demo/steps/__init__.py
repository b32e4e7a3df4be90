"""The steps of the story, one file each."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from sidecar.demo.steps import (
    copied_key,
    impostor,
    named_caller,
    no_certificate,
    set_up,
    spoofed_identity,
    stolen_token,
    unnamed_caller,
)

if TYPE_CHECKING:
    from sidecar.demo.outcome import Step
    from sidecar.demo.stage import Stage

STORY: Final[tuple[Step, ...]] = (
    set_up.STEP,
    named_caller.STEP,
    unnamed_caller.STEP,
    impostor.STEP,
    spoofed_identity.STEP,
    no_certificate.STEP,
    stolen_token.STEP,
)
"""In this order; the first one makes what the others need."""


def story_of(stage: Stage) -> tuple[Step, ...]:
    """The story, and the step that needs keys in a TPM if they are in one."""
    return (*STORY, copied_key.STEP) if stage.in_tpm else STORY

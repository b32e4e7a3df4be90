"""Questions to a sidecar's admin socket."""

from __future__ import annotations

from http import HTTPStatus
from typing import TYPE_CHECKING

from sidecar.admin.client import AskError, ask
from sidecar.demo.outcome import UnexpectedError

if TYPE_CHECKING:
    from pathlib import Path

_SECONDS = 2.0


def ready(path: Path) -> bool:
    """Says whether the sidecar with that socket is ready."""
    try:
        return ask(path, "GET", "/ready", seconds=_SECONDS).status == HTTPStatus.OK
    except AskError:
        return False


def identity(path: Path) -> dict[str, str | int]:
    """What the sidecar with that socket says of its own identity (``/certs``). Raises UnexpectedError."""
    try:
        (shown,) = ask(path, "GET", "/certs", seconds=_SECONDS).content["certs"]
    except (AskError, LookupError, TypeError, ValueError) as error:
        raise UnexpectedError(f"{path.name} does not tell its identity: {type(error).__name__}", str(error)) from error
    found: dict[str, str | int] = shown
    return found

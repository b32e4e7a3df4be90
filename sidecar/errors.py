"""One exception family: who is at fault, a stable code, and what to do about it.

Each area defines its own ``StrEnum`` of codes beside the code that raises them. A code is part of the log format and is
never renamed; the message is for people and may change.
"""

from __future__ import annotations

from enum import StrEnum
from typing import ClassVar


class Fault(StrEnum):
    """Who has to change something."""

    PEER = "peer"
    UPSTREAM = "upstream"
    LOCAL = "local"
    CONFIGURATION = "configuration"


class SidecarError(Exception):
    """Base of all errors that sidecar raises on purpose.

    ``code`` is stable and goes to logs and metrics; ``str(error)`` is a sentence for people; ``hint`` says what to
    change and may be empty.
    """

    fault: ClassVar[Fault] = Fault.LOCAL

    def __init__(self, code: StrEnum, message: str, *, hint: str = "") -> None:
        super().__init__(message)
        self.code = code
        self.hint = hint


class PeerError(SidecarError):
    """What the other end of a connection sent or presented is refused."""

    fault = Fault.PEER


class UpstreamError(SidecarError):
    """The place a request is forwarded to cannot be reached or answers badly."""

    fault = Fault.UPSTREAM


class LocalError(SidecarError):
    """This process or machine cannot do what is asked of it."""

    fault = Fault.LOCAL


class ConfigurationError(SidecarError):
    """The configuration or the command line is wrong."""

    fault = Fault.CONFIGURATION

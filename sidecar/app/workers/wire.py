"""What a parent asks its workers, and what they answer: JSON objects over a `channel`.

A question: ``{"ask": KIND, "number": N, …}``; its answer ``{"number": N, "done": {…}}``, or ``{"number": N, "refused":
{"code": …, "message": …, "hint": …, "configuration": …}}``. Only the parent asks. Both are of one version: a worker of
another one, because the package was replaced under a running parent, refuses to start.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING, Any

from sidecar.errors import ConfigurationError, LocalError

if TYPE_CHECKING:
    from sidecar.app.workers.channel import Content
    from sidecar.errors import SidecarError


class Ask(StrEnum):
    """The kinds of questions, with what comes along and what is answered."""

    #: Sockets as descriptors, for the question that follows: ``places``, one name for each. With ``turns``: that of
    #: `sidecar.telemetry.turns`. No answer.
    HAND = "hand"
    #: A configuration to serve: that of `handed`, with ``workers`` and ``version``. ``{}`` when it serves.
    START = "start"
    #: Another configuration to make ready: that of `handed`. ``{}`` when it could be put into force.
    PREPARE = "prepare"
    #: Puts what was prepared into force. ``{}``.
    COMMIT = "commit"
    #: Lets go of what was prepared. ``{}``.
    ABANDON = "abandon"
    #: Opens the file of the access log again under its name. Nobody waits for the answer.
    REOPEN = "reopen"
    #: ``ready``: why it does not serve, or null; ``metrics``: as `sums.dump`.
    STATUS = "status"
    #: ``connections``: those that are open, as `/connections` shows them.
    CONNECTIONS = "connections"
    #: As `/tokens`.
    TOKENS = "tokens"
    #: ``name``: a fresh token of that source, ``token``; or ``error``; ``{}`` where there is none of that name.
    TOKEN = "token"  # noqa: S105 - a kind of question
    #: Ends ``direction`` within ``seconds``: ``done``, whether all of it ended in time.
    DRAIN = "drain"
    #: Ends: ``code``, the exit code. No answer but the end of the process.
    END = "end"


class WorkerCode(StrEnum):
    """What is wrong with a process of ours; part of the log, never renamed."""

    #: It is gone.
    GONE = "worker_gone"
    #: It did not answer in time.
    LATE = "worker_late"
    #: It is of another version: the package was replaced.
    VERSION = "worker_version"
    #: No worker serves now.
    NONE = "no_worker"
    #: The defect is ours.
    INTERNAL = "worker_internal"


class RefusedCode(str):
    """A stable code that another process of ours gave."""

    __slots__ = ()


@dataclass(frozen=True, slots=True)
class Refusal:
    """Why a question was refused."""

    code: str
    message: str
    hint: str = ""
    configuration: bool = False

    @classmethod
    def of(cls, error: SidecarError) -> Refusal:
        """What an error says."""
        return cls(str(error.code), str(error), error.hint, isinstance(error, ConfigurationError))

    def content(self) -> Content:
        """As it goes over the channel."""
        return {
            "code": self.code,
            "message": self.message,
            "hint": self.hint,
            "configuration": self.configuration,
        }

    @classmethod
    def parse(cls, content: object) -> Refusal:
        """Raises ValueError for what is none."""
        if not isinstance(content, dict):
            raise ValueError("no refusal")  # noqa: TRY004 - one kind of error for whatever comes
        code, message, hint = (content.get(name) for name in ("code", "message", "hint"))
        if not (isinstance(code, str) and isinstance(message, str) and isinstance(hint, str)):
            raise ValueError("no refusal")  # noqa: TRY004 - likewise
        return cls(code, message, hint, content.get("configuration") is True)

    def error(self) -> SidecarError:
        """The same as an exception of this process."""
        kind: Any = ConfigurationError if self.configuration else LocalError
        error: SidecarError = kind(RefusedCode(self.code), self.message, hint=self.hint)
        return error


class WorkerError(LocalError):
    """A process of ours does not do its work."""

    def __init__(self, code: WorkerCode, message: str, *, hint: str = "") -> None:
        super().__init__(code, message, hint=hint)
        self.code: WorkerCode = code

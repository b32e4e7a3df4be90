"""Questions to the administration socket of another sidecar, for commands: they wait, within bounds.

Whoever could put a socket of his own in that place could give an answer of his own. So the kernel is asked who listens
there before anything is sent.
"""

from __future__ import annotations

import http.client
import json
import os
import socket
import time
from contextlib import suppress
from dataclasses import dataclass, field
from enum import StrEnum
from typing import TYPE_CHECKING, Any, Final

from sidecar.errors import LocalError
from sidecar.sockets import ROOT, peer, peer_uid

if TYPE_CHECKING:
    from pathlib import Path

#: What is asked this way has shorter answers.
ANSWER_BYTES: Final = 64 * 1024


class AskCode(StrEnum):
    """Why a sidecar cannot be asked."""

    NOT_RUNNING = "admin_not_running"
    DENIED = "admin_denied"
    FOREIGN = "admin_foreign_process"
    NO_ANSWER = "admin_no_answer"


class AskError(LocalError):
    """A sidecar cannot be asked. Messages hold nothing of an answer: it may be a secret."""

    def __init__(self, code: AskCode, message: str, *, hint: str = "") -> None:
        super().__init__(code, message, hint=hint)
        self.code: AskCode = code


@dataclass(frozen=True, slots=True)
class Reply:
    """What was answered; ``content`` may hold a token."""

    status: int
    content: dict[str, Any] = field(repr=False)


def ask(path: Path, method: str, target: str, *, seconds: float, pid: int | None = None) -> Reply:
    """Asks the sidecar whose administration socket is ``path`` for a JSON object, within a time for all of it.

    ``pid``: only the process of that id is meant, and no other is asked. Raises AskError, and nothing else, whatever is there and whatever it answers.
    """
    connection = _Connection(path, time.monotonic() + seconds, pid)
    try:
        connection.request(method, target)
        response = connection.getresponse()
        data = response.read(ANSWER_BYTES + 1)
        if len(data) > ANSWER_BYTES:
            raise _no_answer(path, f"answered with more than {ANSWER_BYTES // 1024} KiB")
        return Reply(response.status, _object(path, data))
    except TimeoutError:
        raise _no_answer(path, f"did not answer within {seconds:g} s", "it may be stopped, or very busy") from None
    except OSError:
        raise _no_answer(
            path,
            "closed the connection without an answer",
            "it serves its own user, root, and those in admin.uids; or it was just ending, or had too many to answer: try again",
        ) from None
    except http.client.HTTPException:  # whose text quotes what came
        raise _no_answer(path, "did not answer in HTTP") from None
    finally:
        connection.close()


def _object(path: Path, data: bytes) -> dict[str, Any]:
    try:
        found = json.loads(data)
    except (ValueError, RecursionError):
        found = None
    if not isinstance(found, dict):
        raise _no_answer(path, "did not answer with a JSON object") from None
    return found


def _no_answer(path: Path, what: str, hint: str = "is it a sidecar of this version?") -> AskError:
    return AskError(AskCode.NO_ANSWER, f"the process at {path} {what}", hint=hint)


class _Connection(http.client.HTTPConnection):
    """HTTP to a process of our own user, or root's; raises AskError where there is none."""

    def __init__(self, path: Path, deadline: float, pid: int | None = None) -> None:
        super().__init__("sidecar")
        self._pid = pid
        self._path = path
        self._deadline = deadline

    def connect(self) -> None:
        """Connects, and looks who is there."""
        self.sock = sock = _Socket(self._deadline)
        try:
            sock.settimeout(sock.left())
            sock.connect(str(self._path))
        except BlockingIOError:  # connect(2): nobody takes what waits there already
            raise _no_answer(self._path, "accepts no connection", "it may be stopped, or very busy") from None
        except TimeoutError:
            raise
        except PermissionError:
            raise _denied(self._path) from None
        except OSError as error:
            why = (error.strerror or type(error).__name__).lower()
            message = f"no sidecar answers at {self._path}: {why}"
            raise AskError(AskCode.NOT_RUNNING, message, hint="is it running, with this admin.listen?") from None
        uid = peer_uid(sock)
        if uid not in {os.geteuid(), ROOT}:
            raise _foreign(self._path, uid)
        if self._pid is not None and peer(sock).pid != self._pid:
            raise AskError(AskCode.NOT_RUNNING, f"another process answers at {self._path}")


class _Socket(socket.socket):
    """A UNIX socket whose reads all end by one time, of `time.monotonic`."""

    def __init__(self, deadline: float) -> None:
        super().__init__(socket.AF_UNIX, socket.SOCK_STREAM)
        self._deadline = deadline

    def left(self) -> float:
        """The seconds that are left; raises TimeoutError where there are none."""
        seconds = self._deadline - time.monotonic()
        if seconds <= 0:
            raise TimeoutError
        return seconds

    def recv_into(self, *args: Any, **more: Any) -> int:
        """Receives, as far as there is time."""
        self.settimeout(self.left())
        return super().recv_into(*args, **more)


def _denied(path: Path) -> AskError:
    owner = _owner(path)
    whose = "another user" if owner is None else f"uid {owner}"
    return AskError(
        AskCode.DENIED,
        f"this process (uid {os.geteuid()}) may not use the administration socket {path}, which is {whose}'s",
        hint="ask as that user, or as root; admin.uids names others, who also have to be let in by the modes of the socket and "
        "its folders",
    )


def _foreign(path: Path, uid: int | None) -> AskError:
    return AskError(
        AskCode.FOREIGN,
        f"the process at {path} is {'nobody knows whose' if uid is None else f'that of uid {uid}'}: it is not believed",
        hint=f"the sidecar has to run as uid {os.geteuid()}, or as root",
    )


def _owner(path: Path) -> int | None:
    """Whose the file is, or the innermost folder on the way to it that we can see."""
    for place in (path, *path.parents):
        with suppress(OSError):
            return place.stat().st_uid
    return None

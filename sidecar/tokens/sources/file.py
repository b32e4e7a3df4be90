"""``file``: a token that something else writes and rotates, such as Kubernetes' projected service account tokens."""

from __future__ import annotations

import errno
import os
import stat
from functools import partial
from typing import TYPE_CHECKING, ClassVar, Final, NamedTuple

from sidecar.tokens.codes import SourceCode, SourceError
from sidecar.tokens.sources import peek
from sidecar.tokens.sources.life import token_of
from sidecar.tokens.token import MAX_BYTES, checked
from sidecar.tokens.work import work

if TYPE_CHECKING:
    from pathlib import Path

    from sidecar.tokens.settings import FileSource
    from sidecar.tokens.sources.source import Means
    from sidecar.tokens.token import Token

#: A local file takes no time; one on a file system that hangs takes for ever.
READ_SECONDS: Final = 5.0
#: O_NONBLOCK: opening a FIFO must not wait for its writer. Links are followed: Kubernetes rotates by swapping ``..data``.
_FLAGS: Final = os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC | os.O_NOCTTY


class _Read(NamedTuple):
    data: bytes
    stamp: tuple[int, ...]


class File:
    """A `TokenSource` that reads its file each time."""

    watched: ClassVar[bool] = True

    def __init__(self, settings: FileSource, means: Means) -> None:
        self._path = settings.path
        self._most = settings.keeping.max_lifetime
        self._means = means
        self._stamp: tuple[int, ...] | None = None

    async def fetch(self) -> Token:
        """Reads the token. Raises SourceError: FILE, BAD_TOKEN, EXPIRED, BUSY."""
        try:
            found = await work(self._means.local, partial(_read, self._path), READ_SECONDS)
        except TimeoutError:
            raise _unusable(
                self._path, f"was not read within {READ_SECONDS:g} s", "does its file system hang?"
            ) from None
        # What is not ASCII becomes something that no token has, and not an error that holds it all.
        value = checked(found.data.removesuffix(b"\n").decode("ascii", errors="replace"))
        token = token_of(
            value,
            now=self._means.clock.wall(),
            until=(peek.expiry(peek.claims(value)),),
            most=self._most,
            hint=f"whatever rotates {self._path} has stopped, or our clock is wrong",
        )
        self._stamp = found.stamp
        return token

    async def revoke(self, token: Token) -> None:
        """Does nothing: whoever wrote the token owns it."""

    async def changed(self) -> bool:
        """Says whether the file is another one than that of the last token, or was written to, or is gone, or hangs."""
        if self._stamp is None:
            return False
        try:
            return await work(self._means.local, partial(_look, self._path), READ_SECONDS) != self._stamp
        except TimeoutError:
            return True
        except SourceError:  # no thread is free: it is looked at again soon
            return False


def _stamp(status: os.stat_result) -> tuple[int, ...]:
    return (status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns, status.st_ctime_ns)


def _look(path: Path) -> tuple[int, ...] | None:
    """Returns what tells one file from another, in a thread; None where there is none."""
    try:
        return _stamp(path.stat())
    except (OSError, ValueError):
        return None


def _read(path: Path) -> _Read:
    """Reads a file, in a thread. Raises SourceError (FILE), and nothing else."""
    try:
        descriptor = os.open(path, _FLAGS)
    except (OSError, ValueError) as error:
        raise _not_opened(path, error) from None
    try:
        return _contents(path, descriptor)
    except OSError as error:
        raise _not_opened(path, error) from None
    finally:
        os.close(descriptor)


def _contents(path: Path, descriptor: int) -> _Read:
    status = os.fstat(descriptor)
    if not stat.S_ISREG(status.st_mode):
        raise _unusable(path, "is not a regular file", "name the file with the token")
    if status.st_mode & stat.S_IWOTH:
        # Whoever can write it chooses as whom we go out.
        raise _unusable(path, "can be written by everybody", f"chmod o-w {path}")
    # Two more than a token may have: its newline, and one that shows that it is too long.
    data = b""
    while len(data) < MAX_BYTES + 2 and (more := os.read(descriptor, MAX_BYTES + 2 - len(data))):
        data += more
    if _stamp(os.fstat(descriptor)) != _stamp(status):
        raise _unusable(path, "was written to while it was read", "replace it by renaming a new file over it")
    return _Read(data, _stamp(status))


def _not_opened(path: Path, error: OSError | ValueError) -> SourceError:
    if isinstance(error, FileNotFoundError | NotADirectoryError):
        return _unusable(path, "does not exist", "correct `path`, or start whatever writes it")
    if isinstance(error, PermissionError):
        return _unusable(path, "cannot be read: permission denied", f"let this process (uid {os.geteuid()}) read it")
    if isinstance(error, OSError) and error.errno != errno.ENXIO:
        return _unusable(
            path, f"cannot be read: {(error.strerror or 'input/output error').lower()}", "look at the file"
        )
    return _unusable(path, "is not a regular file", "name the file with the token")  # ENXIO: a UNIX socket


def _unusable(path: Path, what: str, hint: str) -> SourceError:
    return SourceError(SourceCode.FILE, f"{path} {what}", hint=hint)

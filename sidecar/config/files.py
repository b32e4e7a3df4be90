"""The files of one look: each read once, all through the same symbolic links, and a record to compare looks with.

Kubernetes swaps a whole volume by swapping the one link ``..data``. Resolving that link once per file could pair an old
certificate with a new key, so a `Look` reads every link at most once and walks paths itself. Whoever holds the bytes
never opens the path again.
"""

from __future__ import annotations

import errno
import hashlib
import os
import stat
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Final

from sidecar.config.faults import ConfigCode, Refused

if TYPE_CHECKING:
    from collections.abc import Mapping

#: No file that a configuration names is larger; 10,000 rules are about half of it.
MAX_BYTES: Final = 1024 * 1024
#: Links that a path may go through; Linux has the same bound.
_MAX_LINKS: Final = 40
#: O_NONBLOCK: opening a FIFO must not wait for its writer. O_NOFOLLOW: all links were resolved before.
_FLAGS: Final = os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC | os.O_NOCTTY | os.O_NOFOLLOW


@dataclass(frozen=True, slots=True)
class FileRead:
    """One regular file: its bytes, which may be a key, and what the open descriptor said about it."""

    path: Path
    data: bytes = field(repr=False)
    status: os.stat_result


@dataclass(frozen=True, slots=True)
class Seen:
    """What one look saw of one file. ``real`` is where the links led; ``digest`` is empty when it could not be read."""

    path: Path
    real: str = ""
    stamp: tuple[int, ...] = ()
    digest: bytes = b""


@dataclass(frozen=True, slots=True)
class Snapshot:
    """All files of one look. Two are equal when nothing was written, replaced or re-linked in between."""

    files: tuple[Seen, ...] = ()

    @property
    def paths(self) -> tuple[Path, ...]:
        """The files, as the configuration names them."""
        return tuple(seen.path for seen in self.files)

    def same_content(self, other: Snapshot) -> bool:
        """Says whether the same paths hold the same bytes, whatever happened to the files."""
        return {s.path: s.digest for s in self.files} == {s.path: s.digest for s in other.files}

    def again(self) -> Snapshot:
        """Looks at the same files anew. Never raises: what cannot be read is recorded so."""
        look = Look()
        for path in self.paths:
            look.glance(path)
        return look.snapshot()


class Look:
    """One look at a set of files."""

    def __init__(self, given: Mapping[Path, FileRead] | None = None) -> None:
        """``given``: the files of an earlier look, to be taken for this one; nothing is opened then."""
        self._given = given
        self._links: dict[str, str | None] = {}
        self._read: dict[Path, FileRead] = {}
        self._seen: dict[Path, Seen] = {}

    def read(self, path: Path) -> FileRead:
        """Reads a regular file of at most ``MAX_BYTES``, once: the same path gives the same bytes.

        Raises Refused; its message goes behind the name of the file.
        """
        known = self._read.get(path)
        if known is not None:
            return known
        self._seen[path] = Seen(path)
        if self._given is not None:
            return self._again(path, self._given)
        try:
            real = self._resolve(path)
            found = _read(path, real)
        except (OSError, ValueError) as error:
            raise _unreadable(error) from error
        self._seen[path] = Seen(path, real, _stamp(found.status), hashlib.sha256(found.data).digest())
        self._read[path] = found
        return found

    def _again(self, path: Path, given: Mapping[Path, FileRead]) -> FileRead:
        if path not in given:
            raise Refused(ConfigCode.FILE_MISSING, "was not read before", hint="restart")
        self._read[path] = found = given[path]
        self._seen[path] = Seen(path, str(path), _stamp(found.status), hashlib.sha256(found.data).digest())
        return found

    @property
    def files(self) -> tuple[FileRead, ...]:
        """What was read."""
        return tuple(self._read.values())

    def glance(self, path: Path) -> None:
        """Records a file without saying what is wrong with it."""
        try:
            self.read(path)
        except Refused:
            return

    def settled(self) -> bool:
        """Says whether every link still leads where it did: otherwise this look is of two times."""
        return all(_link(path) == target for path, target in self._links.items())

    def snapshot(self) -> Snapshot:
        """Returns the record of this look."""
        return Snapshot(tuple(self._seen.values()))

    def _resolve(self, path: Path) -> str:
        """Returns the absolute path without links; like realpath, but each link is read once per look."""
        waiting = list(reversed(path.parts[1:]))
        current = path.anchor
        links = 0
        while waiting:
            part = waiting.pop()
            if part == "..":
                current = os.path.dirname(current)  # noqa: PTH120 - text, and already without links
                continue
            step = os.path.join(current, part)  # noqa: PTH118 - text
            if step not in self._links:
                self._links[step] = _link(step)
            target = self._links[step]
            if target is None:
                current = step
                continue
            links += 1
            if links > _MAX_LINKS:
                raise OSError(errno.ELOOP, os.strerror(errno.ELOOP))
            parts = Path(target).parts
            if Path(target).is_absolute():
                current = parts[0]
                parts = parts[1:]
            waiting.extend(reversed(parts))
        return current


def _link(path: str) -> str | None:
    """Returns what a symbolic link says, None for anything else; what is wrong with it shows when it is opened."""
    try:
        return os.readlink(path)  # noqa: PTH115 - text
    except (OSError, ValueError):
        return None


def _stamp(status: os.stat_result) -> tuple[int, ...]:
    return (status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns, status.st_ctime_ns)


def _read(path: Path, real: str) -> FileRead:
    descriptor = os.open(real, _FLAGS)
    try:
        status = os.fstat(descriptor)
        if not stat.S_ISREG(status.st_mode):
            kind = "a folder" if stat.S_ISDIR(status.st_mode) else "not a regular file"
            raise Refused(ConfigCode.FILE_NOT_REGULAR, f"is {kind}", hint="name a file")
        data = _contents(descriptor)
        after = os.fstat(descriptor)
    finally:
        os.close(descriptor)
    if len(data) > MAX_BYTES:
        raise Refused(ConfigCode.FILE_TOO_LARGE, "is larger than 1 MiB", hint="is it the file you meant?")
    if _stamp(status) != _stamp(after):
        raise Refused(ConfigCode.FILE_CHANGING, "was written to while it was read", hint="try again")
    return FileRead(path, data, status)


def _contents(descriptor: int) -> bytes:
    data = bytearray()
    while len(data) <= MAX_BYTES and (more := os.read(descriptor, MAX_BYTES + 1 - len(data))):
        data += more
    return bytes(data)


def _unreadable(error: OSError | ValueError) -> Refused:
    hint = "correct the path, or the file"
    if isinstance(error, FileNotFoundError | NotADirectoryError):
        return Refused(ConfigCode.FILE_MISSING, "does not exist", hint=hint)
    if isinstance(error, PermissionError):
        us = f"this process (uid {os.geteuid()})"
        return Refused(ConfigCode.FILE_UNREADABLE, "cannot be read: permission denied", hint=f"let {us} read it")
    if not isinstance(error, OSError):
        return Refused(ConfigCode.FILE_UNREADABLE, "cannot be the name of a file", hint=hint)
    if error.errno == errno.ENXIO:  # a UNIX socket
        return Refused(ConfigCode.FILE_NOT_REGULAR, "is not a regular file", hint="name a file")
    reason = (error.strerror or "input/output error").lower()
    return Refused(ConfigCode.FILE_UNREADABLE, f"cannot be read: {reason}", hint=hint)

"""Files that are there whole or not at all, and keys that nobody else can read at any moment."""

from __future__ import annotations

import fcntl
import os
import secrets
import stat
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from sidecar.devcerts.errors import DevCertsCode, DevCertsError, FolderError, io_error

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

MAX_BYTES: Final = 64 * 1024
"""A key or a certificate of ours is under 2 KiB; whatever is larger than this is something else."""

PRIVATE: Final = 0o600
PUBLIC: Final = 0o644
FOLDER: Final = 0o700

_OTHERS: Final = 0o077


@dataclass(frozen=True, slots=True)
class Found:
    """A file as it was read; ``exposed`` says that its group or others may do something with it."""

    data: bytes
    exposed: bool


@dataclass(frozen=True, slots=True)
class NewFile:
    """A file to be written."""

    path: Path
    data: bytes
    mode: int


def read(path: Path) -> Found | None:
    """The file, None if there is none; raises DevCertsError for what is no file of ours, FolderError for the rest."""
    try:
        # Without blocking: a pipe in the place of a file would wait for a writer.
        descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    except FileNotFoundError:
        return None
    except NotADirectoryError:
        raise DevCertsError(
            DevCertsCode.NOT_A_FOLDER, f"{path.parent} is not a folder", hint="remove it, or choose another name"
        ) from None
    except OSError as error:
        raise io_error("read", path, error) from error
    try:
        status = os.fstat(descriptor)
        if not stat.S_ISREG(status.st_mode):
            raise DevCertsError(DevCertsCode.NOT_A_FILE, f"{path} is not a file", hint="remove it")
        with os.fdopen(descriptor, "rb", closefd=False) as file:
            data = file.read(MAX_BYTES + 1)
    except OSError as error:
        raise io_error("read", path, error) from error
    finally:
        os.close(descriptor)
    if len(data) > MAX_BYTES:
        raise DevCertsError(DevCertsCode.FILE_TOO_LARGE, f"{path} is too large to be ours", hint="remove it")
    return Found(data, exposed=bool(stat.S_IMODE(status.st_mode) & _OTHERS))


def write(file: NewFile) -> None:
    """Replaces a file at once: whoever reads it sees the old one or the new one. Raises FolderError.

    The new one is made under a name that nobody knows, with its final mode from the start, and is on the disk before it
    takes the place of the old one.
    """
    make_folder(file.path.parent)
    draft = file.path.with_name(f".{file.path.name}.{secrets.token_hex(8)}")
    try:
        descriptor = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, file.mode)
        try:
            with os.fdopen(descriptor, "wb") as stream:
                # The umask may have taken more away than it should; it can never have added.
                os.fchmod(descriptor, file.mode)
                stream.write(file.data)
                stream.flush()
                os.fsync(descriptor)
            draft.replace(file.path)
        except BaseException:
            with suppress(OSError):
                draft.unlink()
            raise
        _sync_folder(file.path.parent)
    except OSError as error:
        raise io_error("write", file.path, error) from error


def make_folder(path: Path) -> None:
    """Makes a folder, and those above it that are missing, for us alone; raises DevCertsError or FolderError."""
    try:
        for folder in (*reversed(path.parents), path):
            if not folder.is_dir():
                folder.mkdir(mode=FOLDER, exist_ok=True)
    except (FileExistsError, NotADirectoryError):
        raise DevCertsError(
            DevCertsCode.NOT_A_FOLDER, f"{path} is not a folder", hint="remove it, or choose another name"
        ) from None
    except OSError as error:
        raise io_error("make the folder", path, error) from error


@contextmanager
def sole(folder: Path) -> Iterator[None]:
    """Keeps a second run out of the folder: two at once could leave a key beside another one's certificate."""
    try:
        descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    except OSError as error:
        raise io_error("open the folder", folder, error) from error
    try:
        _lock(descriptor, folder)
        yield
    finally:
        os.close(descriptor)


def _lock(descriptor: int, folder: Path) -> None:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        raise FolderError(
            DevCertsCode.BUSY, f"another `sidecar certs init` works in {folder}", hint="wait for it and run again"
        ) from None
    except OSError as error:
        raise io_error("lock", folder, error) from error


def _sync_folder(folder: Path) -> None:
    """Makes the new name last, too."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)

"""Hands bytes to a function that takes only a path, such as ``SSLContext.load_cert_chain``.

The bytes are those that were read and checked once; the user's file is never opened a second time, because it may have
changed in between. On Linux they never reach a disk.
"""

from __future__ import annotations

import os
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator


@contextmanager
def path_holding(content: bytes) -> Iterator[str]:
    """Gives a path that reads as ``content`` while the block runs, and that nobody else can read.

    Raises OSError where neither an anonymous file nor a temporary one can be made.
    """
    if hasattr(os, "memfd_create") and Path("/proc/self/fd").is_dir():
        with _anonymous_file(content) as path:
            yield path
    else:
        with _temporary_file(content) as path:
            yield path


@contextmanager
def _anonymous_file(content: bytes) -> Iterator[str]:
    """Linux: memory with a descriptor and no name; gone when the descriptor closes, also when the process is killed."""
    with open(os.memfd_create("sidecar"), "wb") as file:  # noqa: PTH123 - a descriptor, not a path
        file.write(content)
        file.flush()
        yield f"/proc/self/fd/{file.fileno()}"


@contextmanager
def _temporary_file(content: bytes) -> Iterator[str]:
    """Elsewhere: a file of mode 0600 in a directory of mode 0700, both removed as soon as the block ends."""
    import shutil  # noqa: PLC0415 - as tempfile, where there is nothing better
    import tempfile  # noqa: PLC0415

    directory = tempfile.mkdtemp(prefix="sidecar-")  # mode 0700 by definition
    try:
        path = Path(directory, "pem")
        with open(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as file:  # noqa: PTH123
            file.write(content)
        yield str(path)
    finally:
        shutil.rmtree(directory)

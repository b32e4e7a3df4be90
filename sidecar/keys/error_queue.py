"""Keeps what a vendor's library leaves in OpenSSL's error queue from being taken for an error of TLS.

Each thread has one queue for everything in the process that uses the shared libcrypto (ERR_get_error(3)), and a PKCS#11
module or a TPM's library may well use it too. OpenSSL asks a connection's owner to begin with an empty queue
(SSL_get_error(3)): an entry that somebody else left makes a handshake fail that has nothing wrong with it.
"""

from __future__ import annotations

import _ssl
import ctypes
from contextlib import contextmanager
from functools import cache
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator


@cache
def _library() -> ctypes.CDLL | None:
    """The libcrypto of the ssl module; None where that has its own built in, whose queue nobody else can reach."""
    path: str | None = getattr(_ssl, "__file__", None)
    return None if path is None else ctypes.CDLL(path)


@contextmanager
def untouched() -> Iterator[None]:
    """Leaves this thread's queue as it was before the block."""
    library = _library()
    if library is not None:
        library.ERR_set_mark()
    try:
        yield
    finally:
        if library is not None:
            library.ERR_pop_to_mark()  # all of it, where it was empty

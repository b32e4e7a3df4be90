"""Tries the self-test of a lent key in an OpenSSL that is configured by its environment, and prints what came of it."""

from __future__ import annotations

import _ssl
import ctypes
from typing import TYPE_CHECKING

from cryptography.hazmat.primitives.asymmetric import ec

from sidecar.errors import SidecarError
from sidecar.keys.openssl import ExternalKey, ThroughOpenSsl
from sidecar.keys.protection import Protection
from sidecar.keys.selftest import self_test

if TYPE_CHECKING:
    from sidecar.keys.signer import Hash


class Counting:
    """A signer that needs no more of the other OpenSSL than it has when it is configured in the same way."""

    protection = Protection.HSM

    def __init__(self) -> None:
        self._key = ec.derive_private_key(7, ec.SECP256R1())
        self.public_key = self._key.public_key()
        self.count = 0

    def sign(self, message: bytes, hash_: Hash) -> bytes:
        self.count += 1
        return self._key.sign(message, ec.ECDSA(hash_.algorithm))

    def close(self) -> None:
        pass


def main() -> None:
    signer = Counting()
    try:
        self_test(ThroughOpenSsl(ExternalKey(signer)))
        lines = ["signed once" if signer.count == 1 else f"signed {signer.count} times"]
    except SidecarError as error:
        lines = [str(error.code), str(error), error.hint, f"asked: {signer.count}"]
    lines.append(f"left: {ctypes.CDLL(_ssl.__file__).ERR_peek_error()}")
    print(*lines, sep="\n")  # noqa: T201 - a command


if __name__ == "__main__":
    main()

"""A signer that is watched over: timed, and not asked by a handshake while it is known not to answer.

Without this each handshake that needs a hung or absent device would wait for it, in the few threads that there are, and
with them those handshakes that need no signature because they are resumed.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Final

from sidecar.keys.errors import SignCode, SignError
from sidecar.keys.selftest import check_signature, self_test
from sidecar.keys.serial import SerialSigner

if TYPE_CHECKING:
    from collections.abc import Callable

    from cryptography.hazmat.primitives.asymmetric import ec

    from sidecar.keys.protection import Protection
    from sidecar.keys.signer import Hash, Signer

#: What every handshake's message and every self-test begins with, and no other message (`sidecar.keys.messages`).
_HANDSHAKE: Final = b" " * 64


class GuardedSigner:
    """A `sidecar.keys.signer.Signer` around another one.

    ``told`` is called after each signature, in whatever thread it was made: with the seconds that it took and None, or
    the code of the failure.
    """

    def __init__(self, signer: Signer, told: Callable[[float, SignCode | None], None]) -> None:
        self._signer = signer
        self._told = told
        self._trouble: SignError | None = None
        #: When it last signed, by `time.monotonic`.
        self.signed = time.monotonic()

    @property
    def public_key(self) -> ec.EllipticCurvePublicKey:
        """The public half."""
        return self._signer.public_key

    @property
    def protection(self) -> Protection:
        """What keeps the private half from being copied."""
        return self._signer.protection

    @property
    def trouble(self) -> SignCode | None:
        """Why it does not sign now; None when it does, as far as is known."""
        if isinstance(self._signer, SerialSigner) and self._signer.hung:
            return SignCode.TIMEOUT
        trouble = self._trouble
        return None if trouble is None else trouble.code

    def sign(self, message: bytes, hash_: Hash) -> bytes:
        """Signs; raises SignError, at once where the last try failed and no `probe` has succeeded since."""
        trouble = self._trouble
        if trouble is not None:
            # A new one each time: an exception that is raised again and again collects tracebacks.
            raise SignError(trouble.code, str(trouble), hint=trouble.hint)
        return self._sign(message, hash_)

    def probe(self) -> None:
        """Tries whether it signs, whatever is known. Raises SignError."""
        self_test(_Unguarded(self))

    def close(self) -> None:
        """Lets go of the device."""
        self._signer.close()

    def _sign(self, message: bytes, hash_: Hash) -> bytes:
        began = time.monotonic()
        try:
            signature = self._checked(message, hash_)
        except SignError as error:
            if not _passing(error.code, message):
                self._trouble = SignError(error.code, str(error), hint=error.hint)
            self._told(time.monotonic() - began, error.code)
            raise
        self.signed = now = time.monotonic()
        self._trouble = None
        self._told(now - began, None)
        return signature

    def _checked(self, message: bytes, hash_: Hash) -> bytes:
        """Signs and verifies: a device that returns anything else is not well, whatever it says. Raises SignError."""
        try:
            signature = self._signer.sign(message, hash_)
        except SignError:
            raise
        except Exception as error:
            # A defect, of ours or of a library: its text is left out, it may quote anything.
            raise SignError(SignCode.FAILED, f"unexpected {type(error).__name__} while signing") from error
        check_signature(self.public_key, signature, message, hash_)
        return signature


def _passing(code: SignCode, message: bytes) -> bool:
    """Whether a failure is about this one call, and no trouble of the device.

    A service that may not sign our tokens signs our handshakes all the same.
    """
    return code is SignCode.CLOSED or (code is SignCode.REFUSED and not message.startswith(_HANDSHAKE))


class _Unguarded:
    """The same signer, asked in any case."""

    def __init__(self, guarded: GuardedSigner) -> None:
        self.public_key = guarded.public_key
        self.protection = guarded.protection
        self.sign = guarded._sign  # noqa: SLF001 - its other half
        self.close = guarded.close

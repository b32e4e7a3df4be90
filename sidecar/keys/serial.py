"""One device, any number of threads: one call at a time, a time limit for each, and no second try with a wrong PIN.

A TPM that hangs never returns from a call, and nothing can break the call off. Its thread is lost until the TPM comes
back, but no other is: whoever waits gives up at the time limit, and whoever comes while the limit is exceeded is refused
at once.
"""

from __future__ import annotations

import threading
import time
from typing import TYPE_CHECKING, Final

from sidecar.keys.errors import FINAL, SignCode, SignError

if TYPE_CHECKING:
    from collections.abc import Callable

    from cryptography.hazmat.primitives.asymmetric import ec

    from sidecar.keys.protection import Protection
    from sidecar.keys.signer import Device, Hash

#: How long a signature may take, in seconds. Discrete TPMs take up to 0.15 s for one on P-256.
SIGN_SECONDS: Final = 3.0


class SerialSigner:
    """A `sidecar.keys.signer.Signer` that is made of a device."""

    def __init__(
        self, device: Device, *, limit: float = SIGN_SECONDS, monotonic: Callable[[], float] = time.monotonic
    ) -> None:
        self._device = device
        self._limit = limit
        self._monotonic = monotonic
        self._lock = threading.Lock()
        self._since: float | None = None  # when the call that runs now began
        self._final: SignError | None = None
        self._closing = False
        self._closed = False

    @property
    def public_key(self) -> ec.EllipticCurvePublicKey:
        """The public half."""
        return self._device.public_key

    @property
    def protection(self) -> Protection:
        """What keeps the private half from being copied."""
        return self._device.protection

    @property
    def hung(self) -> bool:
        """Says whether a call has been running for longer than it may."""
        since = self._since
        return since is not None and self._monotonic() - since >= self._limit

    def sign(self, message: bytes, hash_: Hash) -> bytes:
        """Signs when the device is free, within the time limit. Raises SignError."""
        digest = hash_.digest(message)
        self._acquire()
        try:
            self._demand_usable()
            self._since = self._monotonic()
            return self._device.sign(digest, hash_)
        except SignError as error:
            if error.code in FINAL and self._final is None:
                self._final = error
            raise
        finally:
            self._release()

    def close(self) -> None:
        """Waits for the call that runs, within the time limit, then closes the device.

        Raises SignError where it hangs: then it is closed as soon as the call returns.
        """
        self._closing = True
        self._acquire()
        self._release()

    def _release(self) -> None:
        try:
            if self._closing and not self._closed:
                self._closed = True
                self._final = SignError(SignCode.CLOSED, "the key was let go of")
                self._since = self._monotonic()
                self._device.close()
        finally:
            self._since = None
            self._lock.release()

    def _demand_usable(self) -> None:
        if self._final is not None:
            # A new one each time: an exception that is raised again and again collects tracebacks.
            raise SignError(self._final.code, str(self._final), hint=self._final.hint)

    def _acquire(self) -> None:
        # Behind a call that hangs nobody queues: it has had its time.
        if not self._lock.acquire(timeout=0 if self.hung else self._limit):
            raise SignError(
                SignCode.TIMEOUT,
                f"the device with our private key did not answer within {self._limit:g} s",
                hint="is it hung, or used by many processes at once? `sidecar key show` tries it",
            )

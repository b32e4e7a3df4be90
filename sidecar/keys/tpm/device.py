"""A key in a TPM as a device that gets over the TPM's resets.

Whatever breaks the connection, or makes our handle refer to nothing or to somebody else's key, is met in one way: close,
connect, load the key anew, and sign once more. Where that fails, the next tries wait, so that a TPM that is gone costs
a handshake nothing. A PIN that was refused is never sent again.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Final, Protocol

from sidecar.keys.errors import KeyCode, PrivateKeyError, SignCode, SignError
from sidecar.keys.tpm import library, public, tss2
from sidecar.keys.tpm.codes import ANOTHER_KEY, TpmError
from sidecar.keys.tpm.loaded import LoadedKey

if TYPE_CHECKING:
    from collections.abc import Callable

    from cryptography.hazmat.primitives.asymmetric import ec

    from sidecar.keys.protection import Protection
    from sidecar.keys.signer import Hash
    from sidecar.keys.spec import TpmKey
    from sidecar.keys.tpm.public import PublicArea

#: After a failure, the time in which no other try is made, in seconds: doubled each time, up to the second number.
FIRST_PAUSE: Final = 0.1
LONGEST_PAUSE: Final = 5.0


class Key(Protocol):
    """`sidecar.keys.tpm.loaded.LoadedKey`."""

    area: PublicArea

    def sign(self, digest: bytes, hash_: Hash) -> bytes:
        """Raises TpmError."""

    def release(self) -> None:
        """Never raises."""


def open_device(
    spec: TpmKey, pem: bytes | None, pin: bytes | None, *, monotonic: Callable[[], float] = time.monotonic
) -> TpmDevice:
    """Connects to the TPM and finds or loads the key; ``pem`` is what ``spec.file`` holds.

    Raises PrivateKeyError for a key that cannot be used as it is, SignError where the TPM cannot be used now. The PIN
    shows itself to be wrong at the first signature.
    """
    library.load()
    place = _place(spec, pem)
    if not isinstance(place, int):
        tss2.demand_usable(place, copyable=spec.copyable, has_pin=pin is not None)
        public.demand_pin_fits(len(pin or b""), place.area.pin_bytes)
    return TpmDevice(lambda: LoadedKey(spec.tcti, place, pin), copyable=spec.copyable, monotonic=monotonic)


def _place(spec: TpmKey, pem: bytes | None) -> tss2.Wrapped | int:
    if spec.handle is not None:
        return spec.handle
    if pem is None:
        raise PrivateKeyError(KeyCode.NO_KEY, "the wrapped key's file was not read")
    return tss2.inspect(pem)


class TpmDevice:
    """A `sidecar.keys.signer.Device`; ``load`` connects to the TPM and loads the key."""

    public_key: ec.EllipticCurvePublicKey
    protection: Protection

    def __init__(
        self, load: Callable[[], Key], *, copyable: bool = False, monotonic: Callable[[], float] = time.monotonic
    ) -> None:
        self._load = load
        self._monotonic = monotonic
        self._key: Key | None = load()
        self._area = self._key.area
        try:
            self.protection = public.demand_usable(self._area, copyable=copyable)
        except PrivateKeyError:
            self._drop()
            raise
        self.public_key = self._area.key
        self._closed = False
        self._pause = FIRST_PAUSE
        self._paused_until = 0.0
        self._paused_by: SignError | None = None

    def sign(self, digest: bytes, hash_: Hash) -> bytes:
        """Signs, with a second try where a new connection may help. Raises SignError."""
        try:
            return self._sign_once(digest, hash_)
        except TpmError as error:
            if not error.again:
                raise
        self._drop()
        try:
            return self._sign_once(digest, hash_)
        except TpmError as error:
            if error.again:
                self._drop()
                self._back_off(error)
            raise

    def close(self) -> None:
        """Flushes and closes; never raises, also when the TPM is gone."""
        self._closed = True
        self._drop()

    def _sign_once(self, digest: bytes, hash_: Hash) -> bytes:
        if self._closed:
            raise SignError(SignCode.CLOSED, "the key was let go of")
        signature = (self._key or self._reloaded()).sign(digest, hash_)
        self._pause = FIRST_PAUSE
        return signature

    def _drop(self) -> None:
        key, self._key = self._key, None
        if key is not None:
            key.release()

    def _reloaded(self) -> Key:
        """Connects anew unless that failed a moment ago. Raises SignError that is no TpmError: trying again is over."""
        if self._paused_by is not None and self._monotonic() < self._paused_until:
            raise _copy(self._paused_by)
        try:
            key = self._load()
        except SignError as error:
            self._back_off(error)
            raise _copy(error) from None
        except PrivateKeyError:
            raise self._replaced() from None
        if key.area != self._area:
            key.release()
            raise self._replaced()
        self._key, self._paused_by = key, None
        return key

    def _replaced(self) -> SignError:
        error = _copy(TpmError(ANOTHER_KEY, "reading the TPM key"))
        self._back_off(error)
        return error

    def _back_off(self, error: SignError) -> None:
        self._paused_by = _copy(error)
        self._paused_until = self._monotonic() + self._pause
        self._pause = min(self._pause * 2, LONGEST_PAUSE)


def _copy(error: SignError) -> SignError:
    # A new one each time: an exception that is raised again and again collects tracebacks.
    return SignError(error.code, str(error), hint=error.hint)

"""A private key in a PKCS#11 token: found once, used through one session, found again when the session is lost."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from cryptography.hazmat.primitives.asymmetric.utils import encode_dss_signature
from pkcs11.exceptions import PKCS11Error

from sidecar.keys.errors import KeyCode, PrivateKeyError, SignCode, SignError
from sidecar.keys.pkcs11 import failures
from sidecar.keys.pkcs11.module import module
from sidecar.keys.pkcs11.search import described, find_key
from sidecar.keys.pkcs11.session import open_session

if TYPE_CHECKING:
    from collections.abc import Callable

    from cryptography.hazmat.primitives.asymmetric import ec

    from sidecar.keys.pkcs11.search import Found
    from sidecar.keys.pkcs11.session import TokenSession
    from sidecar.keys.signer import Hash
    from sidecar.keys.uri import Pkcs11Key

#: The pause between two attempts at a token that is gone, in seconds: the first, doubled up to the last.
FIRST_PAUSE: Final = 0.1
LAST_PAUSE: Final = 5.0


@dataclass(frozen=True, slots=True)
class _Connection:
    session: TokenSession
    found: Found


class TokenDevice:
    """A `sidecar.keys.signer.Device`; made by `open_device`."""

    def __init__(self, spec: Pkcs11Key, pin: bytes | None, *, monotonic: Callable[[], float] = time.monotonic) -> None:
        self._spec = spec
        self._pin = pin
        self._monotonic = monotonic
        self._module = module(spec.module)
        self._pause = 0.0
        self._not_before = 0.0
        self._why = ""
        self._refused: SignError | None = None
        with self._module.alone():
            self._module.start()
            self._connection: _Connection | None = self._connect()
        self.public_key = self._connection.found.public_key
        self.protection = self._connection.found.protection

    def sign(self, digest: bytes, hash_: Hash) -> bytes:
        """Signs a digest. Raises SignError."""
        with self._module.alone():
            if self._refused:
                raise SignError(self._refused.code, str(self._refused), hint=self._refused.hint)
            established = self._connection is not None
            try:
                return self._sign(digest)
            except SignError as error:
                if error.code is SignCode.AUTH:
                    self._refused = error  # each further try would feed the token's lock
                if not established or error.code is not SignCode.UNAVAILABLE:
                    raise
            return self.sign(digest, hash_)

    def close(self) -> None:
        """Closes the session. Never raises."""
        with self._module.alone():
            self._drop()

    def _sign(self, digest: bytes) -> bytes:
        found = (self._connection or self._reconnect()).found
        size = _size(self.public_key)
        with failures.translated():
            try:
                # What is beyond the curve's order is not signed anyway (FIPS 186-5 6.4.1), and some tokens refuse it.
                raw = found.sign(digest[:size], self._pin)
            except PKCS11Error as error:
                if failures.lost(error):
                    self._why = type(error).__name__
                    self._drop()
                raise
        self._pause = self._not_before = 0.0
        return _der(raw, size)

    def _connect(self) -> _Connection:
        session = open_session(self._module, self._spec, self._pin)
        try:
            with failures.translated():
                return _Connection(session, self._find(session))
        except BaseException:
            session.close()
            raise

    def _find(self, session: TokenSession) -> Found:
        found = find_key(session.session, self._spec, logged_in=self._pin is not None)
        if found is None:
            raise PrivateKeyError(
                KeyCode.NO_KEY,
                f"the token has no private key that is {described(self._spec)}",
                hint="make it: sidecar key create"
                if self._pin is not None
                else "tokens show private keys to those alone who log in: add pin-source=file:PATH",
            )
        return found

    def _reconnect(self) -> _Connection:
        now = self._monotonic()
        if now < self._not_before:
            raise SignError(
                SignCode.UNAVAILABLE,
                f"the token was lost ({self._why}) and is tried again within {LAST_PAUSE:g} s",
                hint="is it there, and its module running?",
            )
        # Only a signature resets the pause: a token may open sessions and fail to sign, again and again.
        self._pause = min(max(FIRST_PAUSE, 2 * self._pause), LAST_PAUSE)
        self._not_before = now + self._pause
        try:
            self._module.restart()
            found = self._connect()
        except SignError as error:
            self._why = error.code
            raise
        except PrivateKeyError as error:
            # It was right when we started; so the token has changed.
            self._why = error.code
            raise SignError(SignCode.NO_KEY, str(error), hint=error.hint) from None
        if found.found.public_key != self.public_key:
            found.session.close()
            self._why = SignCode.NO_KEY
            raise SignError(
                SignCode.NO_KEY, "the token has another key in the place of ours", hint="restart to use the new one"
            )
        self._connection = found
        return found

    def _drop(self) -> None:
        connection, self._connection = self._connection, None
        if connection is not None:
            connection.session.close()


def open_device(spec: Pkcs11Key, pin: bytes | None) -> TokenDevice:
    """Opens the token and finds the key. Raises SignError, PrivateKeyError."""
    return TokenDevice(spec, pin)


def _size(public_key: ec.EllipticCurvePublicKey) -> int:
    return (public_key.curve.key_size + 7) // 8


def _der(raw: bytes, size: int) -> bytes:
    r, s = int.from_bytes(raw[:size]), int.from_bytes(raw[size:])
    if len(raw) != 2 * size or not r or not s:
        raise SignError(SignCode.BAD_SIGNATURE, "what the token returned is no ECDSA signature for our curve")
    return encode_dss_signature(r, s)

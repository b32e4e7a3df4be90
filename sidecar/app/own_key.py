"""Our own private key in use: opened before a port is, watched while it serves, let go of when a reload replaces it."""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import time
from functools import partial
from typing import TYPE_CHECKING, Final, Protocol

from sidecar.errors import SidecarError
from sidecar.keys.errors import KeyCode, PrivateKeyError, SignCode, SignError
from sidecar.keys.guard import GuardedSigner
from sidecar.keys.open import open_signer
from sidecar.keys.selftest import self_test
from sidecar.keys.software import SoftwareSigner
from sidecar.keys.spec import RemoteKey
from sidecar.tasks import describe, spawn
from sidecar.threads import apart

if TYPE_CHECKING:
    from collections.abc import Callable

    from sidecar.config.key_material import KeyMaterial
    from sidecar.config.load import Loaded
    from sidecar.keys.signer import Signer
    from sidecar.telemetry.messages import Messages
    from sidecar.telemetry.metrics import Metrics
    from sidecar.tls.contexts import PrivateKey

#: What opening a device may take beside the signature of the self-test, in seconds: loading a key takes a TPM up to 1 s.
OPEN_SECONDS: Final = 5.0
#: What letting go of a device may take while the process ends, in seconds.
CLOSE_SECONDS: Final = 1.0
#: A key that nobody used for so long is tried, so that we do not believe ourselves ready; in seconds.
IDLE_SECONDS: Final = 30.0
#: How often a key that does not sign is tried: at first, and at the most, in seconds.
RETRY_SECONDS: Final = (0.25, 5.0)
_LOOK_SECONDS: Final = 0.25


#: Keys that a reload has replaced, or opened in vain, and that are still open.
_retired: Final[set[OwnKey]] = set()
#: The ways that were refused for their PIN, by `_digest`, in this process: each further try would feed the lockout of
#: the device, also for the key that serves meanwhile. Few: a person writes each.
_refused: Final[set[bytes]] = set()


class Lent(Protocol):
    """The use of a key that another process of ours has opened."""

    def signer(self, limit: float) -> Signer:
        """Makes what signs with it, within so many seconds. Raises SignError."""


class OwnKey:
    """The key of one or more configurations. ``private_key`` is what TLS contexts take."""

    def __init__(
        self, material: KeyMaterial, private_key: PrivateKey, protection: str, limit: float, lent: Lent | None = None
    ) -> None:
        self.material = material
        self._lent = lent
        self.private_key = private_key
        self.protection = protection
        self._limit = limit
        self._guard: GuardedSigner | None = None
        self._tell: Callable[[float, SignCode | None], None] | None = None

    @classmethod
    def of_file(cls, material: KeyMaterial) -> OwnKey:
        """A software key, which OpenSSL itself holds. Raises PrivateKeyError for any other."""
        if material.software is None:
            raise PrivateKeyError(KeyCode.UNKNOWN_KIND, f"{material.spec} is to be opened")
        return cls(material, material.software, str(material.protection), 0.0)

    @classmethod
    async def open(cls, loaded: Loaded, previous: OwnKey | None = None, *, lent: Lent | None = None) -> OwnKey:
        """Opens the key of a configuration and signs with it once; gives ``previous`` back where it is the same one.

        ``lent``: another process has opened it, for us too, and we use it through that one.
        Raises SignError where the device cannot be used now, ConfigurationError where it never can as it is configured or
        its key is not the certificate's.
        """
        material, limit = loaded.material.key, loaded.config.limits.sign_timeout
        if previous is not None and previous.serves(loaded, lent):
            return previous
        if material.software is not None:
            return cls.of_file(material)
        if lent is None:
            check_not_refused(material)
        try:
            return await apart(
                partial(cls._open, loaded, lent, asyncio.get_running_loop()),
                OPEN_SECONDS + limit,
                "key-open",
                unwanted=cls._close,
            )
        except SignError as error:
            # A signer service keeps to that by itself, and may be another one by the next time.
            if error.code is SignCode.AUTH and lent is None and not isinstance(material.spec, RemoteKey):
                note_refused(material)
            raise
        except TimeoutError:
            raise SignError(
                SignCode.TIMEOUT,
                f"{material.spec} did not answer within {OPEN_SECONDS + limit:g} s",
                hint="is the device or service hung? `sidecar key show` tries it",
            ) from None

    @classmethod
    def _open(cls, loaded: Loaded, lent: Lent | None, loop: asyncio.AbstractEventLoop) -> OwnKey:
        """In a thread: each of these may wait for the device."""
        from sidecar.keys.openssl import ExternalKey, ThroughOpenSsl, install  # noqa: PLC0415 - for such keys alone

        material, svid, limit = loaded.material.key, loaded.material.svid, loaded.config.limits.sign_timeout
        install()  # before a device is opened that could not be used
        key: OwnKey | None = None

        def told(seconds: float, code: SignCode | None) -> None:
            if key is not None:
                with contextlib.suppress(RuntimeError):  # the loop may be closed: the process is ending
                    loop.call_soon_threadsafe(key.told, seconds, code)

        signer = lent.signer(limit) if lent else open_signer(material.spec, material.secrets, limit=limit)
        try:
            guard = GuardedSigner(signer, told)
            external = ExternalKey(guard)
            try:
                svid.check_key(guard.public_key)
            except SidecarError as error:
                raise PrivateKeyError(
                    KeyCode.MISMATCH,
                    f"{material.spec}: {error}",
                    hint="`sidecar key show` prints its pin; have a certificate issued for it (key create --csr)",
                ) from error
            self_test(ThroughOpenSsl(external))
        except BaseException:
            with contextlib.suppress(SignError):  # it hangs: the first error says so
                signer.close()
            raise
        key = cls(material, external, str(guard.protection), limit, lent)
        key._guard = guard
        return key

    @property
    def signer(self) -> Signer:
        """What signs with the key beside TLS; it may block, and is for a thread that may be lost."""
        if self._guard is not None:
            return self._guard
        assert self.material.software is not None  # noqa: S101 - the other kind there is
        return SoftwareSigner(self.material.software)

    def serves(self, loaded: Loaded, lent: Lent | None = None) -> bool:
        """Says whether this is the key of that configuration, reached in the same way, and may go on as it is.

        One that is gone, or whose certificate is now another one, is opened anew: the key at its place may have been
        replaced. One that was refused its PIN stays as it is until that changes.
        """
        if self.material != loaded.material.key or self._lent is not lent:
            return False
        if self._guard is None:
            return True
        mended_by_opening = self._guard.trouble in {SignCode.NO_KEY, SignCode.BAD_SIGNATURE}
        return (
            self._limit == loaded.config.limits.sign_timeout
            and not mended_by_opening
            and loaded.material.svid.is_for(self._guard.public_key)
        )

    @property
    def trouble(self) -> str | None:
        """Why the key does not sign, as a stable code; None when it does."""
        trouble = None if self._guard is None else self._guard.trouble
        return None if trouble is None else str(trouble)

    def told(self, seconds: float, code: SignCode | None) -> None:
        """Passes the end of a signature on, on the event loop."""
        if self._tell is not None:
            self._tell(seconds, code)

    # -- while it serves ------------------------------------------------------------------------------------------------

    async def watch(self, messages: Messages, metrics: Metrics) -> None:
        """Counts signatures, tries a key that does not sign, or that nobody used for long, and says what changes."""
        guard = self._guard
        if guard is None:
            return
        self._tell = partial(_count, metrics, self.protection)
        known: SignCode | None = None
        pause, due = RETRY_SECONDS[0], 0.0
        while True:
            await asyncio.sleep(_LOOK_SECONDS)
            trouble = guard.trouble
            if trouble is not known:
                _say(messages, self.protection, trouble)
                known = trouble
                pause, due = RETRY_SECONDS[0], 0.0
            now = time.monotonic()
            if trouble is None and now - guard.signed < IDLE_SECONDS:
                continue
            if now >= due:
                await self._probe(guard, messages)
                pause = min(2 * pause, RETRY_SECONDS[1])
                due = time.monotonic() + pause

    async def _probe(self, guard: GuardedSigner, messages: Messages) -> None:
        # Whatever comes of it is seen by its trouble; one that hangs has a time limit of its own, or is seen as hung.
        try:
            await apart(guard.probe, self._limit, "key-probe")
        except (SidecarError, TimeoutError):
            return
        except Exception as error:  # noqa: BLE001 - no thread could be had, say: whoever gives up here never tries again
            messages.error("unexpected: our key could not be tried", error=describe(error))

    # -- the end ----------------------------------------------------------------------------------------------------------

    async def close(self) -> None:
        """Lets go of the device; one that hangs is left to itself."""
        if self._guard is not None:
            with contextlib.suppress(TimeoutError):
                await apart(self._close, CLOSE_SECONDS, "key-close")

    def _close(self) -> None:
        if self._guard is not None:
            with contextlib.suppress(SignError):  # it hangs, and is closed when it goes on
                self._guard.close()

    def retire(self, seconds: float) -> None:
        """Lets go of the device when no handshake that was begun with it can go on any more: in ``seconds``."""
        if self._guard is None:
            return
        _retired.add(self)

        def end() -> None:
            if self in _retired:
                _retired.discard(self)
                spawn(self.close(), name="key-close")

        asyncio.get_running_loop().call_later(seconds, end)


async def close_retired() -> None:
    """Lets go of every key that waits for that: the process ends."""
    while _retired:
        await _retired.pop().close()


class KeyWatch:
    """Watches the key in force, one at a time, by `OwnKey.watch`."""

    def __init__(self, messages: Messages, metrics: Metrics) -> None:
        self._messages = messages
        self._metrics = metrics
        self._task: asyncio.Task[None] | None = None

    def follow(self, key: OwnKey) -> None:
        """Watches this one from now on, and no other."""
        self.stop()
        self._task = spawn(key.watch(self._messages, self._metrics), name="key-watch")

    def stop(self) -> None:
        """Watches none."""
        if self._task is not None:
            self._task.cancel()


def check_not_refused(material: KeyMaterial) -> None:
    """Raises SignError where a device has refused this PIN before: `note_refused`."""
    if _digest(material) in _refused:
        raise SignError(
            SignCode.AUTH,
            f"{material.spec}: the PIN, or none, was refused before, and is not tried again",
            hint="put the right PIN into the file that pin-source= names, or restart to try the same one",
        )


def note_refused(material: KeyMaterial) -> None:
    """A device has refused this way of opening it: this process does not try it again."""
    _refused.add(_digest(material))


def _digest(material: KeyMaterial) -> bytes:
    """Tells one way of opening a key from another, without keeping its PIN."""
    parts = (str(material.spec).encode(), material.secrets.pem or b"", material.secrets.pin or b"")
    return hashlib.sha256(b"".join(len(part).to_bytes(4) + part for part in parts)).digest()


def _count(metrics: Metrics, protection: str, seconds: float, code: SignCode | None) -> None:
    if code is None:
        metrics.sign_duration_seconds.labels(protection).observe(seconds)
    else:
        metrics.sign_failures_total.labels(protection, str(code)).inc()


def _say(messages: Messages, protection: str, trouble: SignCode | None) -> None:
    if trouble is None:
        messages.info("our key signs again", protection=protection)
    else:
        messages.error("our key does not sign: handshakes fail", protection=protection, code=str(trouble))

"""The signer process of a parent: one for the key in force, started again when it dies, and one more while a reload replaces it.

A key in a file, and one behind a signer service, needs none: each worker reads the one, and the other is in one process
already.
"""

from __future__ import annotations

import asyncio
import socket
from contextlib import suppress
from typing import TYPE_CHECKING, Final, Self

from sidecar.app.own_key import check_not_refused, note_refused
from sidecar.app.workers.child import Child
from sidecar.app.workers.fleet import BEAT_SECONDS, HUNG_SECONDS
from sidecar.app.workers.handed import pack
from sidecar.app.workers.lent import DOOR
from sidecar.app.workers.process import Process
from sidecar.app.workers.signing import OPEN_SECONDS, mandate_of
from sidecar.app.workers.wire import Ask, WorkerCode, WorkerError
from sidecar.errors import SidecarError
from sidecar.keys.errors import SignCode
from sidecar.keys.spec import RemoteKey
from sidecar.tasks import describe, spawn

if TYPE_CHECKING:
    from sidecar.config.load import Loaded
    from sidecar.telemetry.messages import Messages

#: Between two starts of a process that died, in seconds: at first, and at the most.
PAUSES: Final = (0.25, 30.0)
#: What it may take to start Python, in seconds, beside opening the device.
_START_SECONDS: Final = 20.0


def needed(loaded: Loaded) -> bool:
    """Whether the key is in a device of this machine, which is opened once for all."""
    key = loaded.material.key
    return key.software is None and not isinstance(key.spec, RemoteKey)


def door_of(keeper: Keeper | None) -> dict[str, int]:
    """What a worker is handed to use the key with; nothing where it needs nothing."""
    return {} if keeper is None else {DOOR: keeper.door.fileno()}


class Keeper:
    """One key in one signer process; ``door`` is the end of its door that workers are handed."""

    def __init__(self, loaded: Loaded, messages: Messages) -> None:
        self._loaded = loaded
        self._messages = messages
        self.door, self._inner = socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM)
        self.protection = str(loaded.material.protection)
        #: Why it does not sign, as a stable code.
        self.trouble: str | None = None
        self.child: Child | None = None
        self._keeping: asyncio.Task[None] | None = None

    @classmethod
    async def open(cls, loaded: Loaded, messages: Messages) -> Self:
        """Starts the process and has it open the key. Raises SidecarError."""
        check_not_refused(loaded.material.key)
        keeper = cls(loaded, messages)
        try:
            await keeper._start()
        except BaseException:
            keeper.close()
            raise
        keeper._keeping = spawn(keeper._keep(), name="signer-keep")
        return keeper

    def serves(self, loaded: Loaded) -> bool:
        """Says whether it is the key of that configuration, signs as much, and is well."""
        mine = self._loaded
        same = mine.material.key == loaded.material.key and mine.material.svid.pin == loaded.material.svid.pin
        limits = (mine.config.limits.sign_timeout, loaded.config.limits.sign_timeout)
        return same and limits[0] == limits[1] and mandate_of(mine) == mandate_of(loaded) and self.trouble is None

    def close(self) -> None:
        """Ends the process."""
        if self._keeping is not None:
            self._keeping.cancel()
        if self.child is not None:
            self.child.tell(Ask.END, {"code": 0})
            child = self.child
            asyncio.get_running_loop().call_later(_END_SECONDS, child.end, "was told to end")
        self.door.close()
        self._inner.close()

    async def ended(self) -> None:
        """Waits for the end of the process, after `close`."""
        if self.child is not None and await self.child.ended(_END_SECONDS) is None:
            self.child.end("was told to end")
            await self.child.ended(_END_SECONDS)

    async def _start(self) -> None:
        loaded = self._loaded
        try:
            process = Process.start(["signer", "--of", loaded.config.source.name])
        except OSError as error:
            raise WorkerError(
                WorkerCode.GONE, f"no signer process could be started: {error.strerror or type(error).__name__}"
            ) from error
        child = Child("signer", process)
        seconds = _START_SECONDS + OPEN_SECONDS + loaded.config.limits.sign_timeout
        try:
            child.hand({DOOR: self._inner.fileno()})
            answer = await child.ask(Ask.START, pack(loaded, with_pin=True), seconds=seconds)
            self.protection, self.child = str(answer["protection"]), child
        except SidecarError as error:
            if error.code == SignCode.AUTH:
                note_refused(loaded.material.key)
            raise
        finally:
            if self.child is not child:
                child.end("could not be started")

    async def _keep(self) -> None:
        """Starts it again when it is gone; not where the device refused our PIN: each try counts towards its lockout."""
        assert self.child is not None  # noqa: S101 - it was started
        while True:
            why = await self._look_after(self.child)
            self.trouble = SignCode.UNAVAILABLE.value
            self._messages.error("the signer process is gone: handshakes fail", pid=self.child.pid, why=why)
            pause, most = PAUSES
            while self.trouble is not None:
                await asyncio.sleep(pause)
                pause = min(2 * pause, most)
                try:
                    await self._start()
                except Exception as error:  # noqa: BLE001 - whatever it is this time, handshakes must not fail for ever
                    self._not_started(error)
                    if self.trouble == SignCode.AUTH:
                        return
                else:
                    self.trouble = None
            self._messages.info("a signer process serves in its place", pid=self.child.pid)

    async def _look_after(self, child: Child) -> str:
        """Asks whether it answers, again and again, until it is gone; one that hangs is killed. The device may hang."""
        while not child.gone.done():
            await asyncio.wait([child.gone], timeout=BEAT_SECONDS)
            with suppress(SidecarError):  # one that is late is gone, and one that refuses answers
                await child.ask(Ask.STATUS, seconds=HUNG_SECONDS)
        return child.gone.result()

    def _not_started(self, error: Exception) -> None:
        if isinstance(error, SidecarError):
            self.trouble, why = str(error.code), str(error)
        else:
            self.trouble, why = SignCode.UNAVAILABLE.value, describe(error)
        self._messages.error("no signer process could be started", why=why)


#: How long it has to let go of the device at its end, in seconds.
_END_SECONDS: Final = 3.0

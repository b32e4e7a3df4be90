"""One use of the key: asked for, perhaps made, written down once and answered once."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

from sidecar.keys.errors import SignCode, SignError
from sidecar.keys.signer import hash_for
from sidecar.keys.wire import HEAD_BYTES, MAX_REPLY, Done, Refusal
from sidecar.signer.log import UseCode
from sidecar.tasks import describe
from sidecar.threads import Job

if TYPE_CHECKING:
    from collections.abc import Callable
    from enum import StrEnum

    from sidecar.clock import Clock
    from sidecar.keys.messages import Recognisers
    from sidecar.keys.signer import Signer
    from sidecar.keys.wire import Reply, SignRequest
    from sidecar.signer.log import UseLog
    from sidecar.sockets import Peer
    from sidecar.telemetry.messages import Messages
    from sidecar.threads import Workers


@dataclass(frozen=True, slots=True)
class Means:
    """What every use needs. ``seconds`` is the time that one has."""

    signer: Signer
    recognisers: Recognisers
    workers: Workers
    log: UseLog
    messages: Messages
    clock: Clock
    seconds: float


class Use:
    """Ends once: with a signature, with a refusal, at the time limit, or because whoever asked has left."""

    def __init__(self, means: Means, peer: Peer, answer: Callable[[Reply], None]) -> None:
        self._means = means
        self._peer = peer
        self._answer = answer
        self._began = means.clock.monotonic()
        self._purpose: str | None = None
        self._job: Job[bytes] | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._over = False

    def begin(self, request: SignRequest) -> None:
        """Looks at what is to be signed, before anything else is done with it, and asks the device."""
        means = self._means
        self._purpose = means.recognisers.recognise(request.message, means.clock.wall())
        if self._purpose is None or request.hash_ is not hash_for(means.signer.public_key):
            self._refuse(SignCode.REFUSED)
            return
        self._job = Job(partial(means.signer.sign, request.message, request.hash_), self._done)
        self._timer = asyncio.get_running_loop().call_later(means.seconds, self._refuse, SignCode.TIMEOUT)
        if not means.workers.submit(self._job):
            self._refuse(SignCode.FULL)

    def leave(self) -> None:
        """Nobody waits for the answer any more. What the device is at goes on, and is written down when it ends."""
        if self._job is not None and self._job.started is None:
            self._end(UseCode.LEFT)

    def stop(self) -> None:
        """The service ends; the device may still be at it."""
        self._end(SignCode.CLOSED)

    def _done(self, outcome: bytes | BaseException) -> None:
        if isinstance(outcome, SignError):
            self._refuse(outcome.code)
        elif isinstance(outcome, bytes) and 0 < len(outcome) <= MAX_REPLY - HEAD_BYTES:
            self._end(UseCode.OK, Done(outcome))
        else:
            what = describe(outcome) if isinstance(outcome, BaseException) else "no signature"
            self._means.messages.error("unexpected: the key could not be used", error=what)
            self._refuse(SignCode.FAILED)

    def _refuse(self, code: SignCode) -> None:
        self._end(code, Refusal(code))

    def _end(self, result: StrEnum, reply: Reply | None = None) -> None:
        if self._over:
            return
        self._over = True
        if self._timer is not None:
            self._timer.cancel()
        if self._job is not None:
            self._job.give_up()
        self._means.log.sign(self._peer, self._purpose, result, self._means.clock.monotonic() - self._began)
        if reply is not None:
            self._answer(reply)

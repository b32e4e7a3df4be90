"""The process of a signer service: opens the key, serves, and ends when it is told to."""

from __future__ import annotations

import asyncio
import signal
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any, Final

from sidecar.keys.errors import SignCode, SignError
from sidecar.signer.service import SignerService, open_key
from sidecar.tasks import describe
from sidecar.telemetry.access_log import AccessLog
from sidecar.telemetry.messages import Messages
from sidecar.telemetry.sink import Sink
from sidecar.threads import apart

if TYPE_CHECKING:
    from sidecar.clock import Clock
    from sidecar.keys.open import Secrets
    from sidecar.keys.signer import Signer
    from sidecar.keys.spec import KeySpec
    from sidecar.keys.token_messages import Mandate
    from sidecar.signer.limits import SignerLimits
    from sidecar.signer.service import Place

#: How long opening a key may take, in seconds: a slow TPM needs a while for its storage key.
OPEN_SECONDS: Final = 60.0


@dataclass(frozen=True, slots=True)
class Order:
    """What the command line asks for, with the files of the key read and checked."""

    place: Place
    spec: KeySpec
    secrets: Secrets
    limits: SignerLimits
    mandate: Mandate


async def serve(order: Order, clock: Clock) -> int:
    """Opens the key, serves, and ends at SIGTERM or SIGINT: at once, also while the device hangs."""
    loop = asyncio.get_running_loop()
    told: asyncio.Future[None] = loop.create_future()
    for signum in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(signum, _settle, told)
    messages = Messages(clock.wall)
    loop.set_exception_handler(partial(_unexpected, messages))
    signer = await _opened(order, told)
    if signer is None:
        return 0
    log = AccessLog(Sink.stdout(), later=loop.call_later, messages=messages)
    service = SignerService(
        signer, order.place, log, messages=messages, clock=clock, limits=order.limits, mandate=order.mandate
    )
    try:
        await service.start()
        await told
    finally:
        await service.close()
        log.close()
        if log.dropped:
            messages.error("uses of the key were not logged", lines=log.dropped)
    messages.info("the signer service ends")
    return 0


async def _opened(order: Order, told: asyncio.Future[None]) -> Signer | None:
    """Opens and tries the key, in a thread that is left to itself where the device hangs; None when told to end."""
    call = partial(open_key, order.spec, order.secrets, order.limits.sign)
    opening = asyncio.ensure_future(apart(call, OPEN_SECONDS, "signer-open"))  # noqa: TID251 - awaited below
    either: set[asyncio.Future[Any]] = {opening, told}
    await asyncio.wait(either, return_when=asyncio.FIRST_COMPLETED)
    if not opening.done():
        opening.cancel()
        return None
    try:
        return opening.result()
    except TimeoutError:
        raise SignError(
            SignCode.TIMEOUT,
            f"the key could not be opened within {OPEN_SECONDS:g} s",
            hint="is the device hung, or used by another program?",
        ) from None


def _settle(told: asyncio.Future[None]) -> None:
    if not told.done():  # a second signal
        told.set_result(None)


def _unexpected(messages: Messages, _: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
    error = context.get("exception")
    told = describe(error) if isinstance(error, BaseException) else ""
    messages.error("unexpected: " + str(context.get("message", "an error")), error=told)

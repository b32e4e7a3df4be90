"""The tokens of one outbound entry: at most one at a time, obtained when a request needs it, renewed while it serves.

Nothing is fetched without a request, and no request waits while there is a token that is good. A source that fails is
asked again after a while that grows, so that an issuer in trouble is not asked by every request.
"""

from __future__ import annotations

import asyncio
import random
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from sidecar.errors import SidecarError
from sidecar.tasks import describe, spawn
from sidecar.tokens.codes import SourceCode, SourceError
from sidecar.tokens.credential import Credential
from sidecar.tokens.token import Binding

if TYPE_CHECKING:
    from sidecar.clock import Clock
    from sidecar.telemetry.messages import Messages
    from sidecar.telemetry.metrics import Metrics
    from sidecar.tokens.credential import Field
    from sidecar.tokens.settings import SourceSettings
    from sidecar.tokens.sources.source import TokenSource
    from sidecar.tokens.token import Token

#: The share of its life after which a token is renewed: a random point between these, so that a fleet that began at the
#: same moment does not ask at the same moment.
REFRESH: Final = (0.6, 0.8)
#: Of its end nothing is used: this share of its life, at most so many seconds. It has to arrive, and clocks differ.
_MARGIN: Final = (0.1, 5.0)
#: After a failure: the first pause and the longest, in seconds. Each is twice the one before, less a random part.
PAUSES: Final = (1.0, 60.0)
#: How often a source that is watched is asked whether it would give another token now, in seconds. Beyond twice that a
#: request waits for the answer.
LOOK_SECONDS: Final = 0.5
#: Where no token is kept: how many are fetched at once, and for how many requests in all; one more fails.
UNKEPT_AT_ONCE: Final = 4
UNKEPT: Final = 128
#: After a 401 that took a token with it the next one keeps its token for so long, in seconds: it may not be the token.
REJECTION_SECONDS: Final = 10.0


@dataclass(frozen=True, slots=True)
class Tools:
    """What every lease needs."""

    clock: Clock
    messages: Messages
    metrics: Metrics


class Lease:
    """One source's token for one entry, as one identity. For the event loop's thread alone.

    ``entry`` is the entry's name, for operators; ``hardware``: our key is in a device.
    """

    def __init__(
        self, settings: SourceSettings, source: TokenSource, field: Field, tools: Tools, *, entry: str, hardware: bool
    ) -> None:
        self.settings = settings
        self.field = field
        self.entry = entry
        self.hardware = hardware
        self.source = source
        self._tools = tools
        self._credential: Credential | None = None
        self._fetching: asyncio.Future[Credential] | None = None
        self._failures = 0
        self._error: SourceCode | None = None
        self._not_before = 0.0
        #: When it was last known that the source has no other token, and what waits to know it again.
        self._looked = 0.0
        self._looking: asyncio.Future[None] | None = None
        self._alone = 0
        self._rejected = float("-inf")
        self._refreshed: float | None = None
        self._closed = False
        self._turns = asyncio.Semaphore(UNKEPT_AT_ONCE)

    # -- what a request asks ----------------------------------------------------------------------------------------

    def current(self) -> Credential | None:
        """Returns the token if there is a good one; begins to renew it when that is due. None: `obtain`."""
        credential = self._credential
        if credential is None:
            return None
        now = self._tools.clock.monotonic()
        if now >= credential.until or self._over(credential.token):
            self._credential = None
            return None
        if self.source.watched and not self._seen(now):
            return None
        if now >= credential.refresh and self._fetching is None and now >= self._not_before:
            self._begin()
        return credential

    async def obtain(self) -> Credential:
        """Returns a token, fetched if need be: by one fetch, whoever waits for it.

        Raises SourceError, at once where the source failed a moment ago.
        """
        if not self.settings.keeping.cache:
            return await self._fetch_alone()
        if self._credential is not None and self.source.watched:
            await self._look_again()
        credential = self.current()
        if credential is not None:
            return credential
        if self._fetching is None:
            self._check_pause()
            self._begin()
        assert self._fetching is not None  # noqa: S101 - begun above
        return await asyncio.shield(self._fetching)

    def begin(self) -> None:
        """Begins to fetch a token that nobody waits for; nothing where one is there or on its way, or in a pause."""
        now = self._tools.clock.monotonic()
        if self._credential is None and self._fetching is None and now >= self._not_before and not self._closed:
            self._begin()

    def reject(self, credential: Credential) -> bool:
        """The upstream answered 401 to a token: drops it, if it is still the one.

        Returns whether a new one may do better. Not where one was dropped for the same reason a moment ago: then it is
        not for the token that the upstream says no, and the issuer is not asked once for each request.
        """
        if self._credential is not credential and self.settings.keeping.cache:
            return True  # it was replaced already, or is being: a new one costs nothing
        now = self._tools.clock.monotonic()
        if now - self._rejected < REJECTION_SECONDS:
            return False
        self._rejected = now
        self._credential = None
        return True

    # -- what operators see -----------------------------------------------------------------------------------------

    def binding(self) -> Binding | None:
        """What keeps the present token from being used by others; None where there is none."""
        if self._credential is None:
            return None
        token = self._credential.token
        if token.bound:
            return Binding.HARDWARE if self.hardware else Binding.BOUND
        return Binding.BEARER if token.lifetime is not None else Binding.STATIC

    def status(self) -> dict[str, Any]:
        """Says what there is, never the token."""
        credential = self._credential
        return {
            "entry": self.entry,
            "binding": self.binding(),
            "expires": None if credential is None else credential.token.expires,
            "refreshed": self._refreshed,
            "error": self._error,
        }

    @property
    def held(self) -> bool:
        """Whether there is a token that has not come to its end; looks at nothing else."""
        credential = self._credential
        return credential is not None and self._tools.clock.monotonic() < credential.until

    @property
    def closed(self) -> bool:
        """Whether it gives no tokens any more."""
        return self._closed

    def expiry(self) -> float:
        """When the token expires, in seconds since the epoch; 0 without one, or where it does not say."""
        credential = self._credential
        return 0.0 if credential is None else credential.token.expires or 0.0

    def age(self) -> float:
        """How old the token is, in seconds; 0 without one."""
        credential = self._credential
        return 0.0 if credential is None else self._tools.clock.monotonic() - credential.obtained

    # -- the end ----------------------------------------------------------------------------------------------------

    async def close(self) -> None:
        """Drops the token and has it revoked where its issuer can; raises nothing."""
        self._closed = True
        credential, self._credential = self._credential, None
        if credential is None:
            return
        try:
            await self.source.revoke(credential.token)
        except SourceError as error:
            self._tools.messages.warning(
                f"a token could not be revoked: {error}", source=self.settings.name, code=str(error.code)
            )

    # -- fetching ---------------------------------------------------------------------------------------------------

    def _over(self, token: Token) -> bool:
        """Whether it has expired by the wall clock, which may have moved, as in a machine that slept."""
        return token.expires is not None and self._tools.clock.wall() >= token.expires

    def _seen(self, now: float) -> bool:
        """Whether it is known of late that nobody replaced or withdrew the token; looks again where that is due.

        ``now`` is monotonic. Under steady traffic nobody waits for that.
        """
        age = now - self._looked
        if age > LOOK_SECONDS and self._looking is None:
            self._begin_look()
        return age <= 2 * LOOK_SECONDS

    def _begin_look(self) -> asyncio.Future[None]:
        self._looking = done = asyncio.get_running_loop().create_future()
        spawn(self._look(done), name="token-look")
        return done

    async def _look_again(self) -> None:
        if self._tools.clock.monotonic() - self._looked > LOOK_SECONDS:
            await asyncio.shield(self._looking or self._begin_look())

    async def _look(self, done: asyncio.Future[None]) -> None:
        try:
            began = self._tools.clock.monotonic()
            if await self.source.changed() and (self._fetching is not None or began >= self._not_before):
                if self._fetching is None:
                    self._begin()
                assert self._fetching is not None  # noqa: S101 - begun above
                await asyncio.wait([self._fetching])
            self._looked = began
        finally:
            self._looking = None
            done.set_result(None)

    def _check_pause(self) -> None:
        if self._closed or self._tools.clock.monotonic() < self._not_before:
            code = self._error or SourceCode.BACKING_OFF
            raise SourceError(code, f"the token source {self.settings.name} failed a moment ago")

    def _begin(self) -> None:
        future: asyncio.Future[Credential] = asyncio.get_running_loop().create_future()
        # Perhaps nobody waits for it: then the failure was told all the same, by `_failed`.
        future.add_done_callback(lambda done: done.cancelled() or done.exception())
        self._fetching = future
        spawn(self._fetch_for(future), name="token-refresh")

    async def _fetch_for(self, future: asyncio.Future[Credential]) -> None:
        try:
            credential = await self._fetch()
        except SourceError as error:
            future.set_exception(error)
        except BaseException:
            future.set_exception(SourceError(SourceCode.BAD_ANSWER, "the token source failed unexpectedly"))
            raise
        else:
            if self._closed:
                await self._unwanted(credential)
            else:
                self._credential = credential
            future.set_result(credential)
        finally:
            self._fetching = None

    async def _unwanted(self, credential: Credential) -> None:
        """It came after the entry was gone."""
        self._credential = credential
        await self.close()

    async def _fetch_alone(self) -> Credential:
        """Fetches a token for one request, where none is kept; only so many at once."""
        self._check_pause()
        if self._alone >= UNKEPT:
            raise SourceError(SourceCode.BUSY, f"{UNKEPT} requests wait for a token of {self.settings.name} already")
        self._alone += 1
        try:
            async with self._turns:
                self._check_pause()
                return await self._fetch()
        finally:
            self._alone -= 1

    async def _fetch(self) -> Credential:
        try:
            token = await self.source.fetch()
        except SidecarError as error:
            raise self._failed(error) from None
        except Exception as error:  # noqa: BLE001 - a defect of ours, whose text may quote anything
            self._tools.messages.error("unexpected: a token source failed", error=describe(error))
            raise self._failed(SourceError(SourceCode.BAD_ANSWER, "the token source failed unexpectedly")) from None
        return self._succeeded(token)

    def _succeeded(self, token: Token) -> Credential:
        tools, keeping = self._tools, self.settings.keeping
        self._failures, self._error, self._not_before = 0, None, 0.0
        self._refreshed = tools.clock.wall()
        tools.metrics.tokens_refreshed_total.labels(self.settings.name, "ok").inc()
        self._looked = now = tools.clock.monotonic()
        life = keeping.max_lifetime if token.lifetime is None else min(token.lifetime, keeping.max_lifetime)
        margin = min(life * _MARGIN[0], _MARGIN[1])
        refresh = now + life * random.uniform(*REFRESH)  # noqa: S311 - spreads load, keeps no secret
        return Credential(token, self.field.line(token), now, refresh, now + life - margin)

    def _failed(self, error: SidecarError) -> SourceError:
        tools = self._tools
        found = error if isinstance(error, SourceError) else SourceError(SourceCode.SIGNING, str(error))
        tools.metrics.tokens_refreshed_total.labels(self.settings.name, str(found.code)).inc()
        if found.code is SourceCode.BUSY:  # it was not even asked
            return found
        if found.code is SourceCode.FILE:  # what was withdrawn is not sent any more
            self._credential = None
        self._failures += 1
        self._error = found.code
        pause = min(PAUSES[0] * 2.0 ** min(self._failures - 1, 16), PAUSES[1])
        self._not_before = tools.clock.monotonic() + pause * random.uniform(0.5, 1.0)  # noqa: S311 - as above
        tools.messages.warning(
            f"no token: {found}", source=self.settings.name, entry=self.entry, code=str(found.code), hint=found.hint
        )
        return found

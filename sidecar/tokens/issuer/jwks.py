"""The keys of one issuer: fetched from the one configured URL, kept, renewed, and given up when they are too old.

Requests drive it: the first that needs keys waits for them, later ones have them renewed behind their back. Whatever
comes (unknown key ids by the thousand, an issuer that is down), there is at most one fetch in an interval.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

from sidecar.tasks import describe, spawn
from sidecar.tokens.codes import SourceCode, SourceError
from sidecar.tokens.keyset import read_keys

if TYPE_CHECKING:
    from sidecar.tokens.issuer.client import IssuerClient
    from sidecar.tokens.keyset import KeySet
    from sidecar.tokens.lease import Tools
    from sidecar.tokens.settings import Issuer

_OK = 200


class IssuerKeys:
    """One for each issuer of the configuration. For the event loop's thread alone."""

    def __init__(self, settings: Issuer, client: IssuerClient, tools: Tools) -> None:
        self.settings = settings
        self._client = client
        self._tools = tools
        self._keys: KeySet | None = None
        #: Monotonic times: of the last success, and of the last beginning.
        self._fetched = self._tried = float("-inf")
        self._fetching: asyncio.Future[None] | None = None
        self._error: SourceCode | None = None

    def current(self) -> KeySet | None:
        """Returns the keys to check with; None where there are none, or they are older than ``jwks_max_age``."""
        age = self._tools.clock.monotonic() - self._fetched
        if self._keys is not None and age > self.settings.jwks_refresh and self.may_refresh():
            self._begin()
        return self._keys if age <= self.settings.jwks_max_age else None

    def may_refresh(self) -> bool:
        """Says whether waiting can bring newer keys."""
        return self._fetching is not None or self._due()

    async def refreshed(self) -> None:
        """Waits for the fetch that is under way, or begins one where that is allowed; raises nothing."""
        if self._fetching is None and self._due():
            self._begin()
        if self._fetching is not None:
            await asyncio.shield(self._fetching)

    def status(self) -> dict[str, Any]:
        """Says for operators how the keys are."""
        known = self._keys is not None
        return {
            "issuer": self.settings.name,
            "keys": len(self._keys) if self._keys is not None else 0,
            "age_seconds": round(self.age(), 3) if known else None,
            "error": self._error,
        }

    def age(self) -> float:
        """How old the keys are, in seconds; 0 where there are none."""
        return 0.0 if self._keys is None else self._tools.clock.monotonic() - self._fetched

    def _due(self) -> bool:
        return self._tools.clock.monotonic() - self._tried >= self.settings.jwks_interval

    def _begin(self) -> None:
        if self._fetching is None:
            self._tried = self._tools.clock.monotonic()
            self._fetching = asyncio.get_running_loop().create_future()
            spawn(self._fetch(self._fetching), name="jwks-refresh")

    async def _fetch(self, done: asyncio.Future[None]) -> None:
        try:
            self._took(await self._read())
        except SourceError as error:
            self._failed(error.code, str(error), error.hint)
        except Exception as error:  # noqa: BLE001 - a defect of ours: whoever waits must not wait for ever
            self._failed(SourceCode.BAD_ANSWER, f"unexpected: {describe(error)}", "")
        finally:
            self._fetching = None
            if not done.done():
                done.set_result(None)

    async def _read(self) -> KeySet:
        answer = await self._client.get(self.settings.jwks, accept="application/jwk-set+json, application/json")
        if answer.status != _OK:
            raise SourceError(
                SourceCode.STATUS,
                f"the issuer answered {answer.status} where its keys should be",
                hint="check `jwks` of this issuer; redirects are not followed",
            )
        return read_keys(answer.json())

    def _took(self, keys: KeySet) -> None:
        changed = self._keys is not None and self._keys.version != keys.version
        self._keys, self._error = keys, None
        self._fetched = self._tools.clock.monotonic()
        self._tools.metrics.jwks_refreshed_total.labels(self.settings.name, "ok").inc()
        if changed:
            self._tools.messages.info("an issuer has other keys now", issuer=self.settings.name, keys=len(keys))

    def _failed(self, code: SourceCode, text: str, hint: str) -> None:
        self._error = code
        self._tools.metrics.jwks_refreshed_total.labels(self.settings.name, str(code)).inc()
        self._tools.messages.warning(
            f"an issuer's keys cannot be had: {text}", issuer=self.settings.name, code=str(code), hint=hint
        )

"""``exec``: the output of a command, as kubectl's credential plugins give it."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, ClassVar

from sidecar.tokens.sources import credential, peek
from sidecar.tokens.sources.command import output_of
from sidecar.tokens.sources.life import token_of

if TYPE_CHECKING:
    from sidecar.tokens.settings import ExecSource
    from sidecar.tokens.sources.source import Means
    from sidecar.tokens.token import Token


class Exec:
    """A `TokenSource` that runs its command each time, with our own environment and KUBERNETES_EXEC_INFO."""

    watched: ClassVar[bool] = False

    def __init__(self, settings: ExecSource, means: Means) -> None:
        self._settings = settings
        self._clock = means.clock

    async def fetch(self) -> Token:
        """Runs the command. Raises SourceError: COMMAND, COMMAND_TIMEOUT, BAD_TOKEN, EXPIRED, BUSY."""
        settings = self._settings
        environ = os.environ | {"KUBERNETES_EXEC_INFO": credential.EXEC_INFO}
        printed = credential.read(await output_of(settings.command, environ, settings.timeout))
        return token_of(
            printed.value,
            now=self._clock.wall(),
            until=(printed.expires, peek.expiry(peek.claims(printed.value))),
            most=settings.keeping.max_lifetime,
            hint="the command gave an old token, from a cache of its own perhaps, or our clock is wrong",
        )

    async def revoke(self, token: Token) -> None:
        """Does nothing: there is no such call of a credential plugin."""

    async def changed(self) -> bool:
        """Returns False: nobody tells us that a command would print another token now."""
        return False

"""The access log of a process, which a reload may replace by another one."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from sidecar.config.values import LogFull
from sidecar.telemetry.access_log import AccessLog
from sidecar.telemetry.sink import Sink

if TYPE_CHECKING:
    from sidecar.config.values import Config
    from sidecar.telemetry.messages import Messages
    from sidecar.telemetry.turns import Turns


class OwnLog:
    """``now`` is the one that takes lines. ``turns``: those of the processes that write to the same sinks, if several do."""

    def __init__(
        self, config: Config, *, loop: asyncio.AbstractEventLoop, messages: Messages, turns: Turns | None
    ) -> None:
        """Opens the log that a configuration asks for. Raises SinkError."""
        self._loop = loop
        self._messages = messages
        self._turns = turns
        #: Lines dropped by those that were replaced.
        self._dropped = 0
        self.now = self._open(config)

    @property
    def dropped(self) -> int:
        """Lines that were never written, since the start: a counter, which never goes back."""
        return self._dropped + self.now.dropped

    def another(self, old: Config, new: Config) -> AccessLog | None:
        """Opens another log where a new configuration asks for one, for `replace`. Raises SinkError."""
        same = (old.access_log, old.log_full) == (new.access_log, new.log_full)
        return None if same else self._open(new)

    async def replace(self, log: AccessLog) -> None:
        """Puts another log in place and writes the old one out."""
        old, self.now = self.now, log
        dropped = old.dropped
        self._dropped += dropped  # at once, and the rest when it is known
        await asyncio.to_thread(old.close)
        self._dropped += old.dropped - dropped

    def _open(self, config: Config) -> AccessLog:
        sink = Sink.stdout() if config.access_log is None else Sink.file(config.access_log)
        deny = config.log_full is LogFull.DENY
        turns = None if self._turns is None else self._turns.of(config.access_log)
        later = self._loop.call_later
        return AccessLog(sink, later=later, messages=self._messages, deny_when_full=deny, turns=turns)

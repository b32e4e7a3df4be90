"""What a reload is in any process: one at a time, its files read once, all of it taken or refused, and told."""

from __future__ import annotations

import asyncio
import concurrent.futures.thread  # noqa: F401 - for `to_thread`: asyncio loads it when there may be no descriptor to do so
from abc import ABC, abstractmethod
from typing import TYPE_CHECKING, Protocol

from sidecar.app.watch import Settled, watch
from sidecar.config.faults import InvalidConfiguration
from sidecar.config.load import Loaded, load
from sidecar.errors import ConfigurationError, LocalError, SidecarError
from sidecar.proxy.failure import ReloadCode
from sidecar.tasks import spawn
from sidecar.telemetry.record import Event

if TYPE_CHECKING:
    from sidecar.clock import Clock
    from sidecar.config.files import Snapshot
    from sidecar.config.values import Config
    from sidecar.telemetry.messages import Messages
    from sidecar.telemetry.metrics import Metrics


class Reloaded(Protocol):
    """The process that is reloaded."""

    clock: Clock
    messages: Messages
    metrics: Metrics

    @property
    def loaded(self) -> Loaded:
        """What is in force."""

    @property
    def policy_version(self) -> str:
        """Its policy."""

    @property
    def draining(self) -> bool:
        """Whether it ends: nothing is taken any more."""

    def write(self, event: Event, error: str | None = None) -> None:
        """Writes the log line of a change of the process."""

    def reopen_log(self) -> None:
        """Opens the file of the access log again under its name."""


class Reloading(ABC):
    """Reloads one process, one reload at a time. ``settled`` compares looks at the files with what was tried last."""

    def __init__(self, process: Reloaded) -> None:
        loaded = process.loaded
        self.settled = Settled(loaded.snapshot)
        self._process = process
        self._path = loaded.config.source
        self._tried = loaded.snapshot
        self._lock = asyncio.Lock()

    def watch(self) -> asyncio.Task[None]:
        """Begins to look for changed files."""
        return spawn(watch(self.settled, self.look, self._files_changed), name="watch")

    def look(self) -> Snapshot:
        """Looks at the files that were tried last, as they are now."""
        return self._tried.again()

    async def reload(self, cause: str) -> bool:
        """Reads everything once, checks it, and has it taken; on any failure the old state serves on.

        Returns whether the new configuration is in force.
        """
        process = self._process
        # Whatever becomes of it: for whoever moved the file away, lines in the old one are lost.
        process.reopen_log()
        async with self._lock:
            if process.draining:
                process.messages.info("a reload during a drain is ignored", cause=cause)
                return False
            try:
                loaded = await self._read()
                refuse_fixed(process.loaded.config, loaded.config)
                taken = await self._take(loaded, cause)
            except SidecarError as error:
                self._refused(error, cause)
                return False
            except OSError as error:  # what is missing is not the configuration's fault, and may be there again later
                self._refused(lacking(error), cause)
                return False
        if not taken:
            return False
        process.metrics.reloads_total.labels("ok").inc()
        process.messages.info("reloaded", cause=cause, policy=process.policy_version)
        process.write(Event.RELOAD)
        return True

    @abstractmethod
    async def _take(self, loaded: Loaded, cause: str) -> bool:
        """Puts a checked configuration into force; False where a drain has begun meanwhile.

        Raises SidecarError or OSError where it cannot be had: the old state serves on.
        """

    async def _files_changed(self) -> None:
        await self.reload("a changed file")

    async def _read(self) -> Loaded:
        process = self._process
        try:
            # In a thread: a large policy takes a second to read, and traffic goes on meanwhile.
            loaded = await asyncio.to_thread(load, self._path, now=process.clock.wall())
            loaded = loaded.for_agent(process.loaded.config.agent)
        except InvalidConfiguration as error:
            self._took(error.snapshot)
            raise
        self._took(loaded.snapshot)
        return loaded

    def _took(self, snapshot: Snapshot) -> None:
        """These files were tried: they are tried again only when they change again."""
        self._tried = snapshot
        self.settled.took(snapshot)

    def _refused(self, error: SidecarError, cause: str) -> None:
        process = self._process
        process.metrics.reloads_total.labels("failed").inc()
        faults = error.faults if isinstance(error, InvalidConfiguration) else [error]
        process.messages.error("reload refused, the old configuration serves on", cause=cause, faults=len(faults))
        for fault in faults:
            process.messages.error(str(fault))
        process.write(Event.RELOAD, str(error.code))


def refuse_fixed(old: Config, new: Config) -> None:
    """Raises ConfigurationError for a change that needs a restart: all of it is refused, so that nobody believes a half."""
    for key in ("workers", "admin", "health"):
        if getattr(old, key) != getattr(new, key):
            raise ConfigurationError(
                ReloadCode.NEEDS_RESTART, f"{key} cannot change while running", hint=f"restart, or restore {key}"
            )


def lacking(error: OSError) -> LocalError:
    """Says that the system is at fault, and not the configuration."""
    text = f"the system does not give what a reload needs: {error.strerror or type(error).__name__}"
    return LocalError(ReloadCode.SYSTEM, text, hint="reload again when it does")

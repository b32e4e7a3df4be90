"""The life of a proxy and its agent: the proxy first, the agent when that is ready, and the end of one is that of the other."""

from __future__ import annotations

import os
import signal
import time
from dataclasses import dataclass
from enum import StrEnum
from http import HTTPStatus
from typing import TYPE_CHECKING, Final

from sidecar.admin.client import AskError, ask
from sidecar.errors import LocalError
from sidecar.supervisor.children import Children
from sidecar.supervisor.signals import ENDING, FORWARDED, Signals

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

#: Exit codes of shells for a program that may not be executed, one that is not there, and one that a signal has ended.
NOT_EXECUTABLE, NOT_FOUND, BY_SIGNAL = 126, 127, 128
#: Between two looks whether the proxy is ready, and for one question, in seconds.
_PAUSE: Final = 0.02
_QUESTION: Final = 2.0
#: How long an agent whose proxy has died has to end, in seconds.
AGENT_SECONDS: Final = 10.0
#: How long the proxy may take to end beyond its drain, in seconds.
SPARE_SECONDS: Final = 10.0


class SuperviseCode(StrEnum):
    """Why the agent was not started, or ended."""

    NOT_READY = "proxy_not_ready"
    PROXY_DIED = "proxy_died"


@dataclass(frozen=True, slots=True)
class Order:
    """What to run. ``program`` is executed as ``proxy``; ``lent`` are the descriptors that it inherits, ``admin`` its socket.

    ``ready_seconds`` is how long the proxy may take to be ready, ``drain_seconds`` to drain.
    """

    program: str
    proxy: Sequence[str]
    lent: Sequence[int]
    agent: Sequence[str]
    environ: Mapping[str, str]
    admin: Path
    ready_seconds: float
    drain_seconds: float


def supervise(order: Order) -> int:
    """Runs both, and returns the agent's exit code, 128 and the number where a signal has ended it.

    Where the proxy ends before it is ready that is the proxy's own, which has said why. Raises LocalError where it does not
    become ready in time, or dies while the agent runs.
    """
    with Signals() as signals:
        return _Supervisor(order, signals).run()


class _Supervisor:
    def __init__(self, order: Order, signals: Signals) -> None:
        self._order = order
        self._signals = signals
        self._children = Children()
        #: Process ids, once they were started.
        self._proxy = 0
        self._agent = 0

    def run(self) -> int:
        order = self._order
        # What the proxy prints is not the agent's output, which may be a protocol: its standard output is our error output.
        self._proxy = self._children.start(
            order.proxy, os.environ, program=order.program, output=2, inherited=order.lent, apart=True
        )
        for descriptor in order.lent:
            os.close(descriptor)
        try:
            early = self._await_ready()
            if early is not None:
                return early
            return self._with_agent()
        finally:
            self._end_proxy()

    # -- the proxy ------------------------------------------------------------------------------------------------------

    def _await_ready(self) -> int | None:
        """Returns None once the proxy is ready, or the exit code where it never will be."""
        deadline = time.monotonic() + self._order.ready_seconds
        while (asked := self._asked()) is not True:
            received = self._signals.wait(_PAUSE)
            self._children.reap()
            code = self._children.ended(self._proxy)
            if code is not None:
                if code <= 0:  # ended without being asked to
                    raise self._died(code)
                return code
            if received is not None and received.number in ENDING:
                return BY_SIGNAL + received.number
            if time.monotonic() > deadline:
                raise LocalError(
                    SuperviseCode.NOT_READY,
                    f"the proxy was not ready after {self._order.ready_seconds:g} s: {asked or 'starting'}",
                    hint="its messages above say more; --ready-timeout gives it longer",
                )
        return None

    def _asked(self) -> bool | str:
        """Whether the proxy is ready, or why not. Only what our own child says counts: another one may have the socket."""
        try:
            reply = ask(self._order.admin, "GET", "/ready", seconds=_QUESTION, pid=self._proxy)
        except AskError:
            return False
        return True if reply.status == HTTPStatus.OK else str(reply.content.get("reason", "no reason"))

    def _end_proxy(self) -> None:
        """Has the proxy drain, and waits for that; a signal that would end us ends the drain."""
        self._children.reap()
        self._children.send(self._proxy, signal.SIGTERM)
        deadline = time.monotonic() + self._order.drain_seconds + SPARE_SECONDS
        while self._children.ended(self._proxy) is None:
            received = self._signals.wait(max(0.0, deadline - time.monotonic()))
            self._children.reap()
            if received is None:
                self._children.send(self._proxy, signal.SIGKILL)
                deadline = time.monotonic() + SPARE_SECONDS
            elif received.number in ENDING:
                self._children.send(self._proxy, signal.SIGTERM)

    def _died(self, code: int) -> LocalError:
        how = f"by signal {-code}" if code < 0 else f"with exit code {code}"
        return LocalError(
            SuperviseCode.PROXY_DIED,
            f"the proxy ended {how}",
            hint="its messages above say more, if it could write any",
        )

    # -- the agent ------------------------------------------------------------------------------------------------------

    def _with_agent(self) -> int:
        try:
            self._agent = self._children.start(self._order.agent, self._order.environ)
        except OSError as error:
            raise AgentNotStarted(self._order.agent[0], error) from None
        self._until_one_ends()
        code = self._children.ended(self._agent)
        if code is None:
            proxy = self._children.ended(self._proxy)
            self._end_agent()
            raise self._died(0 if proxy is None else proxy)
        return code if code >= 0 else BY_SIGNAL - code

    def _until_one_ends(self) -> None:
        """Passes signals on until the agent has ended, or the proxy has."""
        while True:
            self._children.reap()
            if self._children.ended(self._agent) is not None or self._children.ended(self._proxy) is not None:
                return
            received = self._signals.wait()
            if received is not None and received.number in FORWARDED and not received.everybody:
                self._children.send(self._agent, received.number)

    def _end_agent(self) -> None:
        """Ends an agent that has no proxy any more: it is told by SIGTERM, and killed where it goes on."""
        self._children.send(self._agent, signal.SIGTERM)
        deadline = time.monotonic() + AGENT_SECONDS
        while self._children.ended(self._agent) is None:
            left = deadline - time.monotonic()
            if left <= 0:
                self._children.send(self._agent, signal.SIGKILL)
                left = AGENT_SECONDS
                deadline = time.monotonic() + left
            self._signals.wait(left)
            self._children.reap()


class AgentNotStarted(LocalError):  # noqa: N818 - named for what happened
    """The agent's program cannot be started; ``exit_code`` is that of shells."""

    def __init__(self, name: str, error: OSError) -> None:
        missing = isinstance(error, FileNotFoundError | NotADirectoryError)
        what = "is not there" if missing else f"cannot be executed: {(error.strerror or 'no reason given').lower()}"
        super().__init__(
            AgentCode.NOT_FOUND if missing else AgentCode.NOT_EXECUTABLE,
            f"{name} {what}",
            hint="the command of the agent stands after --; the interpreter of a script counts",
        )
        self.exit_code = NOT_FOUND if missing else NOT_EXECUTABLE


class AgentCode(StrEnum):
    """Why the agent cannot be started."""

    NOT_FOUND = "agent_not_found"
    NOT_EXECUTABLE = "agent_not_executable"

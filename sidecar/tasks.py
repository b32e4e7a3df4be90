"""The one way to start a task: it is kept alive, named, and heard when it fails.

The event loop itself holds tasks weakly, and an exception in one that nobody awaits is told when the garbage collector
finds it, or never.
"""

from __future__ import annotations

import asyncio
import traceback
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine

    from sidecar.telemetry.messages import Messages
    from sidecar.telemetry.metrics import Metrics

#: How many frames of a traceback a message names: the innermost ones.
FRAMES = 4

_running: set[asyncio.Task[Any]] = set()


def spawn(
    coroutine: Coroutine[Any, Any, None],
    *,
    name: str,
    on_error: Callable[[str, BaseException], None] | None = None,
) -> asyncio.Task[None]:
    """Starts a task on the running loop. ``name`` is a fixed word of ours: it becomes a label.

    A cancelled task is not an error. Any other exception that leaves it goes to ``on_error`` with the name; without
    one, to the loop's exception handler (`exception_handler`).
    """
    loop = asyncio.get_running_loop()
    task = loop.create_task(coroutine, name=name)
    _running.add(task)

    def ended(task: asyncio.Task[None]) -> None:
        _running.discard(task)
        error = None if task.cancelled() else task.exception()
        if error is None:
            return
        if on_error is None:
            loop.call_exception_handler({"message": "a task failed", "exception": error, "where": name})
        else:
            on_error(name, error)

    task.add_done_callback(ended)
    return task


def exception_handler(
    messages: Messages, metrics: Metrics
) -> Callable[[asyncio.AbstractEventLoop, dict[str, Any]], None]:
    """Returns what to give to ``loop.set_exception_handler``: an unexpected exception is logged and counted."""

    def handle(_: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
        where = str(context.get("where", "loop"))
        metrics.internal_errors_total.labels(where).inc()
        error = context.get("exception")
        told = describe(error) if isinstance(error, BaseException) else ""
        messages.error("unexpected: " + str(context.get("message", "an error")), where=where, error=told)

    return handle


def describe(error: BaseException) -> str:
    """Names an unexpected exception and where it came from: its type and innermost frames.

    Never its text and no values of variables: either may quote what it choked on, and that may be a secret.
    """
    frames = traceback.extract_tb(error.__traceback__)[-FRAMES:]
    places = [f"{frame.filename.rpartition('/')[2]}:{frame.lineno} in {frame.name}" for frame in frames]
    return f"{type(error).__qualname__} at {' < '.join(reversed(places)) or 'no frame'}"

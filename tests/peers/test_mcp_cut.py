"""MCP streams that break off in the middle of a call, at either end and in between: nobody takes a half for the whole.

The client learns at once that its call has failed, and the server that nobody waits for it any more.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import pytest

from tests.support.eventually import eventually
from tests.support.mcp_stage import ERAS, SECONDS, Stage, play

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.support.processes import Site

pytestmark = pytest.mark.needs("mcp", "httpx2")

#: What breaks, and the errors that the logs of the planner's and the tools' sidecar give for it.
BREAKS: dict[str, tuple[Callable[[Stage], None], str | None, str | None]] = {
    "server": (lambda stage: stage.server.kill(), "truncated_body", "truncated_body"),
    "sidecar-of-the-server": (lambda stage: stage.tools.kill(), "truncated_body", None),
    "sidecar-of-the-client": (lambda stage: stage.planner.kill(), None, "client_closed"),
}


@pytest.mark.parametrize("era", ERAS)
@pytest.mark.parametrize("which", BREAKS)
def test_a_stream_that_breaks_off_is_no_end_of_it(site: Site, which: str, era: str) -> None:
    stage = Stage(site)
    breaks, planner_says, tools_say = BREAKS[which]

    async def part() -> None:
        async def seen(progress: float, total: float | None, message: str | None) -> None:
            # The first step has arrived, so its stream is open from end to end; the second never comes.
            await asyncio.to_thread(breaks, stage)

        async with stage.client(era) as client:
            with pytest.raises(Exception, match=r".") as raised:
                async with asyncio.timeout(SECONDS / 2):
                    await client.call_tool("walk", {"count": 2}, progress_callback=seen)
            assert not isinstance(raised.value, TimeoutError), "the client still waits for the rest"

    # A session that broke cannot be ended politely either, and the client says so in its own way.
    try:
        play(part())
    except* (OSError, RuntimeError):
        pass
    for sidecar, error in ((stage.planner, planner_says), (stage.tools, tools_say)):
        if error is not None:
            assert sidecar.await_log(error=error, http_method="POST", http_status=200)


def test_a_client_that_is_gone_ends_the_call_at_the_server(site: Site) -> None:
    stage = Stage(site)

    async def part() -> None:
        async with stage.client(ERAS[1]) as client:
            call = asyncio.ensure_future(client.call_tool("linger"))  # noqa: TID251 - a test's own task, awaited below
            await asyncio.to_thread(eventually, lambda: stage.state()["lingering"] == 1, "the call")
            call.cancel()
            await asyncio.wait([call])

    play(part())
    eventually(lambda: stage.state()["cancelled"] == 1, "the server to notice")
    for sidecar in (stage.planner, stage.tools):
        assert sidecar.await_log(error="client_closed")

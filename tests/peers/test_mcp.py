"""The `mcp` package at both ends: its client behind one sidecar, its server behind the other, mutual TLS between them.

The client uses the sidecar as its HTTP proxy, as an agent does with ``HTTP_PROXY``; the server refuses any `Host` but the
one that the client calls it by, so a proxy that rewrites it would be found out at once. Both eras of the protocol: that of
the ``initialize`` handshake, with its session and GET stream, and that of self-contained requests.
"""

from __future__ import annotations

import asyncio
import json
from typing import TYPE_CHECKING, Any

import pytest

from tests.support.eventually import eventually
from tests.support.mcp_stage import ERAS, Stage, play
from tests.support.processes import PLANNER, Site, ask

if TYPE_CHECKING:
    from collections.abc import Iterator

pytestmark = pytest.mark.needs("mcp", "httpx2")


@pytest.fixture(scope="module")
def stage() -> Iterator[Stage]:
    with Site() as site:
        yield Stage(site)


@pytest.mark.parametrize("era", ERAS)
def test_initialize_list_and_call(stage: Stage, era: str) -> None:
    async def part() -> None:
        async with stage.client(era) as client:
            listed = await client.list_tools()
            assert {tool.name for tool in listed.tools} >= {"add", "seen", "walk"}
            added = await client.call_tool("add", {"a": 2, "b": 3})
            assert added.structured_content == {"result": 5}
            fields = (await client.call_tool("seen")).structured_content
            assert fields is not None
            assert fields["host"] == "tools.internal"
            assert fields["x-sidecar-caller"] == PLANNER
            assert fields["x-forwarded-client-cert"].endswith(f"URI={PLANNER}")

    play(part())


def test_the_session_is_attributed_in_the_log(stage: Stage) -> None:
    """The lines of one session carry one id on both sides, which is not the id that gives access to the session."""

    async def part() -> None:
        async with stage.client("legacy") as client:
            await client.call_tool("add", {"a": 1, "b": 1})

    earlier = stage.tools.await_log(stage.sessions, http_method="DELETE") if stage.sessions else []
    play(part())
    session = stage.tools.await_log(len(earlier) + 1, http_method="DELETE")[-1]["session.id"]
    assert session not in {line["session.id"] for line in earlier}
    assert len(session) == 16
    assert {line["http.method"] for line in stage.tools.log(session_id=session)} >= {"POST", "DELETE"}
    assert stage.planner.await_log(session_id=session, http_method="DELETE")


@pytest.mark.parametrize("era", ERAS)
def test_progress_arrives_as_it_is_sent(stage: Stage, era: str) -> None:
    """The server takes its next step only when the client has seen the one before: a proxy that gathers stands still."""

    async def part() -> None:
        notes: list[float] = []

        async def note(progress: float, total: float | None, message: str | None) -> None:
            notes.append(progress)
            await asyncio.to_thread(stage.go)

        async with stage.client(era) as client:
            result = await client.call_tool("walk", {"count": 5}, progress_callback=note)
        assert result.structured_content == {"result": 5}
        assert notes == [1, 2, 3, 4, 5]

    play(part())


def test_the_server_speaks_first_over_the_get_stream(stage: Stage) -> None:
    async def part() -> None:
        heard: asyncio.Queue[Any] = asyncio.Queue()

        async def hear(message: object) -> None:
            await heard.put(message)

        async with stage.client("legacy", message_handler=hear) as client:
            for _ in range(3):
                await client.call_tool("announce")
                message = await heard.get()
                assert type(message).__name__ == "ToolListChangedNotification"

    before = len(stage.tools.log(http_method="GET", http_path="/mcp"))
    play(part())
    stage.tools.await_log(before + 1, http_method="GET", http_path="/mcp")


def test_the_server_asks_the_client_in_the_middle_of_a_call(stage: Stage) -> None:
    async def part() -> None:
        from mcp.types import ElicitResult

        async def answer(context: object, params: object) -> ElicitResult:
            return ElicitResult(action="accept", content={"yes": True})

        async with stage.client("legacy", elicitation_callback=answer) as client:
            result = await client.call_tool("consult")
            assert result.structured_content == {"result": True}

    play(part())


@pytest.mark.parametrize("era", ERAS)
def test_a_client_that_gives_up_cancels_the_call(stage: Stage, era: str) -> None:
    """In the newer era closing the connection is the cancellation, so it has to go through both sidecars."""
    before = stage.state()["cancelled"]

    async def part() -> None:
        async with stage.client(era) as client:
            call = asyncio.ensure_future(client.call_tool("linger"))  # noqa: TID251 - a test's own task, awaited below
            await asyncio.to_thread(eventually, lambda: stage.state()["lingering"] == 1, "the call")
            call.cancel()
            with pytest.raises(asyncio.CancelledError):
                await call
            await asyncio.to_thread(eventually, lambda: stage.state()["lingering"] == 0, "the call to be cancelled")

    play(part())
    assert stage.state()["cancelled"] == before + 1


def test_many_sessions_at_once(stage: Stage) -> None:
    async def one(number: int) -> None:
        async with stage.client(ERAS[number % 2]) as client:
            for n in range(5):
                result = await client.call_tool("add", {"a": number, "b": n})
                assert result.structured_content == {"result": number + n}

    async def part() -> None:
        await asyncio.gather(*(one(number) for number in range(10)))

    play(part())


def test_the_server_would_have_refused_another_host(stage: Stage) -> None:
    """What the tests above rest on."""
    body = json.dumps({"jsonrpc": "2.0", "id": 1, "method": "ping"})
    headers = {"Content-Type": "application/json", "Accept": "application/json, text/event-stream"}
    agent = stage.site.agent(stage.planner)
    assert ask(agent, "POST", "/mcp", body=body, headers=headers).status == 421
    assert ask(agent, "POST", "/mcp", body=body, headers=headers | {"Host": "tools.internal"}).status != 421

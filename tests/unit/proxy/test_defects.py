"""What happens when we are wrong ourselves: that connection ends, it is told and counted, and the others do not notice."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import pytest

from tests.support.pair import World, world

if TYPE_CHECKING:
    from pathlib import Path

    from tests.support.wire import Client

GET = b"GET /mcp HTTP/1.1\r\nHost: tools.internal\r\n\r\n"
POST = b"POST /mcp HTTP/1.1\r\nHost: tools.internal\r\n"
#: Bytes through a slow reader or to a slow upstream: 64 MiB, or what SIDECAR_SOAK asks for (1: 1 GiB).
BULK = (1024 if os.environ.get("SIDECAR_SOAK") else 64) * 1024 * 1024


class DefectError(Exception):
    """What nobody expected."""


def broken(*_args: object, **_knobs: object) -> None:
    raise DefectError


async def ends_alone(w: World, victim: Client, other: Client, *, where: str = "downstream") -> None:
    """The victim's connection has ended, it was told and counted, and another one is served as before."""
    assert await victim.rest() == b""
    assert [type(context["exception"]) for context in w.internal_errors] == [DefectError]
    assert w.counted("internal_errors_total", where) == 1
    w.internal_errors.clear()
    assert (await other.ask(GET)).status == 200


@pytest.mark.parametrize("order", ["first on its connection", "after another request", "pipelined"])
async def test_a_defect_in_a_decision_ends_that_connection_only(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, order: str
) -> None:
    async with world(tmp_path) as w:
        victim, other = await w.caller(), await w.caller()
        if order == "after another request":
            assert (await victim.ask(GET)).status == 200
        real = w.inbound.service.authorise

        def sometimes(exchange: object, decision_id: str) -> object:
            if exchange.head.path == b"/defect":  # type: ignore[attr-defined]
                raise DefectError
            return real(exchange, decision_id)  # type: ignore[arg-type]

        monkeypatch.setattr(w.inbound.service, "authorise", sometimes)
        defect = b"GET /defect HTTP/1.1\r\nHost: a\r\n\r\n"
        if order == "pipelined":
            victim.send(GET + defect + GET)
            assert (await victim.response()).status == 200
        else:
            victim.send(defect)
        await ends_alone(w, victim, other)
        await w.logged(1, error="internal", decision="deny", direction="inbound")
        assert all(head.startswith(b"GET /mcp ") for head in w.upstream.heads)
        await w.eventually(lambda: len(w.hub.connections) == 1)


async def test_a_defect_in_a_dial_is_500(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async with world(tmp_path) as w:
        caller = await w.caller()
        with monkeypatch.context() as patch:
            patch.setattr(w.inbound.service.pool.destination, "stream", broken)
            response = await caller.ask(GET)
            assert response.status == 500
            assert b'"error":"internal"' in response.body
        assert w.counted("internal_errors_total", "dial") == 1
        w.internal_errors.clear()
        assert (await caller.ask(GET)).status == 200
        await w.logged(1, error="internal", http_status=500)


async def test_a_defect_in_passing_an_answer_on_is_500_or_a_cut(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with world(tmp_path) as w:
        victim, other = await w.caller(), await w.caller()
        with monkeypatch.context() as patch:
            patch.setattr("sidecar.proxy.exchange.forward_response", broken)
            victim.send(GET)
            assert not (await victim.rest()).endswith(b"hello")
        assert [type(context["exception"]) for context in w.internal_errors] == [DefectError]
        w.internal_errors.clear()
        assert (await other.ask(GET)).status == 200
        await w.logged(1, error="internal")


async def test_a_defect_in_the_account_ends_that_connection_only(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with world(tmp_path) as w:
        victim, other = await w.caller(), await w.caller()
        assert (await other.ask(GET)).status == 200
        with monkeypatch.context() as patch:
            patch.setattr("sidecar.proxy.account.encode_request", broken)
            victim.send(GET)
            await victim.rest()
        assert [type(context["exception"]) for context in w.internal_errors] == [DefectError]
        w.internal_errors.clear()
        assert (await other.ask(GET)).status == 200


async def test_a_defect_while_a_gate_opens_ends_that_connection(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with world(tmp_path) as w:
        agent = await w.plain()
        assert (await agent.ask(GET)).status == 200
        (connection,) = [c for c in w.hub.connections if c.peer is None]
        connection._gated = True
        with monkeypatch.context() as patch:
            patch.setattr("sidecar.http.receiver.RequestReceiver.next", broken)
            connection.writable(yes=True)
        assert await agent.rest() == b""
        assert [type(context["exception"]) for context in w.internal_errors] == [DefectError]
        w.internal_errors.clear()

"""Ensures that what a caller sends right behind its handshake arrives whole, however long our own steps take."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from sidecar.tls.contexts import server_context
from tests.support.devices import held
from tests.support.pair import Plan, world
from tests.support.wire import Caller

if TYPE_CHECKING:
    from pathlib import Path


@pytest.mark.parametrize("size", [100_000, 1_000_000, 4_000_000])
async def test_a_body_right_behind_the_handshake(tmp_path: Path, size: int) -> None:
    async with world(tmp_path, Plan()) as w:
        credentials, signer = held(w.tools)
        signer.go.set()
        w.inbound.service.tls = server_context(credentials, w.ca.bundles)
        body = bytes(range(256)) * (size // 256)
        head = b"POST /mcp HTTP/1.1\r\nHost: tools.internal\r\nContent-Length: %d\r\n\r\n" % len(body)
        for _ in range(3):
            caller = await Caller.dial(w.inbound_port, w.planner)
            w.clients.append(caller)
            await caller.until(lambda caller=caller: caller.end.done)
            caller.send(head + body)
            assert (await caller.response()).status == 200
        assert w.upstream.bodies == [body] * 3
        assert not [line for line in w.log() if line["event"] == "refused"]

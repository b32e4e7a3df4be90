from __future__ import annotations

import socket
import threading
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import pytest

from sidecar.app.workers import worker as module
from sidecar.app.workers.lent import DOOR, LentKey
from sidecar.app.workers.worker import Worker
from sidecar.clock import Clock

if TYPE_CHECKING:
    from collections.abc import Iterator


class FakeServer:
    """As much of a server as preparing asks for."""

    def __init__(self) -> None:
        self.lent = None
        self.handed: dict[str, Any] = {}
        self.reloader = self
        self.forgotten = 0

    async def prepare(self, loaded: object) -> object:
        return loaded

    def abandon(self, prepared: object) -> None:
        self.abandoned = prepared

    def forget_handed(self) -> None:
        self.forgotten += 1


@pytest.fixture
def pair() -> Iterator[tuple[socket.socket, socket.socket]]:
    ours, its = socket.socketpair()
    with ours:
        yield ours, its


async def test_what_is_abandoned_leaves_the_key_that_is_in_force(
    pair: tuple[socket.socket, socket.socket], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module.handed, "unpack", lambda content: content["files"])
    monkeypatch.setattr(module, "share", lambda loaded: loaded)
    worker, server = Worker(pair[1], Clock()), FakeServer()
    worker._server = server  # type: ignore[assignment] - as much of one as is needed
    in_force, another = socket.socketpair()
    with in_force, another:
        server.lent = before = LentKey(in_force, "tpm")  # type: ignore[assignment] - likewise
        worker._handed = {DOOR: another}
        await worker._prepare({"protection": "tpm", "files": "checked"})
        assert server.lent is not before
        await worker._abandon({})
        assert (server.lent, server.abandoned) == (before, "checked")
        await worker._prepare({"protection": "tpm", "files": "checked"})
        assert server.lent is before, "no other one was handed over"
    worker._channel.close()


@pytest.mark.parametrize(("code", "revoked"), [(0, ["tokens"]), (1, [])])
async def test_tokens_are_revoked_at_an_end_in_order_and_not_at_one_at_once(
    pair: tuple[socket.socket, socket.socket], monkeypatch: pytest.MonkeyPatch, code: int, revoked: list[str]
) -> None:
    told: list[object] = []

    async def revoke_all(parts: object) -> None:
        told.append(parts)

    monkeypatch.setattr(module.tokens, "revoke_all", revoke_all)
    monkeypatch.setattr(module, "cut", lambda _: None)
    worker = Worker(pair[1], Clock())
    server: Any = SimpleNamespace(hub=None, generation=SimpleNamespace(tokens="tokens"))
    worker._server = server
    await worker._end({"code": code})
    assert (told, worker.ended.result()) == (revoked, code)
    worker._channel.close()


async def test_a_large_policy_is_read_beside_the_traffic(
    pair: tuple[socket.socket, socket.socket], monkeypatch: pytest.MonkeyPatch
) -> None:
    def unpack(content: dict[str, Any]) -> object:
        assert threading.current_thread() is not threading.main_thread()
        return content["files"]

    monkeypatch.setattr(module.handed, "unpack", unpack)
    monkeypatch.setattr(module, "share", lambda loaded: loaded)
    worker, server = Worker(pair[1], Clock()), FakeServer()
    worker._server = server  # type: ignore[assignment] - as much of one as is needed
    assert await worker._prepare({"protection": None, "files": "checked"}) == {}
    assert (worker._prepared, server.forgotten) == ("checked", 1)
    worker._channel.close()

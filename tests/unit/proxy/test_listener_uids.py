"""Whom a listener lets in: looked at before anything is made for a connection, and again when a reload came meanwhile."""

from __future__ import annotations

import os
import socket
from typing import TYPE_CHECKING

import pytest

from sidecar.proxy.binding import Binding
from sidecar.proxy.failure import BindCode, BindError
from sidecar.proxy.listener import Listener, bind
from sidecar.sock_diag import SockDiag
from sidecar.sockets import Peer
from tests.support.eventually import soon
from tests.support.pair import LOOPBACK, world

if TYPE_CHECKING:
    from pathlib import Path

    from tests.support.pair import World

GET = b"GET /mcp HTTP/1.1\r\nHost: tools.internal\r\n\r\n"
STRANGER = os.geteuid() + 1


def only(w: World, *uids: int) -> None:
    """Has the outbound entry serve these users from now on."""
    w.outbound.service.uids = frozenset(uids)


@pytest.mark.threat(61)
async def test_threat_61_a_stranger_is_closed_unheard_counted_and_logged(tmp_path: Path) -> None:
    async with world(tmp_path) as w:
        only(w, STRANGER)
        agent = await w.plain()
        agent.send(GET)
        await agent.rest()
        assert agent.buffer == b""
        (line,) = await w.logged(1, event="refused", direction="outbound", error="uid_not_allowed")
        assert line["src.uid"] == os.geteuid()
        assert line["src.addr"].startswith(f"{LOOPBACK}:")
        assert w.upstream.connections == 0
        assert not w.hub.connections
        only(w, os.geteuid())
        assert (await (await w.plain()).ask(GET)).status == 200


async def test_whom_a_reload_took_off_between_accepting_and_serving_is_closed(tmp_path: Path) -> None:
    async with world(tmp_path) as w:
        stream = w.outbound._accept()
        stream.client = Peer(None, STRANGER)
        near, far = socket.socketpair()
        with far:
            await w.hub.loop.connect_accepted_socket(lambda: stream, near)
            await soon(lambda: stream.closed and not w.hub.connections, "the connection to be gone")
        (line,) = await w.logged(1, event="refused", error="uid_not_allowed")
        assert line["src.uid"] == STRANGER


async def test_callers_are_not_asked_who_they_are_on_this_machine(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """They prove themselves by a certificate, wherever they run."""
    async with world(tmp_path) as w:
        asked: list[object] = []
        monkeypatch.setattr(w.hub.clients, "admit", lambda sock, uids: asked.append(uids))
        assert (await (await w.plain()).ask(GET)).status == 200
        assert asked == [w.outbound.service.uids], (
            "the agent was looked at, our own way to the inbound listener was not"
        )


@pytest.mark.parametrize("kind", ["tcp", "unix"])
async def test_a_listener_whose_clients_cannot_be_told_apart_does_not_open(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    def deaf(self: SockDiag, own: object, other: object) -> None:
        raise PermissionError(1, "Operation not permitted")

    async with world(tmp_path) as w:
        monkeypatch.setattr(SockDiag, "find", deaf)
        bound = Binding.unix(str(tmp_path / "s")) if kind == "unix" else Binding(bind(LOOPBACK, 0))
        listener = Listener(w.hub, w.outbound.service, bound)
        if kind == "unix":
            await listener.start()  # it says itself who is there
            listener.stop()
        else:
            with pytest.raises(BindError) as caught:
                await listener.start()
            assert caught.value.code is BindCode.UIDS_UNKNOWN
            assert bound.sock.fileno() == -1
        assert not (tmp_path / "s").exists()


async def test_a_mode_that_cannot_be_changed_is_told_and_who_may_pass_changes_all_the_same(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refused(self: Binding, uids: object) -> None:
        raise PermissionError(1, "Operation not permitted")

    async with world(tmp_path) as w:
        monkeypatch.setattr(Binding, "allow", refused)
        service = w.outbound.service
        w.outbound.replace(service)
        assert w.outbound.service is service

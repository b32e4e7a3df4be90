"""Ensures that WebSockets work end to end through two sidecars, with a client and a server that are not ours."""

from __future__ import annotations

import threading
from contextlib import contextmanager
from typing import TYPE_CHECKING

import pytest
from websockets.exceptions import ConnectionClosedError, InvalidStatus
from websockets.sync.client import connect
from websockets.sync.server import serve

from tests.support.eventually import eventually
from tests.support.processes import LOOPBACK, PLANNER

if TYPE_CHECKING:
    from collections.abc import Iterator
    from contextlib import AbstractContextManager

    from websockets.sync.client import ClientConnection
    from websockets.sync.server import ServerConnection

    from tests.support.processes import Sidecar, Site


class Chat:
    """A server that sends every message back, and keeps the requests that its connections began with."""

    def __init__(self) -> None:
        self.callers: list[str | None] = []
        self.open = 0
        self.port = 0

    def __call__(self, connection: ServerConnection) -> None:
        assert connection.request is not None
        self.callers.append(connection.request.headers.get("x-sidecar-caller"))
        self.open += 1
        try:
            for message in connection:
                connection.send(message)
        except ConnectionClosedError:
            pass  # cut, as some tests want it
        finally:
            self.open -= 1


@contextmanager
def chatting() -> Iterator[Chat]:
    chat = Chat()
    with serve(chat, LOOPBACK, 0, max_size=None) as server:
        chat.port = server.socket.getsockname()[1]
        thread = threading.Thread(target=server.serve_forever, daemon=True)
        thread.start()
        yield chat
        server.shutdown()
        thread.join()


def pair(site: Site, chat: Chat) -> tuple[Sidecar, Sidecar]:
    tools = site.tools(chat.port, allow=[{"caller": PLANNER, "paths": ["/chat"]}]).launch()
    planner = site.planner(tools).start()
    tools.await_ready()
    return planner, tools


def talk(planner: Sidecar, path: str = "/chat") -> AbstractContextManager[ClientConnection]:
    where = f"ws://{LOOPBACK}:{planner.port('outbound')}{path}"
    return connect(where, proxy=None, max_size=None, close_timeout=5)


@pytest.mark.parametrize("compression", ["deflate", None])
def test_messages_pass_both_ways_and_both_ends_close_in_order(site: Site, compression: str | None) -> None:
    with chatting() as chat:
        planner, tools = pair(site, chat)
        where = f"ws://{LOOPBACK}:{planner.port('outbound')}/chat"
        with connect(where, proxy=None, max_size=None, compression=compression) as client:  # type: ignore[arg-type]
            for message in ("hello", b"\x00\xff" * 1000, "x" * 3_000_000):
                client.send(message)
                assert client.recv(timeout=20) == message
            client.ping().wait(5)
            (shown,) = tools.ask("/connections").json["connections"]
            assert (shown["busy"], shown["websocket"]) == (True, True)
            assert chat.callers == [PLANNER]
        assert client.close_code == 1000
        for sidecar in (planner, tools):
            (line,) = sidecar.await_log(event="request")
            assert (line["http.status"], line["http.path"], "error" in line) == (101, "/chat", False)
            assert line["bytes_sent"] > 3000
            assert line["bytes_received"] > 3000
        eventually(lambda: chat.open == 0, "the server's end")
        assert tools.metric("connections", direction="inbound") <= 1


@pytest.mark.threat(38)
def test_threat_38_who_may_not_is_refused_and_the_server_never_hears_of_it(site: Site) -> None:
    with chatting() as chat:
        planner, _ = pair(site, chat)
        with pytest.raises(InvalidStatus) as caught, talk(planner, "/other"):
            pass
        assert caught.value.response.status_code == 403
        assert chat.callers == []


@pytest.mark.threat(12)
def test_threat_12_a_reload_cuts_it_and_a_drain_lets_it_run(site: Site) -> None:
    with chatting() as chat:
        planner, tools = pair(site, chat)
        with talk(planner) as client:
            client.send("before")
            assert client.recv(timeout=10) == "before"
            tools.config["inbound"][0]["allow"] = [{"caller": PLANNER, "paths": ["/chat", "/more"]}]
            tools.reload()
            client.send("after")
            assert client.recv(timeout=10) == "after"
            tools.config["inbound"][0]["allow"] = [{"caller": PLANNER, "paths": ["/more"]}]
            tools.reload()
            with pytest.raises(ConnectionClosedError) as caught:
                client.recv(timeout=10)
            assert caught.value.rcvd is None, "no close frame: cut"
        (line,) = tools.await_log(event="request")
        assert (line["error"], line["http.status"]) == ("path_not_allowed", 101)
        eventually(lambda: chat.open == 0, "the server to notice")
        tools.config["inbound"][0]["allow"] = [{"caller": PLANNER}]
        tools.config["drain_timeout"] = "2s"
        tools.reload()
        with talk(planner) as client:
            tools.running.terminate()
            tools.await_log(event="drain")
            client.send("still here")
            assert client.recv(timeout=10) == "still here"
            assert tools.exit_code() == 0
            with pytest.raises(ConnectionClosedError):
                client.recv(timeout=10)

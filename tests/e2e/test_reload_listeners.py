"""Ensures that listeners come and go with the configuration, while those that stay keep their socket and connections.

A new one is bound before anything is swapped: if its address is taken, nothing changes. One that is gone accepts no more,
but the request that is in flight on it is finished, also when the process is told to end meanwhile.
"""

from __future__ import annotations

import signal
import socket
from typing import TYPE_CHECKING

from tests.support.eventually import eventually
from tests.support.processes import LOOPBACK, PLANNER, Pending, ask, free_port, inbound, listens

if TYPE_CHECKING:
    from tests.support.backend import Backend
    from tests.support.processes import Sidecar, Site


def second(backend: Backend) -> dict[str, object]:
    return inbound("second", backend.port, [{"caller": PLANNER}])


def test_listeners_are_added_and_removed(site: Site, backend: Backend) -> None:
    tools = site.tools(backend).start()
    stays = site.caller(tools.port())
    assert ask(stays, "GET", "/1").status == 200
    connected = stays.sock
    tools.config["inbound"].append(second(backend))
    port = tools.port(entry=1)
    tools.reload()
    fresh = site.caller(port)
    assert ask(fresh, "GET", "/2").status == 200
    assert ask(stays, "GET", "/3").status == 200
    del tools.config["inbound"][1]
    tools.reload()
    assert not listens(port)
    assert fresh.sock is not None
    assert fresh.sock.recv(1) == b"", "an idle connection of a listener that is gone is closed"
    assert ask(stays, "GET", "/4").status == 200
    assert stays.sock is connected
    assert tools.ready


def test_reloads_that_overtake_each_other_do_not_stumble(site: Site, backend: Backend) -> None:
    tools = site.tools(backend).start("--loop", "asyncio")
    tools.config["inbound"].append(second(backend))
    tools.write()
    for _ in range(100):
        tools.signal(signal.SIGHUP)
    eventually(lambda: listens(tools.port(entry=1)), "the new listener")
    tools.reload()
    assert tools.reloads("failed") == 0, tools.stderr


def test_a_taken_address_refuses_the_reload_as_a_whole(site: Site, backend: Backend) -> None:
    tools = site.tools(backend).start()
    with socket.socket() as taken:
        taken.bind((LOOPBACK, free_port()))
        taken.listen()
        address = f"{LOOPBACK}:{taken.getsockname()[1]}"
        tools.config["inbound"] += [second(backend) | {"name": "third"}, second(backend) | {"listen": address}]
        tools.config["inbound"][0]["allow"] = [{"caller": "spiffe://example.org/agent/other/1"}]
        tools.reload(result="failed")
    assert f"cannot listen on {address}" in tools.stderr
    assert not listens(tools.port(entry=1))
    assert ask(site.caller(tools.port()), "GET", "/1").status == 200


def without_second(site: Site, backend: Backend) -> tuple[Sidecar, Pending]:
    tools = site.tools(backend)
    tools.config["inbound"].append(second(backend))
    tools.start()
    port = tools.port(entry=1)
    pending = Pending(site.caller(port), "POST", "/hold", body=b"x" * 10)
    backend.await_held()
    del tools.config["inbound"][1]
    tools.reload()
    assert not listens(port)
    return tools, pending


def test_a_removed_listener_finishes_what_is_in_flight(site: Site, backend: Backend) -> None:
    tools, pending = without_second(site, backend)
    backend.release()
    answer = pending.answer()
    assert (answer.status, answer.fields["connection"]) == (200, "close")
    eventually(lambda: tools.ask("/connections").json["connections"] == [], "its connection to be gone")


def test_a_drain_waits_for_a_removed_listener_too(site: Site, backend: Backend) -> None:
    tools, pending = without_second(site, backend)
    tools.signal(signal.SIGTERM)
    tools.await_log(event="drain")
    eventually(lambda: not listens(tools.port()), "the drain to have begun")
    backend.release()
    assert pending.answer().status == 200
    assert tools.exit_code() == 0

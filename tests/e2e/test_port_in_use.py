"""Ensures that an address that is taken ends the start by name, before any other listener of the process was open.

Two of the three data listeners are free; a watcher tries them all the while, so that one that was open for a moment only
would be seen as well.
"""

from __future__ import annotations

import socket
import threading
from typing import TYPE_CHECKING

import pytest

from tests.support.processes import LOOPBACK, PLANNER, free_port, inbound, listens, outbound

if TYPE_CHECKING:
    from tests.support.processes import Site


class Watcher(threading.Thread):
    """Tries ports until it is stopped, and notes those that answered."""

    def __init__(self, *ports: int) -> None:
        super().__init__(daemon=True)
        self.ports = ports
        self.seen: set[int] = set()
        self.tries = 0
        self._end = threading.Event()

    def run(self) -> None:
        while not self._end.is_set():
            self.seen |= {port for port in self.ports if listens(port)}
            self.tries += 1

    def stop(self) -> set[int]:
        self._end.set()
        self.join()
        return self.seen


def occupied() -> socket.socket:
    sock = socket.socket()
    sock.bind((LOOPBACK, free_port()))
    sock.listen()
    return sock


@pytest.mark.parametrize("which", ["inbound", "outbound", "health"])
def test_a_port_in_use_is_a_start_error_before_any_port_opens(site: Site, which: str) -> None:
    allow = [{"caller": PLANNER}]
    sidecar = site.sidecar(
        "tools",
        inbound=[inbound("first", 1, allow), inbound("second", 1, allow)],
        outbound=[outbound("third", 1)],
        health={"listen": f"{LOOPBACK}:{free_port()}"},
    )
    sections = {"inbound": sidecar.config["inbound"][1], "outbound": sidecar.config["outbound"][0]}
    taken = sections.get(which, sidecar.config["health"])
    with occupied() as sock:
        address = taken["listen"] = f"{LOOPBACK}:{sock.getsockname()[1]}"
        entries = [*sidecar.config["inbound"], *sidecar.config["outbound"], sidecar.config["health"]]
        free = [entry["listen"] for entry in entries if entry["listen"] != address]
        watcher = Watcher(*(int(listen.rpartition(":")[2]) for listen in free))
        watcher.start()
        assert sidecar.launch().exit_code() == 1
        assert watcher.stop() == set()
        assert watcher.tries > 10
    assert f"cannot listen on {address}: " in sidecar.stderr
    assert "another process listens there" in sidecar.stderr
    assert "Traceback" not in sidecar.stderr
    assert not sidecar.socket.exists()


def test_an_address_that_is_not_ours_is_named(site: Site) -> None:
    tools = site.tools(1)
    tools.config["inbound"][0]["listen"] = "192.0.2.7:8443"
    assert tools.launch().exit_code() == 1
    assert "cannot listen on 192.0.2.7:8443: " in tools.stderr
    assert "this machine has no such address" in tools.stderr

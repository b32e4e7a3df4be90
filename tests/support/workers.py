"""What tests ask about the worker processes of a sidecar."""

from __future__ import annotations

import threading
from pathlib import Path
from typing import TYPE_CHECKING

from tests.support.eventually import eventually
from tests.support.processes import ask

if TYPE_CHECKING:
    import http.client

    from tests.support.processes import Sidecar, Site


def children(parent: int) -> dict[int, str]:
    """The processes that one has started, with their command lines: pid -> words."""
    found = {}
    for status in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = status.read_text().rpartition(")")[2].split()
            command = status.with_name("cmdline").read_bytes()
        except OSError:  # it has just ended
            continue
        if int(fields[1]) == parent and fields[0] != "Z":
            found[int(status.parent.name)] = command.replace(b"\0", b" ").decode()
    return found


def worker_pids(sidecar: Sidecar) -> set[int]:
    """The workers of a sidecar, in the order of nothing."""
    return {pid for pid, command in children(sidecar.running.pid).items() if " worker --of " in command}


def connected(sidecar: Sidecar) -> dict[int, int]:
    """How many connections each worker has: pid -> number."""
    found: dict[int, int] = {}
    for each in sidecar.ask("/connections").json["connections"]:
        found[each["worker"]] = found.get(each["worker"], 0) + 1
    return found


def callers_of_all(site: Site, sidecar: Sidecar, most: int = 200) -> list[http.client.HTTPSConnection]:
    """Connects callers until each worker has one; each has asked once."""
    made: list[http.client.HTTPSConnection] = []
    while set(connected(sidecar)) != worker_pids(sidecar):
        assert len(made) < most, "one worker takes all connections"
        made.append(caller := site.caller(sidecar.port()))
        assert ask(caller, "GET", "/first").status == 200
    return made


class Agent(threading.Thread):
    """Asks again and again until it is told to stop, on a new connection after each that broke."""

    def __init__(self, site: Site, sidecar: Sidecar, direction: str = "outbound") -> None:
        super().__init__(daemon=True)
        self._connection = site.agent(sidecar) if direction == "outbound" else site.caller(sidecar.port())
        self.answers: list[int] = []
        self.errors: list[Exception] = []
        self.enough = threading.Event()
        self.start()

    def run(self) -> None:
        while not self.enough.is_set():
            try:
                self.answers.append(ask(self._connection, "POST", "/load", body=b"x" * 2000).status)
            except Exception as error:  # noqa: BLE001 - whatever it is, the test looks at it
                self.errors.append(error)
                self._connection.close()

    def served(self, more: int = 5) -> None:
        """Waits for that many further answers."""
        want = len(self.answers) + more
        eventually(lambda: len(self.answers) >= want or len(self.errors) > 1000, "the agent to be served")

    def stop(self) -> None:
        self.enough.set()
        self.join(20)

"""Ensures that a process that was killed can be started again at once, and that no acknowledged request was lost.

Its admin socket and its connections in TIME_WAIT are still there; the new process replaces the one and does not mind the
others. Every POST that an agent saw acknowledged is at the backend and none of them twice; its line is in the log, save
for those of the last moment, which were still being gathered.
"""

from __future__ import annotations

import http.client
import threading
from typing import TYPE_CHECKING

import pytest

from tests.support.eventually import eventually
from tests.support.processes import ask

if TYPE_CHECKING:
    from tests.support.backend import Backend
    from tests.support.processes import Site


@pytest.mark.threat(54)
def test_threat_54_kill_and_restart_lose_no_acknowledged_request(site: Site, backend: Backend) -> None:
    planner, tools = site.pair(backend)
    acknowledged: list[str] = []
    enough = threading.Event()

    def post(worker: int) -> None:
        count = 0
        connection = site.agent(planner)
        while not enough.is_set():
            count += 1
            path = f"/{worker}/{count}"
            try:
                if ask(connection, "POST", path, body=b"x").status == 200:
                    acknowledged.append(path)
            except (OSError, http.client.HTTPException):
                connection.close()

    workers = [threading.Thread(target=post, args=(n,), daemon=True) for n in range(4)]
    for worker in workers:
        worker.start()
    for sidecar in (tools, planner):
        served = len(acknowledged)
        eventually(lambda served=served: len(acknowledged) > served + 20, "the agents to be served")  # type: ignore[misc]
        sidecar.kill()
        assert sidecar.socket.exists()
        sidecar.start()
    served = len(acknowledged)
    eventually(lambda: len(acknowledged) > served + 20, "the agents to be served again")
    enough.set()
    for worker in workers:
        worker.join(20)
    arrived = [request.path for request in backend.requests]
    assert set(acknowledged) <= set(arrived)
    assert len(set(arrived)) == len(arrived), "no POST may be sent twice"
    assert len([line for line in tools.log() if line["event"] == "start"]) == 2

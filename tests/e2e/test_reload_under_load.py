"""Ensures that reloads cost no request: while twenty of them happen, every request of eight agents is answered 200.

The reloads are not empty: rules come and go, and the certificate of either side is renewed, so that the outbound side
gets new pools while requests are in flight.
"""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING

import pytest

from tests.support.eventually import eventually
from tests.support.processes import PLANNER, ask

if TYPE_CHECKING:
    from tests.support.backend import Backend
    from tests.support.processes import Sidecar, Site

RELOADS = 20
AGENTS = 8


class Agent(threading.Thread):
    """Asks again and again on one connection until it is told to stop."""

    def __init__(self, site: Site, planner: Sidecar, number: int) -> None:
        super().__init__(daemon=True)
        self.connection = site.agent(planner)
        self.number = number
        self.answers: list[int | str] = []
        self.enough = threading.Event()

    def run(self) -> None:
        count = 0
        while not self.enough.is_set():
            count += 1
            try:
                method, body = ("POST", b"x" * 3000) if count % 2 else ("GET", None)
                answer = ask(self.connection, method, f"/{self.number}/{count}", body=body)
                self.answers.append(answer.status)
            except Exception as error:  # noqa: BLE001 - whatever it is, the test says it
                self.answers.append(repr(error))
                return


@pytest.mark.threat(24, 54)
def test_threat_24_no_request_is_lost_while_reloads_happen(site: Site, backend: Backend) -> None:
    planner, tools = site.pair(backend)
    agents = [Agent(site, planner, number) for number in range(AGENTS)]
    for agent in agents:
        agent.start()
    eventually(lambda: all(len(agent.answers) > 3 for agent in agents), "every agent to be served")
    for number in range(RELOADS):
        rules = [{"caller": PLANNER}] + [{"caller": f"spiffe://example.org/agent/n{number}/*"}] * (number % 2)
        tools.config["inbound"][0]["allow"] = rules
        if number % 4 == 1:
            site.identity("tools")
        if number % 4 == 3:
            site.identity("planner")
        for sidecar in (tools, planner):
            sidecar.reload()
    for agent in agents:
        agent.enough.set()
    for agent in agents:
        agent.join(20)
    answers = [answer for agent in agents for answer in agent.answers]
    assert set(answers) == {200}
    assert len(answers) == len(backend.requests)
    assert (tools.reloads("ok"), planner.reloads("ok"), tools.reloads("failed")) == (RELOADS, RELOADS, 0)
    lines = planner.await_log(len(answers), event="request")
    assert {line["http.status"] for line in lines} == {200}

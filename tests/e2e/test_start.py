"""Ensures that a pair of processes becomes ready and carries a request from the agent to the server behind the peer."""

from __future__ import annotations

from typing import TYPE_CHECKING

from tests.support.processes import PLANNER, TOOLS, ask

if TYPE_CHECKING:
    from tests.support.processes import Pair


def test_a_request_goes_all_the_way(shared: Pair) -> None:
    answer = ask(shared.site.agent(shared.planner), "GET", "/start?q=1", headers={"Host": "tools.internal"})
    assert (answer.status, answer.body) == (200, b"hello\n")
    (request,) = shared.backend.of("/start")
    assert request.line == "GET /start?q=1 HTTP/1.1"
    assert request.fields("host") == ["tools.internal"]
    assert request.fields("x-sidecar-caller") == [PLANNER]
    (xfcc,) = request.fields("x-forwarded-client-cert")
    assert f"By={TOOLS};" in xfcc
    assert xfcc.endswith(f";URI={PLANNER}")


def test_ready_says_so_and_names_its_identity(shared: Pair) -> None:
    assert shared.tools.ask("/ready").json == {"ready": True}
    (certificate,) = shared.tools.ask("/certs").json["certs"]
    assert certificate["identity"] == TOOLS
    assert certificate["key_protection"] == "software"
    assert f"identity={TOOLS}" in shared.tools.stderr

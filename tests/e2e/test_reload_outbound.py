"""Ensures that an outbound entry gets new connections when what they depend on has changed, and keeps them when not.

Renewed pools dial again under the new identity, peer or pins; a pin or a peer that no longer fits refuses the next request
although the connection that was open before had been proven by the old rule.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tests.support.processes import TOOLS, Pending, ask, outbound

if TYPE_CHECKING:
    from tests.support.backend import Backend
    from tests.support.processes import Site

WRONG_PIN = "sha256:AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA="


@pytest.mark.threat(11, 13, 27)
def test_threat_13_a_changed_pin_or_peer_counts_for_the_next_request(site: Site, backend: Backend) -> None:
    planner, tools = site.pair(backend)
    pin = str(site.identity("tools").pin)  # the key stays, so this is the pin of what runs
    entry = planner.config["outbound"][0]
    agent = site.agent(planner)

    def status(path: str) -> int:
        return ask(agent, "GET", path).status

    def handshakes() -> float:
        return planner.metric("handshakes_total", role="client", result="ok")

    assert status("/1") == 200
    assert handshakes() == 1
    planner.config["drain_timeout"] = "20s"  # no concern of the pool's
    planner.reload()
    assert status("/2") == 200
    assert handshakes() == 1, "an unchanged entry keeps its connections"
    entry["pins"] = [WRONG_PIN]
    planner.reload()
    assert status("/wrong-pin") == 502
    (line,) = planner.await_log(http_path="/wrong-pin")
    assert line["error"] == "peer_pin_mismatch"
    entry["pins"] = [WRONG_PIN, pin]
    planner.reload()
    assert status("/3") == 200
    assert handshakes() == 2
    entry["peer"] = "spiffe://example.org/agent/somebody/1"
    planner.reload()
    assert status("/wrong-peer") == 502
    (line,) = planner.await_log(http_path="/wrong-peer")
    assert line["error"] == "peer_name_mismatch"
    entry["peer"] = TOOLS
    site.identity("planner")
    planner.reload()
    assert status("/4") == 200
    assert handshakes() == 3, "our own new certificate is used from now on"
    assert [request.path for request in backend.requests] == ["/1", "/2", "/3", "/4"]
    serials = {line["cert.serial"] for line in tools.await_log(4, event="request", http_status=200)}
    assert len(serials) == 2


def test_a_request_in_flight_is_finished_by_the_old_upstream(site: Site, backend: Backend) -> None:
    """A changed ``connect`` moves the next request; what is on its way stays where it is."""
    planner, _ = site.pair(backend)
    elsewhere = site.backend()
    moved = site.sidecar(
        "moved", **site.tools(elsewhere).config | {"admin": {"listen": f"unix:{site.path('moved.sock')}"}}
    )
    moved.config["access_log"] = "moved.log"
    moved.start()
    first, second = site.agent(planner), site.agent(planner)
    pending = Pending(first, "GET", "/hold/1")
    backend.await_held()
    planner.config["outbound"][0]["connect"] = f"127.0.0.1:{moved.port()}"
    planner.reload()
    assert ask(second, "GET", "/2").status == 200
    backend.release()
    assert pending.answer().status == 200
    assert ask(first, "GET", "/3").status == 200
    assert [request.path for request in backend.requests] == ["/hold/1"]
    assert [request.path for request in elsewhere.requests] == ["/2", "/3"]


def test_an_added_entry_serves_beside_the_old_one(site: Site, backend: Backend) -> None:
    planner, tools = site.pair(backend)
    planner.config["outbound"].append(outbound("second", tools.port()))
    planner.reload()
    for entry in (0, 1):
        planner.config["outbound"].sort(key=lambda each: each["name"], reverse=entry == 0)
        assert ask(site.agent(planner), "GET", f"/{entry}").status == 200
    assert {line["listener"] for line in planner.await_log(2, event="request")} == {"tools", "second"}

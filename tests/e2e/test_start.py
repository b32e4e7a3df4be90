"""Ensures that a pair of processes becomes ready and carries a request from the agent to the server behind the peer."""

from __future__ import annotations

import signal
import socket
from typing import TYPE_CHECKING

import pytest

from tests.support.processes import PLANNER, TOOLS, ask, listens
from tests.support.workers import children

if TYPE_CHECKING:
    from tests.support.backend import Backend
    from tests.support.processes import Pair, Site


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


@pytest.mark.parametrize("workers", [1, 2])
def test_what_is_told_to_end_while_it_starts_ends_in_order(site: Site, backend: Backend, workers: int) -> None:
    """Here it waits for the service with its key. SIGHUP, on the other hand, is no reason to end."""
    with socket.socket(socket.AF_UNIX) as service:
        service.bind(str(site.path("signer.sock")))
        service.listen()
        service.settimeout(20)
        tools = site.tools(backend, workers=workers, limits={"sign_timeout": "20s"})
        tools.config["identity"]["key"] = "signer:unix:signer.sock"
        tools.launch()
        with service.accept()[0]:
            tools.signal(signal.SIGHUP)
            tools.signal(signal.SIGTERM)
            assert tools.exit_code() == 0
    assert "told to end before it was ready" in tools.stderr
    assert "Traceback" not in tools.stderr
    assert children(tools.running.pid) == {}
    assert not tools.socket.exists()
    assert not listens(tools.port())

"""Node.js' fetch as the agent, told nothing but the proxy variables.

It sends CONNECT even for an http URL, and then speaks HTTP/1.1 inside, to whom it believes to be the server itself.
"""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from tests.support.eventually import eventually
from tests.support.oauth_server import NODE
from tests.support.processes import LOOPBACK, PLANNER

if TYPE_CHECKING:
    from tests.support.processes import Pair

pytestmark = pytest.mark.needs("oauth-server")

PROGRAM = Path(__file__).parents[1] / "support/node_fetch.mjs"
URL = "http://tools.internal"


def environment(pair: Pair) -> dict[str, str]:
    proxy = f"http://{LOOPBACK}:{pair.planner.port('outbound')}"
    told = {"HTTP_PROXY": proxy, "HTTPS_PROXY": proxy, "NO_PROXY": "localhost,127.0.0.1,::1", "NODE_USE_ENV_PROXY": "1"}
    return {name: value for name, value in os.environ.items() if not name.lower().endswith("_proxy")} | told


def start(pair: Pair, *words: str) -> subprocess.Popen[str]:
    command = [str(NODE), str(PROGRAM), *words]
    return subprocess.Popen(
        command, env=environment(pair), stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
    )


def fetch(pair: Pair, *words: str) -> dict[str, Any]:
    done, _ = start(pair, *words).communicate(timeout=30)
    found: dict[str, Any] = json.loads(done)
    return found


def test_a_request_and_its_line(shared: Pair) -> None:
    assert fetch(shared, "GET", f"{URL}/node?q=1", "0") == {"status": 200, "text": "hello\n"}
    (seen,) = shared.backend.of("/node")
    assert seen.fields("host") == ["tools.internal"]
    assert seen.fields("x-sidecar-caller") == [PLANNER]
    # Each request inside has a line of its own, as has the CONNECT.
    (line,) = shared.planner.await_log(http_path="/node")
    assert (line["http.method"], line["http.status"], line["decision.rule"]) == ("GET", 200, "outbound.tools")
    assert shared.planner.await_log(http_method="CONNECT", http_status=200)


def test_a_body(shared: Pair) -> None:
    sunk = fetch(shared, "POST", f"{URL}/sink", "1000000")
    assert sunk["status"] == 200
    assert json.loads(sunk["text"])["sha256"] == hashlib.sha256(b"x" * 1_000_000).hexdigest()


def test_server_sent_events(shared: Pair) -> None:
    before = shared.backend.streams
    program = start(shared, "stream", f"{URL}/events")
    eventually(lambda: shared.backend.streams > before, "the stream")
    shared.backend.emit("first")
    done, _ = program.communicate(timeout=30)
    assert json.loads(done) == {"status": 200, "text": "data: first\n\n"}


def test_a_host_that_nobody_named(shared: Pair) -> None:
    """The CONNECT itself is refused, so fetch fails: nothing was asked of anybody."""
    assert "error" in fetch(shared, "GET", "http://elsewhere.internal/", "0")
    assert shared.planner.await_log(http_method="CONNECT", decision_reason="host_not_served")


def test_an_https_url_is_told_to_be_the_wrong_one(shared: Pair) -> None:
    """The agent would begin TLS itself, and there is nobody but the sidecar who may."""
    assert "error" in fetch(shared, "GET", "https://tools.internal/node-tls", "0")
    eventually(lambda: "agent_tls" in shared.planner.stderr, "a word about it")
    assert "http://tools.internal" in shared.planner.stderr
    assert not shared.backend.of("/node-tls")

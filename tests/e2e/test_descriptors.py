"""Ensures that a process without a free file descriptor goes on with what is open, changes nothing, and recovers by itself.

Newcomers wait in the kernel's queue; they are neither refused nor thrown out. A reload in that state is refused as a whole.
"""

from __future__ import annotations

import resource
import signal
import socket
from typing import TYPE_CHECKING

import pytest

from tests.support.backend import LOOPBACK
from tests.support.eventually import eventually
from tests.support.ports import free_port
from tests.support.processes import ask
from tests.support.resources import descriptors

if TYPE_CHECKING:
    from tests.support.backend import Backend
    from tests.support.processes import Sidecar, Site

pytestmark = pytest.mark.skipif(not hasattr(resource, "prlimit"), reason="needs prlimit(2) (Linux)")

FLOOD = 60
#: Fewer than may be open at once: for one more, the oldest would be closed.
ADMIN_FLOOD = 40


def leave(sidecar: Sidecar, spare: int) -> int:
    """Leaves the process that many descriptors more than it has; returns its limit."""
    limit = max(descriptors(sidecar)) + 1 + spare
    _, hard = resource.prlimit(sidecar.running.pid, resource.RLIMIT_NOFILE)
    resource.prlimit(sidecar.running.pid, resource.RLIMIT_NOFILE, (limit, hard))
    return limit


@pytest.mark.needs("root")
@pytest.mark.threat(51)
@pytest.mark.parametrize("loop", ["uvloop", "asyncio"])
def test_threat_51_without_descriptors_newcomers_wait_and_the_others_are_served(
    site: Site, backend: Backend, loop: str
) -> None:
    tools = site.tools(backend, limits={"handshake_timeout": "5m"}).start("--loop", loop)
    kept = site.caller(tools.port())
    assert ask(kept, "GET", "/before").status == 200
    soft, hard = resource.prlimit(tools.running.pid, resource.RLIMIT_NOFILE)
    limit = leave(tools, 10)
    flood = [socket.create_connection((LOOPBACK, tools.port())) for _ in range(FLOOD)]
    tools.await_stderr("cannot accept: newcomers wait, what is open goes on")
    assert ask(kept, "GET", "/meanwhile").status == 200
    # What was open a moment ago, such as ours to the admin socket, leaves a descriptor until the next try to accept.
    eventually(lambda: len(descriptors(tools)) == limit, "the last descriptor to be taken")
    tools.signal(signal.SIGHUP)
    tools.await_stderr("reload refused, the old configuration serves on")
    assert "too many open files" in tools.stderr
    assert ask(kept, "GET", "/still").status == 200

    for sock in flood:
        sock.close()
    newcomer = site.caller(tools.port())
    assert ask(newcomer, "GET", "/after").status == 200
    tools.await_stderr("accepts again")
    resource.prlimit(tools.running.pid, resource.RLIMIT_NOFILE, (soft, hard))
    eventually(lambda: tools.ready, "the admin socket to answer")
    assert tools.metric("accept_errors_total", error="EMFILE") > 0
    assert tools.stderr.count("cannot accept") < 5
    assert "Traceback" not in tools.stderr
    tools.reload()
    assert ask(newcomer, "GET", "/reloaded").status == 200


@pytest.mark.threat(51)
def test_threat_51_a_request_that_finds_no_descriptor_for_its_upstream_is_told_so(site: Site, backend: Backend) -> None:
    tools = site.tools(backend).start()
    kept = site.caller(tools.port())
    kept.connect()
    tools.await_stderr("listening")
    eventually(lambda: tools.metric("connections") == 1, "the connection to be open")
    limit = resource.prlimit(tools.running.pid, resource.RLIMIT_NOFILE)
    eventually(lambda: tools.ready, "the last look to be over")
    resource.prlimit(tools.running.pid, resource.RLIMIT_NOFILE, (3, limit[1]))  # all of these are taken
    answer = ask(kept, "GET", "/none")
    assert (answer.status, answer.json["error"]) == (503, "out_of_resources")
    assert not backend.of("/none")
    resource.prlimit(tools.running.pid, resource.RLIMIT_NOFILE, limit)
    assert ask(kept, "GET", "/some").status == 200
    assert "Too many open files" in tools.stderr
    assert tools.await_log(error="out_of_resources")[0]["http.status"] == 503


@pytest.mark.needs("root")
@pytest.mark.threat(51)
@pytest.mark.parametrize("loop", ["uvloop", "asyncio"])
@pytest.mark.parametrize("door", ["admin", "health"])
def test_threat_51_the_admin_and_health_listeners_let_newcomers_wait_too(
    site: Site, backend: Backend, loop: str, door: str
) -> None:
    health = f"{LOOPBACK}:{free_port()}"
    tools = site.tools(backend, health={"listen": health}).start("--loop", loop)
    kept = site.caller(tools.port())
    assert ask(kept, "GET", "/before").status == 200
    soft, hard = resource.prlimit(tools.running.pid, resource.RLIMIT_NOFILE)
    leave(tools, 2)
    flood = [at_door(tools, door, health) for _ in range(ADMIN_FLOOD)]
    where = health if door == "health" else f"unix:{tools.socket}"
    tools.await_stderr(f"cannot accept: newcomers wait, what is open goes on address={where} error=EMFILE")
    assert ask(kept, "GET", "/meanwhile").status == 200

    for sock in flood:
        sock.close()
    tools.await_stderr(f"accepts again address={where}")
    resource.prlimit(tools.running.pid, resource.RLIMIT_NOFILE, (soft, hard))
    eventually(lambda: tools.ready, "the admin socket to answer")
    assert ask(site.at(health), "GET", "/live").status == 200
    # A loop that spins tries thousands of times in a second.
    assert 0 < tools.metric("accept_errors_total", error="EMFILE") < 200
    assert tools.metric("internal_errors_total") == 0


def at_door(tools: Sidecar, door: str, health: str) -> socket.socket:
    if door == "health":
        host, _, port = health.rpartition(":")
        return socket.create_connection((host, int(port)))
    sock = socket.socket(socket.AF_UNIX)
    sock.connect(str(tools.socket))
    return sock

"""Ensures that SIGTERM ends a process without losing what was begun.

In this order: `/ready` says 503 and inbound stops accepting; idle connections close; outbound goes on accepting until no
inbound request is in flight, because the agent needs it to finish; answers carry ``connection: close``; exit code 0.
"""

from __future__ import annotations

import itertools
import signal
import ssl
import threading
from typing import TYPE_CHECKING

import pytest

from tests.support.eventually import eventually
from tests.support.processes import LOOPBACK, PLANNER, TOOLS, Pending, ask, free_port, inbound, listens

if TYPE_CHECKING:
    import http.client

    from tests.support.backend import Backend
    from tests.support.processes import Site

#: Requests in flight when the signal comes.
MANY = 24
CUT = (ConnectionError, ssl.SSLError)


@pytest.mark.threat(54)
def test_threat_54_requests_in_flight_are_finished(site: Site, backend: Backend) -> None:
    health = {"listen": f"{LOOPBACK}:{free_port()}"}
    tools = site.tools(backend, health=health).start()
    idle = site.caller(tools.port())
    assert ask(idle, "GET", "/idle").status == 200
    pending = [Pending(site.caller(tools.port()), "POST", f"/hold/{n}", body=b"x" * 1000) for n in range(MANY)]
    backend.await_held(MANY)
    tools.signal(signal.SIGTERM)
    eventually(lambda: not listens(tools.port()), "inbound to stop accepting")
    assert idle.sock is not None
    assert idle.sock.recv(1) == b"", "idle connections close at once"
    for answer in (tools.ask("/ready"), ask(site.at(health["listen"]), "GET", "/ready")):
        assert (answer.status, answer.json) == (503, {"ready": False, "reason": "draining"})
    assert ask(site.at(health["listen"]), "GET", "/live").status == 200
    assert tools.running.poll() is None
    backend.release()
    answers = [each.answer() for each in pending]
    assert {(answer.status, answer.fields["connection"]) for answer in answers} == {(200, "close")}
    assert tools.exit_code() == 0
    assert [line["event"] for line in tools.log()][-1] == "stop"
    assert len(tools.log(event="request", http_status=200)) == MANY + 1
    assert not tools.socket.exists()
    assert "Traceback" not in tools.stderr


@pytest.mark.threat(54)
def test_threat_54_under_load_whatever_was_forwarded_is_answered(site: Site, backend: Backend) -> None:
    """Callers that never pause: each ends with an answer that says ``connection: close``, or between two requests.

    What arrived at the server and what the callers saw acknowledged is the same, request by request.
    """
    tools = site.tools(backend).start()
    acknowledged: list[str] = []
    odd: list[object] = []

    def call(number: int, connection: http.client.HTTPConnection) -> None:
        try:
            for count in itertools.count():
                answer = ask(connection, "POST", f"/{number}/{count}", body=b"x" * 2000)
                acknowledged.append(f"/{number}/{count}")
                if answer.status != 200:
                    odd.append(answer)
                if answer.fields["connection"] == "close":
                    return
        except CUT:
            return  # between two requests; that it was not inside one is what the comparison below says
        except Exception as error:  # noqa: BLE001 - such as half an answer
            odd.append(error)

    callers = [threading.Thread(target=call, args=(n, site.caller(tools.port())), daemon=True) for n in range(8)]
    for caller in callers:
        caller.start()
    eventually(lambda: len(acknowledged) > 100, "the callers to be served")
    tools.signal(signal.SIGTERM)
    assert tools.exit_code() == 0
    for caller in callers:
        caller.join(20)
    assert odd == []
    assert sorted(acknowledged) == sorted(request.path for request in backend.requests)
    assert len(tools.log(event="request", http_status=200)) == len(acknowledged)


def test_outbound_serves_until_inbound_is_finished(site: Site, backend: Backend) -> None:
    """The planner is called itself, and needs the tools to answer: on old connections and on new ones."""
    tools = site.tools(backend).start()
    planner = site.planner(tools, inbound=[inbound("front", backend.port, [{"caller": TOOLS}])]).start()
    agent = site.agent(planner)
    assert ask(agent, "GET", "/before").status == 200
    pending = Pending(site.caller(planner.port(), "tools"), "GET", "/hold")
    backend.await_held()
    planner.signal(signal.SIGTERM)
    eventually(lambda: not listens(planner.port()), "inbound to stop accepting")
    assert ask(agent, "GET", "/old-connection").status == 200
    assert ask(site.agent(planner), "POST", "/new-connection", body=b"x").status == 200
    assert listens(planner.port("outbound"))
    backend.release()
    answer = pending.answer()
    assert (answer.status, answer.fields["connection"]) == (200, "close")
    assert planner.exit_code() == 0
    assert not listens(planner.port("outbound"))


def test_a_request_of_the_agent_is_finished_too(site: Site, backend: Backend) -> None:
    """Outbound alone: its listener closes at once, what is in flight is answered, the rest of the pair serves on."""
    planner, tools = site.pair(backend)
    pending = Pending(site.agent(planner), "GET", "/hold")
    backend.await_held()
    planner.signal(signal.SIGTERM)
    eventually(lambda: not listens(planner.port("outbound")), "outbound to stop accepting")
    backend.release()
    answer = pending.answer()
    assert (answer.status, answer.fields["connection"]) == (200, "close")
    assert planner.exit_code() == 0
    assert tools.ready


def test_a_new_request_during_the_drain_is_refused_and_not_forwarded(site: Site, backend: Backend) -> None:
    """A caller that pipelines behind the request that is in flight is told ``connection: close`` and gets no second answer."""
    tools = site.tools(backend).start()
    caller = site.caller(tools.port())
    caller.connect()
    caller.sock.sendall(b"GET /hold HTTP/1.1\r\nHost: a\r\n\r\n")
    backend.await_held()
    tools.signal(signal.SIGTERM)
    eventually(lambda: not listens(tools.port()), "the drain to have begun")
    caller.sock.sendall(b"GET /second HTTP/1.1\r\nHost: a\r\n\r\n")
    backend.release()
    received = b""
    while data := caller.sock.recv(65536):
        received += data
    assert received.count(b"HTTP/1.1 ") == 1
    assert b"\r\nConnection: close\r\n" in received
    assert [request.path for request in backend.requests] == ["/hold"]
    assert tools.exit_code() == 0


@pytest.mark.threat(54)
def test_threat_54_drain_timeout_cuts_what_does_not_end(site: Site, backend: Backend) -> None:
    tools = site.tools(backend, drain_timeout="300ms").start()
    pending = Pending(site.caller(tools.port()), "GET", "/hold")
    backend.await_held()
    tools.signal(signal.SIGTERM)
    assert tools.exit_code() == 0
    assert "drain_timeout is over: what was still in flight is cut" in tools.stderr
    with pytest.raises(CUT):
        pending.answer()
    (line,) = tools.log(event="request")
    assert line["http.path"] == "/hold"
    assert "error" in line


@pytest.mark.threat(54)
def test_threat_54_sighup_during_a_drain_is_ignored_and_a_second_sigterm_ends_at_once(
    site: Site, backend: Backend
) -> None:
    tools = site.tools(backend).start()
    pending = Pending(site.caller(tools.port()), "GET", "/hold")
    backend.await_held()
    tools.signal(signal.SIGTERM)
    tools.await_log(event="drain")
    tools.config["inbound"][0]["allow"] = [{"caller": "spiffe://example.org/agent/other/1"}]
    tools.write()
    tools.signal(signal.SIGHUP)
    tools.await_stderr("a reload during a drain is ignored cause=SIGHUP")
    assert (tools.reloads("ok"), tools.reloads("failed")) == (0, 0)
    assert tools.running.poll() is None
    tools.signal(signal.SIGTERM)
    assert tools.exit_code() == 1
    assert "asked again: ending at once" in tools.stderr
    assert tools.log()[-1]["event"] == "stop"
    with pytest.raises(CUT):
        pending.answer()


def test_the_admin_socket_can_ask_for_it(site: Site, backend: Backend) -> None:
    tools = site.tools(backend).start()
    assert tools.ask("/drain").status == 405
    pending = Pending(site.caller(tools.port()), "GET", "/hold")
    backend.await_held()
    answer = tools.ask("/drain", "POST")
    assert (answer.status, answer.json) == (202, {"draining": True})
    assert tools.ask("/drain", "POST").status == 202
    eventually(lambda: tools.ask("/ready").status == 503, "not to be ready any more")
    backend.release()
    assert pending.answer().status == 200
    assert tools.exit_code() == 0


def test_an_interrupt_from_the_keyboard_drains_as_well(site: Site, backend: Backend) -> None:
    tools = site.tools(backend).start()
    pending = Pending(site.caller(tools.port()), "GET", "/hold")
    backend.await_held()
    tools.signal(signal.SIGINT)
    tools.await_log(event="drain")
    backend.release()
    assert pending.answer().status == 200
    assert tools.exit_code() == 0
    assert "Traceback" not in tools.stderr
    assert tools.log(event="request")[0]["src.identity"] == PLANNER

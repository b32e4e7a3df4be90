"""Envoy as caller and as peer: another proxy, another TLS stack (BoringSSL), with its own check of the SPIFFE ID.

Envoy ==mutual TLS==> sidecar (inbound) --> backend
agent --> sidecar (outbound) ==mutual TLS==> Envoy --> backend
"""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING

import pytest

from tests.support import envoy
from tests.support.processes import LOOPBACK, PLANNER, TOOLS, Pending, ask, free_port

if TYPE_CHECKING:
    from tests.support.backend import Backend
    from tests.support.processes import Sidecar, Site

pytestmark = pytest.mark.needs("envoy")

STRANGER = "spiffe://example.org/agent/stranger/1"
LARGE = bytes(range(256)) * 16 * 1024


# -- Envoy calls us


@pytest.fixture
def called(site: Site, backend: Backend) -> Sidecar:
    for name in ("planner", "stranger"):
        site.identity(name)
    return site.tools(backend).start()


def test_envoy_calls_us(site: Site, backend: Backend, called: Sidecar) -> None:
    port = envoy.calls(site, "planner", called.port(), peer=TOOLS)
    agent = site.at(f"{LOOPBACK}:{port}")
    for number in range(20):
        assert ask(agent, "GET", f"/envoy/{number}").body == b"hello\n"
    sunk = ask(agent, "POST", "/sink", body=LARGE)
    assert sunk.json == {"size": len(LARGE), "sha256": hashlib.sha256(LARGE).hexdigest()}
    assert len(ask(agent, "GET", "/bytes/3000000").body) == 3_000_000
    (seen,) = backend.of("/envoy/0")
    assert seen.fields("x-sidecar-caller") == [PLANNER]
    # Envoy writes headers of its own; what it says of itself and of its client does not reach the agent.
    assert not [name for name in ("x-forwarded-proto", "x-forwarded-for", "forwarded", "via") if seen.fields(name)]
    assert {line["src.identity"] for line in called.await_log(22, http_status=200)} == {PLANNER}


def test_an_envoy_that_nobody_named_is_denied(site: Site, backend: Backend, called: Sidecar) -> None:
    port = envoy.calls(site, "stranger", called.port(), peer=TOOLS)
    denied = ask(site.at(f"{LOOPBACK}:{port}"), "GET", "/denied")
    assert denied.status == 403
    assert denied.json["error"] == "denied"
    (line,) = called.await_log(decision_id=denied.json["decision_id"])
    assert (line["src.identity"], line["decision.reason"]) == (STRANGER, "caller_not_named")
    assert not backend.of("/denied")


def test_an_envoy_that_wants_somebody_else_does_not_speak_to_us(site: Site, backend: Backend, called: Sidecar) -> None:
    """Its own check of the URI name, not ours: our certificate is as it expects one, and names whom it names."""
    port = envoy.calls(site, "planner", called.port(), peer=STRANGER)
    assert ask(site.at(f"{LOOPBACK}:{port}"), "GET", "/elsewhere").status == 503
    assert called.await_log(event="refused")
    assert not backend.of("/elsewhere")


def test_events_arrive_as_they_are_sent(site: Site, backend: Backend, called: Sidecar) -> None:
    port = envoy.calls(site, "planner", called.port(), peer=TOOLS)
    agent = site.at(f"{LOOPBACK}:{port}")
    agent.request("GET", "/events")
    response = agent.getresponse()
    for number in range(3):
        backend.emit(f"event {number}")
        assert response.readline() == f"data: event {number}\n".encode()
        assert response.readline() == b"\n"


# -- we call Envoy


def calling(site: Site, backend: Backend, *, name: str = "tools", caller: str = PLANNER) -> Sidecar:
    """Our sidecar in front of an Envoy of that name, which lets that one caller through."""
    site.identity(name)
    port = free_port()
    envoy.serves(site, name, backend.port, caller=caller, port=port)
    return site.planner(port).start()


def test_we_call_envoy(site: Site, backend: Backend) -> None:
    planner = calling(site, backend)
    agent = site.agent(planner)
    headers = {"Host": "tools.internal"}
    for number in range(20):
        assert ask(agent, "GET", f"/envoy/{number}", headers=headers).body == b"hello\n"
    sunk = ask(agent, "POST", "/sink", body=LARGE, headers=headers)
    assert sunk.json == {"size": len(LARGE), "sha256": hashlib.sha256(LARGE).hexdigest()}
    (seen,) = backend.of("/envoy/0")
    (client,) = seen.fields("x-forwarded-client-cert")
    assert f"URI={PLANNER}" in client  # whom Envoy has verified
    assert {line["dst.identity"] for line in planner.await_log(21, http_status=200)} == {TOOLS}


def test_an_envoy_that_wants_somebody_else_refuses_us(site: Site, backend: Backend) -> None:
    planner = calling(site, backend, caller=STRANGER)
    refused = ask(site.agent(planner), "GET", "/refused", headers={"Host": "tools.internal"})
    assert refused.status == 502
    assert not backend.of("/refused")


def test_an_envoy_that_is_somebody_else_gets_nothing(site: Site, backend: Backend) -> None:
    """Chain and host are good; the SPIFFE ID is not the one that the entry names."""
    planner = calling(site, backend, name="stranger")
    refused = ask(site.agent(planner), "GET", "/stranger", headers={"Host": "tools.internal"})
    assert (refused.status, refused.json["error"]) == (502, "upstream_tls")
    (line,) = planner.await_log(http_path="/stranger")
    assert line["error"] == "peer_name_mismatch"
    assert not backend.of("/stranger")


def test_an_answer_that_is_awaited_comes_through(site: Site, backend: Backend) -> None:
    planner = calling(site, backend)
    pending = Pending(site.agent(planner), "GET", "/hold/envoy", headers={"Host": "tools.internal"})
    backend.await_held()
    backend.release()
    assert pending.answer().body == b"hello\n"

"""Ensures that two sidecars with both keys in TPMs speak mutual TLS, and say everywhere how their keys are protected."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from cryptography.hazmat.primitives.asymmetric import ec

from tests.support.eventually import eventually
from tests.support.keyed import key_in_tpm
from tests.support.processes import ask
from tests.support.swtpm import HANDLE, SIGN, SlowRelay, Swtpm

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.support.backend import Backend
    from tests.support.processes import Sidecar, Site

pytestmark = pytest.mark.needs("swtpm", "tpm2-pytss")


@pytest.fixture
def tpm() -> Iterator[Swtpm]:
    with Swtpm() as made:
        yield made


@pytest.fixture
def relay(tpm: Swtpm) -> Iterator[SlowRelay]:
    with SlowRelay(tpm) as made:
        yield made


def test_both_keys_in_a_tpm(site: Site, backend: Backend, tpm: Swtpm) -> None:
    tools = site.tools(backend)
    planner = site.planner(tools)
    for each in (tools, planner):
        key_in_tpm(site, each, tpm)
        each.start()
    assert ask(site.agent(planner), "GET", "/hello").status == 200
    for each in (planner, tools):
        (line,) = each.await_log(event="request", http_path="/hello")
        assert line["key.protection"] == "tpm"
        assert each.ask("/certs").json["certs"][0]["key_protection"] == "tpm"
        assert "protection=tpm" in each.stderr
        assert each.metric("sign_duration_seconds_count", protection="tpm") == 1
    assert len(tpm.transient_handles()) == 2
    assert (planner.stop(), tools.stop()) == (0, 0)
    assert tpm.transient_handles() == tpm.loaded_sessions() == []


@pytest.mark.parametrize("curve", [ec.SECP256R1, ec.SECP384R1])
def test_a_persistent_key_with_a_pin(site: Site, backend: Backend, tpm: Swtpm, curve: type[ec.EllipticCurve]) -> None:
    tools = site.tools(backend)
    key_in_tpm(site, tools, tpm, curve=curve, pin=b"1234", handle=HANDLE)
    tools.start()
    assert ask(site.caller(tools.port()), "GET", "/x").status == 200
    assert tools.stop() == 0
    assert tpm.persistent_handles() == [HANDLE]


def two_connections(site: Site, backend: Backend, tpm: Swtpm, relay: SlowRelay, resumption: str) -> tuple[Sidecar, int]:
    """Sends two requests over two connections; returns the called sidecar and the signatures that the second one cost."""
    tools = site.tools(backend)
    planner = site.planner(tools, resumption=resumption, limits={"upstream_idle_timeout": "100ms"})
    for each in (tools, planner):
        key_in_tpm(site, each, tpm, relay=relay)
        each.start()
    agent = site.agent(planner)
    assert ask(agent, "GET", "/one").status == 200
    before = relay.commands[SIGN]
    assert before == 4  # each its self-test, and one for the handshake
    eventually(lambda: tools.metric("connections", direction="inbound") == 0, "the idle connection to be closed")
    assert ask(agent, "GET", "/two").status == 200
    return tools, relay.commands[SIGN] - before


def test_a_resumed_handshake_costs_no_signature(site: Site, backend: Backend, tpm: Swtpm, relay: SlowRelay) -> None:
    tools, signatures = two_connections(site, backend, tpm, relay, "allow")
    assert tools.metric("handshakes_total", role="server", result="ok", resumed="true") == 1
    assert signatures == 0


def test_resumption_never_costs_two_each_time(site: Site, backend: Backend, tpm: Swtpm, relay: SlowRelay) -> None:
    tools, signatures = two_connections(site, backend, tpm, relay, "never")
    assert tools.metric("handshakes_total", role="server", result="ok", resumed="false") == 2
    assert signatures == 2

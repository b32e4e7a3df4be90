"""Ensures that two sidecars with both keys in a PKCS#11 token speak mutual TLS, and what a token in trouble costs them."""

from __future__ import annotations

from contextlib import suppress
from typing import TYPE_CHECKING, Any

import pytest

from tests.support.eventually import eventually
from tests.support.processes import ask, replace_file

if TYPE_CHECKING:
    import http.client
    from collections.abc import Iterator

    from tests.support.backend import Backend
    from tests.support.processes import Sidecar, Site
    from tests.support.softhsm import SoftHsm

pytestmark = pytest.mark.needs("softhsm", "python-pkcs11")


@pytest.fixture
def hsm() -> Iterator[SoftHsm]:
    from tests.support.softhsm import SoftHsm

    with SoftHsm() as made:
        yield made


@pytest.fixture
def tools(site: Site, backend: Backend, hsm: SoftHsm) -> Sidecar:
    made = site.tools(backend, limits={"sign_timeout": "500ms"})
    keyed(site, made, hsm)
    return made.start()


def keyed(site: Site, sidecar: Sidecar, hsm: SoftHsm) -> None:
    from tests.support.keyed import key_in_token

    key_in_token(site, sidecar, hsm)


def test_both_keys_in_a_token(site: Site, backend: Backend, hsm: SoftHsm) -> None:
    tools = site.tools(backend)
    planner = site.planner(tools)
    for each in (tools, planner):
        keyed(site, each, hsm)
        each.start()
    assert ask(site.agent(planner), "GET", "/hello").status == 200
    for each in (planner, tools):
        (line,) = each.await_log(event="request", http_path="/hello")
        assert line["key.protection"] == "hsm"
        assert each.ask("/certs").json["certs"][0]["key_protection"] == "hsm"
        assert "protection=hsm" in each.stderr
        assert each.metric("sign_duration_seconds_count", protection="hsm") == 1
    assert (planner.stop(), tools.stop()) == (0, 0)


def test_a_resumed_handshake_costs_no_signature(site: Site, backend: Backend, tools: Sidecar, hsm: SoftHsm) -> None:
    planner = site.planner(tools, limits={"upstream_idle_timeout": "100ms"})
    keyed(site, planner, hsm)
    planner.start()
    agent = site.agent(planner)
    assert ask(agent, "GET", "/one").status == 200
    eventually(lambda: tools.metric("connections", direction="inbound") == 0, "the idle connection to be closed")
    assert ask(agent, "GET", "/two").status == 200
    assert tools.metric("handshakes_total", role="server", result="ok", resumed="true") == 1
    for each in (planner, tools):
        assert each.metric("sign_duration_seconds_count", protection="hsm") == 1


# -- while it serves ----------------------------------------------------------------------------------------------------


def refused(site: Site, tools: Sidecar) -> None:
    """Makes a full handshake that fails."""
    with suppress(OSError):  # an alert, a reset or an end: which one is not what is tested
        answer = ask(site.caller(tools.port()), "GET", "/refused")
        pytest.fail(f"answered: {answer.status}")


def reason(tools: Sidecar) -> tuple[int, Any]:
    answer = tools.ask("/ready")
    return answer.status, answer.json.get("reason")


def opened(site: Site, tools: Sidecar) -> http.client.HTTPSConnection:
    connection = site.caller(tools.port())
    assert ask(connection, "GET", "/open").status == 200
    return connection


def test_a_token_that_is_taken_out_and_put_back(site: Site, tools: Sidecar, hsm: SoftHsm) -> None:
    connection = opened(site, tools)
    here, away = hsm.folder / "tokens", hsm.folder / "away"
    here.rename(away)
    here.mkdir(mode=0o700)
    refused(site, tools)
    assert tools.await_log(event="refused", error="signer_unavailable")
    eventually(lambda: reason(tools) == (503, "signer_unavailable"), "/ready to name the trouble")
    assert tools.ask("/live").status == 200
    tools.await_stderr("our key does not sign")
    assert ask(connection, "GET", "/still-open").status == 200
    here.rmdir()
    away.rename(here)
    eventually(lambda: tools.ready, "the sidecar to be ready again")
    assert ask(site.caller(tools.port()), "GET", "/again").status == 200
    tools.await_stderr("our key signs again")
    assert tools.stop() == 0
    assert "Traceback" not in tools.stderr


def test_a_token_that_was_initialised_anew_has_our_key_no_more(site: Site, tools: Sidecar, hsm: SoftHsm) -> None:
    connection = opened(site, tools)
    hsm.delete_token(hsm.token)
    hsm.make_token(hsm.token)
    refused(site, tools)
    eventually(lambda: reason(tools) == (503, "signer_key_gone"), "/ready to name the trouble")
    refused(site, tools)
    assert tools.await_log(event="refused", error="signer_key_gone")
    assert ask(connection, "GET", "/still-open").status == 200
    assert tools.stop() == 0
    assert "Traceback" not in tools.stderr


# -- at the start -------------------------------------------------------------------------------------------------------


def launched(tools: Sidecar) -> tuple[int, str]:
    tools.launch()
    return tools.exit_code(), tools.stderr


def flags(hsm: SoftHsm) -> int:
    (token,) = (slot.get_token() for slot in hsm.module.slots() if slot.get_token().label == hsm.token)
    return token.flags


def test_a_wrong_pin_at_the_start_ends_it(site: Site, backend: Backend, hsm: SoftHsm) -> None:
    """That it is tried once is shown where each call can be counted: tests/unit/keys/pkcs11/test_device.py."""
    from pkcs11.constants import TokenFlag

    tools = site.tools(backend)
    keyed(site, tools, hsm)
    assert not flags(hsm) & TokenFlag.USER_PIN_COUNT_LOW
    replace_file(hsm.pin_file, b"gues5ed-by-5omebody\n")
    code, said = launched(tools)
    assert code == 2  # whoever restarts what failed must not lock the token
    assert "the token refuses the PIN" in said
    assert "gues5ed" not in said
    assert "Traceback" not in said
    assert not tools.socket.exists()
    assert flags(hsm) & TokenFlag.USER_PIN_COUNT_LOW, "the token has seen it"


def test_no_token_at_the_start(site: Site, backend: Backend, hsm: SoftHsm) -> None:
    tools = site.tools(backend)
    keyed(site, tools, hsm)
    hsm.delete_token(hsm.token)
    code, said = launched(tools)
    assert code == 1
    assert "the token of our private key is not there" in said
    assert "Traceback" not in said
    assert not tools.socket.exists()


def test_no_module_at_the_start(site: Site, backend: Backend, hsm: SoftHsm) -> None:
    tools = site.tools(backend)
    keyed(site, tools, hsm)
    hsm.library.unlink()
    code, said = launched(tools)
    assert code == 2
    assert f"{hsm.library}: the PKCS#11 library cannot be" in said
    assert "Traceback" not in said

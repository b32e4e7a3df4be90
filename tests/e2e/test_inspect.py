"""``sidecar inspect`` at a running sidecar: what is shown, what is refused and why, and nothing is ever forwarded."""

from __future__ import annotations

import json
import ssl
from typing import TYPE_CHECKING, Any

import pytest

from tests.support.processes import PLANNER, TOOLS, free_port, replace_file
from tests.support.web import AUTHORITY, STRANGER, Web, https, page, sending
from tests.unit.tls.test_web import old_server

if TYPE_CHECKING:
    from tests.support.backend import Backend
    from tests.support.processes import Pair, Site

pytestmark = pytest.mark.needs("pyopenssl")


def inspected(site: Site, code: int, *arguments: str) -> Any:
    done = site.command("inspect", "--json", *arguments)
    assert done.returncode == code, done.stdout + done.stderr
    return json.loads(done.stdout)


def test_a_peer_as_the_proxy_reaches_it(shared: Pair) -> None:
    site, before = shared.site, len(shared.backend.requests)
    found = inspected(site, 0, "--config", "planner.yaml", "--entry", shared.planner.config["outbound"][0]["name"])
    assert (found["version"], found["alpn"]) == ("TLSv1.3", "http/1.1")
    assert found["chain"][0]["uris"] == [TOOLS]
    assert found["client_certificate"]["asked"]
    assert found["client_certificate"]["without"] == "certificate_required"
    own = found["own_handshake"]
    assert (own["identity"], own["peer"], own["resumed"]) == (PLANNER, TOOLS, True)
    assert (found["accepted"], found["refused"]) == (True, [])
    assert len(shared.backend.requests) == before


def test_without_a_configuration_it_is_shown_and_not_verified(shared: Pair) -> None:
    found = inspected(shared.site, 0, f"127.0.0.1:{shared.tools.port()}")
    assert (found["accepted"], found["refused"]) == (None, None)


def test_a_pin_that_is_wrong_and_a_peer_that_takes_no_stranger(site: Site, backend: Backend) -> None:
    tools = site.tools(backend).start()
    other = "sha256:" + "A" * 43 + "="
    planner = site.planner(tools, {"pins": [other]})
    planner.write()
    found = inspected(site, 1, "--config", "planner.yaml", "--entry", "tools")
    assert [fault["code"] for fault in found["refused"]] == ["peer_pin_mismatch"]
    assert found["own_handshake_failed"]["code"] == "peer_pin_mismatch"
    assert backend.requests == []


def test_a_peer_that_does_not_take_our_certificate(site: Site, backend: Backend) -> None:
    """Ours is of another authority, which its bundle does not hold: what it says to that is shown."""
    from tests.support.ca import Ca
    from tests.support.processes import now

    tools = site.tools(backend).start()
    planner = site.planner(tools)
    stranger = Ca(key="stranger", now=now() - 1000)
    site.identity("planner", ca=stranger)
    site.path("both.crt").write_bytes(site.ca.pem + stranger.pem)
    planner.config["identity"]["trust"]["example.org"] = "both.crt"
    planner.write()
    found = inspected(site, 1, "--config", "planner.yaml", "--entry", "tools")
    assert found["refused"] == []
    assert found["own_handshake_failed"]["code"] == "peer_alert_unknown_ca"
    assert found["accepted"] is False


@pytest.mark.parametrize("good", [True, False])
def test_a_service_of_the_web_is_verified_by_the_systems_roots_and_its_name(site: Site, good: bool) -> None:
    """Its chain is that of the one root there is, or of another authority; it is on this machine, which an entry has to say."""
    replace_file(site.path("roots.pem"), (AUTHORITY if good else STRANGER).pem)
    environ = {"SSL_CERT_FILE": str(site.path("roots.pem")), "SSL_CERT_DIR": str(site.folder)}
    with Web(sending(page(b"hello")), https()) as server:
        entry = {
            "name": "llm",
            "listen": f"127.0.0.1:{free_port()}",
            "connect": f"localhost:{server.port}",
            "tls": "public",
            "unsafe_private_addresses": True,
        }
        planner = site.sidecar("planner", outbound=[entry])
        planner.write()
        done = site.command("inspect", "--json", "--config", "planner.yaml", "--entry", "llm", **environ)
        assert not any(server.requests), "no application data"
    found = json.loads(done.stdout)
    assert done.returncode == (0 if good else 1), done.stdout + done.stderr
    assert found["refused"] == []
    if good:
        own = found["own_handshake"]
        assert (own["identity"], own["peer"], own["resumed"]) == ("a client without a certificate", "localhost", None)
    else:
        assert found["own_handshake_failed"]["code"] == "authority_unknown"


def test_where_the_agent_does_tls_itself_nothing_but_the_address_is_judged(site: Site) -> None:
    """As the proxy does it: whose certificate that is, and which TLS, is between the agent and the service."""
    with Web(sending(page(b"hello")), old_server(ssl.TLSVersion.TLSv1_1)) as server:
        entry = {"name": "llm", "listen": f"127.0.0.1:{free_port()}", "connect": f"localhost:{server.port}"}
        entry |= {"tls": "public", "passthrough": True, "unsafe_private_addresses": True}
        site.sidecar("planner", outbound=[entry]).write()
        done = site.command("inspect", "--config", "planner.yaml", "--entry", "llm")
        assert done.returncode == 0, done.stdout + done.stderr
        assert len(server.versions) == 1, "the proxy makes no handshake of its own"
    assert done.stdout.splitlines()[-2:] == [
        "nothing of it would be refused",
        "it is the agent who does TLS and verifies (passthrough): nothing but the address is looked at here",
    ]

"""Ensures that the agent reaches an ordinary HTTPS service, that only that service gets its requests, and nothing of ours.

The services here are on this machine, so that entries say ``unsafe_private_addresses``, but for the one test in which it is
the point; their authority is the only root that the sidecar's environment names.
"""

from __future__ import annotations

import http.client
import ipaddress
import os
import socket
import ssl
from contextlib import suppress
from typing import TYPE_CHECKING, Any

import pytest

from sidecar.identity.pins import Pin
from tests.support.backend import LOOPBACK
from tests.support.processes import Answer, ask, free_port, replace_file
from tests.support.web import AUTHORITY, NOW, SITE, STRANGER, Web, demanding, https, page, sending
from tests.support.websocket import agreeing, asking
from tests.unit.tls.test_web import old_server

if TYPE_CHECKING:
    from tests.support.processes import Sidecar, Site
    from tests.support.raw import Raw

OK = sending(page(b"hello"))


def service(server: Raw | int, **more: Any) -> dict[str, Any]:
    """An entry for a service on this machine."""
    port = server if isinstance(server, int) else server.port
    return {
        "name": "llm",
        "listen": f"{LOOPBACK}:{free_port()}",
        "connect": f"localhost:{port}",
        "tls": "public",
        "unsafe_private_addresses": True,
    } | more


def planner(site: Site, *entries: dict[str, Any], **parts: Any) -> Sidecar:
    """A sidecar whose entries all lead to services: nobody has to be trusted for that."""
    replace_file(site.path("roots.pem"), AUTHORITY.pem)
    made = site.sidecar("planner", outbound=list(entries), **parts)
    del made.config["identity"]["trust"]
    site.path("none").mkdir(exist_ok=True)
    roots = {"SSL_CERT_FILE": str(site.path("roots.pem")), "SSL_CERT_DIR": str(site.path("none"))}
    nowhere = f"http://{LOOPBACK}:{free_port()}"
    made.environ = roots | dict.fromkeys(("HTTPS_PROXY", "https_proxy", "ALL_PROXY", "HTTP_PROXY"), nowhere)
    return made


def get(site: Site, sidecar: Sidecar, path: str = "/v1/models", method: str = "GET", **fields: str) -> Answer:
    headers = {name.replace("_", "-"): value for name, value in fields.items()}
    return ask(site.agent(sidecar), method, path, headers=headers)


def test_the_agent_speaks_http_and_the_service_gets_https(site: Site) -> None:
    with Web(OK, https()) as server:
        sidecar = planner(site, service(server)).start()
        answer = get(site, sidecar, User_Agent="agent", X_Sidecar_Caller="x", X_Forwarded_For="1.2.3.4")
        assert (answer.status, answer.body) == (200, b"hello")
        (request,) = server.requests
        assert server.shown == [None]
    lines = request.decode().split("\r\n")
    assert lines[0] == "GET /v1/models HTTP/1.1"
    assert [line for line in lines if line.lower().startswith("host:")] == [f"Host: localhost:{server.port}"]
    assert [line for line in lines if line.lower().startswith(("x-", "forwarded", "via"))] == []
    assert sum(line.startswith("traceparent: ") for line in lines) == 1
    (line,) = sidecar.await_log(event="request")
    assert (line["decision"], line["decision.rule"], line["http.status"]) == ("allow", "outbound.llm", 200)
    assert line["dst.addr"].endswith(f":{server.port}")
    assert line["cert.serial"] == f"{SITE.leaf.serial_number:x}"
    assert "dst.identity" not in line


def test_as_a_proxy_it_is_reached_by_its_own_name(site: Site) -> None:
    with Web(OK, https()) as server:
        sidecar = planner(site, service(server)).start()
        agent = site.agent(sidecar)
        assert ask(agent, "GET", f"http://localhost:{server.port}/v1").status == 200
        assert ask(agent, "GET", "http://other.example/v1").status == 403
        assert len(server.requests) == 1


def test_it_has_the_key_and_the_agent_has_not(site: Site) -> None:
    site.path("key").touch(mode=0o600)
    site.path("key").write_text("sk-of-the-service\n")
    tokens = [{"name": "llm-key", "kind": "file", "path": "key"}]
    with Web(OK, https()) as server:
        entry = service(server, token="llm-key", token_header="X-Api-Key", methods=["POST"], paths=["/v1/*"])
        sidecar = planner(site, entry, tokens=tokens).start()
        assert get(site, sidecar, "/v1/messages", "POST", X_Api_Key="of-the-agent").status == 200
        assert get(site, sidecar, "/v1/messages").status == 403
        assert get(site, sidecar, "/v2/messages", "POST").status == 403
        (request,) = server.requests
    assert request.count(b"X-Api-Key: sk-of-the-service\r\n") == 1
    assert b"of-the-agent" not in request
    reasons = [line["decision.reason"] for line in sidecar.await_log(2, decision="deny")]
    assert reasons == ["method_not_allowed", "path_not_allowed"]
    assert "sk-of-the-service" not in sidecar.log_file.read_text() + sidecar.stderr


REFUSED = {
    "another host": (lambda: https(AUTHORITY.site("other.internal")), "certificate_host_mismatch"),
    "another authority": (lambda: https(STRANGER.site("localhost")), "authority_unknown"),
    "expired": (lambda: https(AUTHORITY.site("localhost", not_after=NOW - 60)), "certificate_expired"),
    "too old": (lambda: old_server(ssl.TLSVersion.TLSv1_1), "peer_alert_protocol_version"),
}


@pytest.mark.threat(27, 59)
@pytest.mark.parametrize("case", REFUSED)
def test_threats_27_59_who_is_not_that_service_gets_no_request(site: Site, case: str) -> None:
    make, code = REFUSED[case]
    with Web(OK, make()) as server:
        sidecar = planner(site, service(server)).start()
        answer = get(site, sidecar)
        assert (answer.status, answer.json["error"]) == (502, "upstream_tls")
        sidecar.await_log(error=code, http_status=502)
        assert not any(server.requests)


@pytest.mark.threat(13, 27)
def test_threats_13_27_a_service_with_another_key_gets_no_request_until_a_reload_names_it(site: Site) -> None:
    with Web(OK, https()) as server:
        sidecar = planner(site, service(server, pins=[str(Pin(bytes(32)))])).start()
        assert get(site, sidecar).status == 502
        sidecar.await_log(error="peer_pin_mismatch", http_status=502)
        assert not any(server.requests)
        sidecar.config["outbound"][0]["pins"] = [str(SITE.pin), str(Pin(bytes(32)))]
        sidecar.reload()
        assert get(site, sidecar).status == 200


def test_a_reload_takes_the_roots_that_the_system_has_by_then(site: Site) -> None:
    with Web(OK, https()) as server:
        sidecar = planner(site, service(server)).start()
        assert get(site, sidecar).status == 200
        replace_file(site.path("roots.pem"), STRANGER.pem)
        sidecar.reload()
        assert get(site, sidecar).status == 502
        sidecar.await_log(error="authority_unknown")


def echoing(sock: socket.socket) -> None:
    """Agrees to the WebSocket of `asking`, and sends back what comes."""
    sock.sendall(agreeing())
    while data := sock.recv(4096):
        sock.sendall(data)


@pytest.mark.threat(12, 26, 27)
@pytest.mark.parametrize("change", ["addresses", "roots", "pins", "nothing"])
def test_threats_12_26_27_a_websocket_to_a_service_ends_when_what_it_was_held_to_changes(
    site: Site, change: str
) -> None:
    name = private_name() if change == "addresses" else "localhost"
    with Web(echoing, https(AUTHORITY.site(name))) as server:
        sidecar = planner(site, service(server, connect=f"{name}:{server.port}")).start()
        with socket.create_connection((LOOPBACK, sidecar.port("outbound"))) as agent:
            agent.settimeout(20)
            agent.sendall(asking().replace(b"tools.internal", b"localhost"))
            assert agent.recv(4096).startswith(b"HTTP/1.1 101 ")
            (entry,) = sidecar.config["outbound"]
            if change == "addresses":
                del entry["unsafe_private_addresses"]
            elif change == "roots":
                replace_file(site.path("roots.pem"), STRANGER.pem)
            elif change == "pins":
                entry["pins"] = [str(Pin(bytes(32)))]
            else:
                entry["methods"] = ["GET"]
            sidecar.reload()
            if change == "nothing":
                agent.sendall(b"after")
                assert agent.recv(5) == b"after"
                return
            with pytest.raises(ConnectionError):
                agent.recv(5)
        sidecar.await_log(event="request", error="entry_changed", http_status=101)


def test_a_server_that_asks_for_a_certificate_sees_none(site: Site) -> None:
    with Web(OK, demanding()) as server:
        sidecar = planner(site, service(server)).start()
        assert get(site, sidecar).status == 502
        assert not any(server.requests)


def private_name() -> str:
    """A name, other than localhost, that leads to this machine or its network."""
    for name in ("ip6-localhost", "localhost.localdomain", socket.gethostname().lower()):
        with suppress(OSError):
            found = [info[4][0] for info in socket.getaddrinfo(name, 443, type=socket.SOCK_STREAM)]
            if all(ipaddress.ip_address(address).is_private for address in found):
                return name
    lacking = "no name but localhost leads to a private address: give this machine's own name one in /etc/hosts"
    assert not os.environ.get("CI"), lacking
    pytest.skip(lacking)


@pytest.mark.threat(26, 27)
def test_threats_26_27_a_name_that_leads_to_this_machine_is_not_dialled(site: Site) -> None:
    name = private_name()
    with Web(OK, https(AUTHORITY.site(name))) as server:
        entry = service(server, connect=f"{name}:{server.port}")
        del entry["unsafe_private_addresses"]
        sidecar = planner(site, entry).start()
        answer = get(site, sidecar)
        assert (answer.status, answer.json["error"]) == (502, "upstream_address_forbidden")
        sidecar.await_log(error="upstream_address_forbidden", http_status=502)
        sidecar.await_stderr("unsafe_private_addresses: true")
        assert (server.open, server.versions) == (0, [])


@pytest.mark.threat(26, 27)
def test_threats_26_27_nor_does_the_agents_own_tls_get_there(site: Site) -> None:
    name = private_name()
    with Web(OK, https(AUTHORITY.site(name))) as server:
        entry = service(server, connect=f"{name}:{server.port}", passthrough=True)
        del entry["unsafe_private_addresses"]
        sidecar = planner(site, entry).start()
        agent = site.agent(sidecar)
        agent.set_tunnel(name, server.port)
        with pytest.raises(OSError, match="502"):
            agent.connect()
        (line,) = sidecar.await_log(event="tunnel", error="upstream_address_forbidden")
        assert (line["dst.name"], line["bytes_received"]) == (f"{name}:{server.port}", 0)
        sidecar.await_stderr("unsafe_private_addresses: true")
        assert (server.open, server.versions) == (0, [])


@pytest.mark.threat(26)
def test_threat_26_a_reload_that_takes_back_the_leave_uses_no_connection_that_was_made_by_it(site: Site) -> None:
    name = private_name()
    with Web(OK, https(AUTHORITY.site(name))) as server:
        sidecar = planner(site, service(server, connect=f"{name}:{server.port}")).start()
        assert get(site, sidecar).status == 200
        del sidecar.config["outbound"][0]["unsafe_private_addresses"]
        sidecar.reload()
        assert get(site, sidecar).json["error"] == "upstream_address_forbidden"
        assert len(server.requests) == 1


def test_a_reload_that_verifies_another_name_begins_anew(site: Site) -> None:
    with Web(OK, https()) as server:
        sidecar = planner(site, service(server)).start()
        assert get(site, sidecar).status == 200
        sidecar.config["outbound"][0]["server_name"] = "other.internal"
        sidecar.reload()
        assert get(site, sidecar).status == 502
        sidecar.await_log(error="certificate_host_mismatch")
        assert len(server.requests) == 1


def test_workers_reach_services_too(site: Site) -> None:
    with Web(OK, https()) as server:
        sidecar = planner(site, service(server), workers=2).start()
        assert {get(site, sidecar).status for _ in range(6)} == {200}
        replace_file(site.path("roots.pem"), STRANGER.pem)
        sidecar.reload()
        assert {get(site, sidecar).status for _ in range(6)} == {502}
        assert len(server.requests) == 6


def test_connect_is_refused_and_says_why(site: Site) -> None:
    with Web(OK, https()) as server:
        sidecar = planner(site, service(server)).start()
        agent = site.agent(sidecar)
        agent.set_tunnel("localhost", server.port)
        with pytest.raises(OSError, match="405"):
            agent.connect()
        sidecar.await_log(http_method="CONNECT", http_status=405)
        sidecar.await_stderr(f"http://localhost:{server.port}/")
        assert server.versions == []


def test_a_redirect_is_passed_on_and_not_followed(site: Site) -> None:
    with Web(OK, https()) as elsewhere:
        moved = page(b"", f"Location: https://localhost:{elsewhere.port}/", status="302 Found")
        with Web(sending(moved), https()) as server:
            sidecar = planner(site, service(server)).start()
            answer = get(site, sidecar)
            assert (answer.status, answer.fields["Location"]) == (302, f"https://localhost:{elsewhere.port}/")
            assert elsewhere.versions == []


def test_a_service_that_goes_away_in_the_middle_of_its_answer(site: Site) -> None:
    """Half of an answer is never taken for the whole."""
    half = b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nhello"
    with Web(sending(half), https()) as server:
        sidecar = planner(site, service(server)).start()
        with pytest.raises((http.client.IncompleteRead, ConnectionError)):
            get(site, sidecar)
        sidecar.await_log(error="truncated_body")
        assert len(server.requests) == 1


def test_where_only_ciphertext_passes_no_request_is_served(site: Site) -> None:
    with Web(OK, https()) as server:
        sidecar = planner(site, service(server, passthrough=True)).start()
        assert get(site, sidecar).status == 403
        sidecar.await_log(decision_reason="passthrough_only")
        assert server.versions == []

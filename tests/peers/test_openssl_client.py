"""`openssl s_client` at the inbound port: which alerts a refused caller is told, and what a session is worth.

The alerts are looked for by number, as s_client prints them (RFC 8446 6).
"""

from __future__ import annotations

import subprocess
from typing import TYPE_CHECKING

import pytest

from tests.support.ca import Ca
from tests.support.processes import LOOPBACK, now, replace_file

if TYPE_CHECKING:
    from pathlib import Path

    from tests.support.backend import Backend
    from tests.support.processes import Pair, Site

pytestmark = pytest.mark.needs("openssl")

REQUEST = b"GET /openssl HTTP/1.1\r\nHost: tools.internal\r\nConnection: close\r\n\r\n"


def s_client(site: Site, port: int, *options: str, name: str | None = "planner", send: bytes = REQUEST) -> str:
    """Runs s_client to the end of the connection; returns all it says."""
    command = ["openssl", "s_client", "-connect", f"{LOOPBACK}:{port}", "-CAfile", str(site.path("ca.crt"))]
    if name is not None:
        if not site.path(f"{name}.crt").exists():
            site.identity(name)
        command += ["-cert", str(site.path(f"{name}.crt")), "-key", str(site.path(f"{name}.key"))]
    done = subprocess.run(
        [*command, "-ign_eof", *options],
        input=send,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        timeout=30,
        check=False,
    )
    return done.stdout.decode(errors="replace")


def test_a_named_caller_is_served_over_tls_1_3(shared: Pair) -> None:
    said = s_client(shared.site, shared.tools.port(), "-alpn", "http/1.1", "-verify_return_error")
    assert "New, TLSv1.3, Cipher is TLS_AES" in said
    assert "ALPN protocol: http/1.1" in said
    assert "Verify return code: 0 (ok)" in said
    assert "Compression: NONE" in said
    assert "HTTP/1.1 200 OK" in said
    assert "Max Early Data: 0" in said, "no ticket allows early data"


@pytest.mark.threat(3, 59)
def test_threat_3_59_no_certificate_is_alert_116(shared: Pair) -> None:
    said = s_client(shared.site, shared.tools.port(), name=None)
    assert "SSL alert number 116" in said
    assert "HTTP/1.1" not in said.replace(REQUEST.decode(), "")


@pytest.mark.threat(4, 59)
def test_threat_4_59_an_unknown_authority_is_alert_48(site: Site, shared: Pair) -> None:
    """The stranger has our caller's SPIFFE ID and our authority's name."""
    site.identity("planner", ca=Ca(key="stranger", now=now()))
    before = len(shared.backend.requests)
    said = s_client(site, shared.tools.port())
    assert "SSL alert number 48" in said or "SSL alert number 51" in said
    assert len(shared.backend.requests) == before


@pytest.mark.threat(59)
@pytest.mark.parametrize("version", ["-tls1_2", "-tls1_1"])
def test_threat_59_older_versions_are_alert_70(shared: Pair, version: str) -> None:
    said = s_client(shared.site, shared.tools.port(), version, "-cipher", "ALL:@SECLEVEL=0")
    assert "SSL alert number 70" in said
    assert "Cipher is (NONE)" in said


@pytest.mark.threat(59)
def test_threat_59_early_data_is_not_taken(site: Site, shared: Pair) -> None:
    """s_client refuses to send what the ticket does not allow, so the ticket's word is what there is to see."""
    session, early = site.path("session"), site.path("early")
    s_client(shared.site, shared.tools.port(), "-sess_out", str(session))
    early.write_bytes(REQUEST.replace(b"/openssl", b"/early-data"))
    said = s_client(shared.site, shared.tools.port(), "-sess_in", str(session), "-early_data", str(early))
    assert "Early data was not sent" in said or "Early data was rejected" in said
    assert not shared.backend.of("/early-data")


def resume(site: Site, port: int, session: Path) -> str:
    return s_client(site, port, "-sess_in", str(session))


def test_a_session_is_resumed(site: Site, backend: Backend) -> None:
    tools = site.tools(backend).start()
    session = site.path("session")
    assert "New, TLSv1.3" in s_client(site, tools.port(), "-sess_out", str(session))
    said = resume(site, tools.port(), session)
    assert "Reused, TLSv1.3" in said
    assert "HTTP/1.1 200 OK" in said
    assert tools.metric("handshakes_total", result="ok", resumed="true") == 1
    assert [line["src.identity"] for line in tools.await_log(2, event="request")] == [
        "spiffe://example.org/agent/planner/1"
    ] * 2


@pytest.mark.threat(11)
def test_threat_11_a_session_from_before_a_reload_gives_no_access(site: Site, backend: Backend) -> None:
    """The caller is removed from the rules, then its authority from the bundle: neither lets the old ticket in."""
    tools = site.tools(backend).start()
    session = site.path("session")
    s_client(site, tools.port(), "-sess_out", str(session))
    assert "Reused, TLSv1.3" in resume(site, tools.port(), session)
    served = len(backend.requests)
    tools.config["inbound"][0]["allow"] = [{"caller": "spiffe://example.org/agent/other/1"}]
    tools.reload()
    said = resume(site, tools.port(), session)
    assert "New, TLSv1.3" in said
    assert "HTTP/1.1 403 " in said
    s_client(site, tools.port(), "-sess_out", str(session))
    successor = Ca(key="successor", now=now())
    replace_file(site.path("ca.crt"), successor.pem)
    site.identity("tools", ca=successor)
    tools.reload()
    said = resume(site, tools.port(), session)
    assert "SSL alert number 48" in said or "SSL alert number 51" in said
    assert "Reused" not in said
    assert len(backend.requests) == served


@pytest.mark.threat(11)
def test_threat_11_a_session_of_one_listener_is_nothing_to_another(site: Site, backend: Backend) -> None:
    tools = site.tools(backend)
    second = tools.config["inbound"][0] | {"name": "second", "listen": f"{LOOPBACK}:{tools.port() + 1}"}
    second["allow"] = [{"caller": "spiffe://example.org/agent/other/1"}]
    tools.config["inbound"].append(second)
    tools.start()
    session = site.path("session")
    s_client(site, tools.port(), "-sess_out", str(session))
    said = resume(site, tools.port(entry=1), session)
    assert "New, TLSv1.3" in said
    assert "HTTP/1.1 403 " in said

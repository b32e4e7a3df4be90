"""`openssl s_server` as the upstream peer of an outbound entry: who it must be, and what an impostor gets to see.

s_server asks for a certificate and writes down every handshake message (``-msg``): where the peer is refused, ours must not
be among them, and no byte of a request either.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tests.support.ca import Ca
from tests.support.eventually import eventually
from tests.support.processes import LOOPBACK, PLANNER, TOOLS, ask, free_port, now

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from tests.support.processes import Site

pytestmark = pytest.mark.needs("openssl")

WRONG_PIN = "sha256:AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA="


@pytest.fixture
def site(site: Site) -> Site:
    site.identity("tools")
    return site


def s_server(site: Site, name: str, *options: str) -> tuple[int, Path]:
    """Starts s_server with that identity; returns its port and the file with what it says."""
    port, said = free_port(), site.path("s_server.out")
    files = ("-cert", f"{name}.crt", "-key", f"{name}.key", "-CAfile", "ca.crt")
    with said.open("wb") as out:
        site.process(
            *("openssl", "s_server", "-accept", f"{LOOPBACK}:{port}", *files, "-Verify", "2", "-www", "-msg", *options),
            stdout=out,
            stderr=out,
        )
    eventually(lambda: b"ACCEPT" in said.read_bytes(), "s_server to accept")
    return port, said


def client_messages(said: Path) -> list[str]:
    """The names of the handshake messages that came from the client."""
    lines = said.read_text(errors="replace").splitlines()
    return [line.rpartition(", ")[2] for line in lines if line.startswith("<<< TLS 1.3, Handshake")]


def test_the_named_peer_is_proven_and_gets_our_certificate(site: Site) -> None:
    port, said = s_server(site, "tools")
    pin = str(site.identity("tools").pin)
    planner = site.planner(port, {"pins": [WRONG_PIN, pin]}).start()
    answer = ask(site.agent(planner), "GET", "/")
    assert answer.status == 200
    assert b"TLSv1.3" in answer.body
    assert b"URI:" + PLANNER.encode() in answer.body, "s_server shows the certificate that it got"
    assert "Certificate" in client_messages(said)
    (line,) = planner.await_log(event="request")
    assert (line["dst.identity"], line["decision"]) == (TOOLS, "allow")


def impostor_of_name(site: Site) -> tuple[str, dict[str, object], str]:
    site.identity("impostor", "/agent/impostor/1")
    return "impostor", {}, "peer_name_mismatch"


def wrong_key(site: Site) -> tuple[str, dict[str, object], str]:
    """The right name by the right authority, but not the pinned key."""
    return "tools", {"pins": [WRONG_PIN]}, "peer_pin_mismatch"


def other_authority(site: Site) -> tuple[str, dict[str, object], str]:
    site.identity("impostor", "/agent/tools/1", ca=Ca(key="stranger", now=now()))
    return "impostor", {}, ""


@pytest.mark.threat(13, 27)
@pytest.mark.parametrize("impostor", [impostor_of_name, wrong_key, other_authority])
def test_threat_13_27_an_impostor_sees_neither_our_certificate_nor_a_request(
    site: Site, impostor: Callable[[Site], tuple[str, dict[str, object], str]]
) -> None:
    name, entry, code = impostor(site)
    port, said = s_server(site, name)
    planner = site.planner(port, entry).start()
    answer = ask(site.agent(planner), "POST", "/secret-path", body=b"secret body")
    assert (answer.status, answer.json["error"]) == (502, "upstream_tls")
    (line,) = planner.await_log(event="request")
    assert code in line["error"]
    assert "dst.identity" not in line
    assert planner.metric("handshakes_total", role="client", result="ok") == 0
    seen = client_messages(said)
    assert "ClientHello" in seen
    assert "Certificate" not in seen
    assert "Finished" not in seen
    assert b"secret" not in said.read_bytes()


@pytest.mark.threat(27, 59)
def test_threat_27_a_peer_of_tls_1_2_is_refused(site: Site) -> None:
    port, said = s_server(site, "tools", "-no_tls1_3")
    planner = site.planner(port).start()
    assert ask(site.agent(planner), "GET", "/secret").json["error"] == "upstream_tls"
    assert "Certificate" not in client_messages(said)
    assert b"unsupported protocol" in said.read_bytes()

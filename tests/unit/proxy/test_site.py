"""Ordinary HTTPS services as destinations: what a reload may carry a connection over to."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from sidecar.identity.pins import Pin
from sidecar.proxy.public_target import PublicTarget
from sidecar.proxy.site import SiteDestination
from sidecar.tls.site import SiteContext
from tests.support.clock import Shifted
from tests.support.pair import turns
from tests.support.server import running
from tests.support.web import AUTHORITY, NOW, Web, hanging, https
from tests.support.wire import Plain, take_response
from tests.unit.proxy.test_lifetime import EVENTS

if TYPE_CHECKING:
    import socket
    from pathlib import Path

ROOTS, OTHER_ROOTS = object(), object()


def destination(
    host: str = "api.llm.example",
    *,
    name: str = "api.llm.example",
    pins: frozenset[Pin] = frozenset(),
    roots: Any = ROOTS,
    anywhere: bool = False,
) -> SiteDestination:
    hub: Any = None
    return SiteDestination(PublicTarget(host, 443, hub, anywhere=anywhere), name, SiteContext(roots, name, pins), hub)


def test_a_destination_takes_the_place_of_its_like() -> None:
    assert destination().replaces(destination())


@pytest.mark.parametrize(
    "changed",
    [
        {"host": "lb.example"},
        {"name": "other.example"},
        {"pins": frozenset({Pin(bytes(32))})},
        {"roots": OTHER_ROOTS},
        {"anywhere": True},
    ],
    ids=["place", "name", "pins", "roots", "addresses"],
)
def test_what_was_held_to_something_else_is_not_carried_over(changed: dict[str, Any]) -> None:
    assert not destination(**changed).replaces(destination())
    assert not destination().replaces(destination(**changed))


@pytest.mark.threat(12)
async def test_threat_12_a_stream_of_a_service_is_cut_when_an_authority_of_its_ends(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "roots.pem").write_bytes(AUTHORITY.pem)
    monkeypatch.setenv("SSL_CERT_FILE", str(tmp_path / "roots.pem"))
    monkeypatch.setenv("SSL_CERT_DIR", str(tmp_path))
    brief = AUTHORITY.below("an authority that ends first", not_after=int(NOW) + 600)
    shifted = Shifted()

    def streaming(sock: socket.socket) -> None:
        sock.sendall(EVENTS)
        hanging(sock)

    with Web(streaming, https(brief.site("localhost"))) as server:
        async with running(tmp_path, clock=shifted.clock) as at:
            (entry,) = at.config["outbound"]
            del entry["peer"]
            entry |= {"connect": f"localhost:{server.port}", "tls": "public", "unsafe_private_addresses": True}
            assert await at.reload()
            agent = await Plain.connect(at.port("outbound"))
            agent.send(b"GET /events HTTP/1.1\r\nHost: localhost\r\n\r\n")
            await agent.until(lambda: b"hello" in agent.buffer)
            shifted.pass_by(590)
            await turns()
            assert not agent.ended
            shifted.pass_by(20)
            assert take_response(bytearray(await agent.rest())) is None, "it was cut"
            agent.abort()
        assert '"error":"certificate_expired"' in (tmp_path / "access.log").read_text()

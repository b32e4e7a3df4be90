"""Ordinary HTTPS services: who is believed, and that nothing is said before."""

from __future__ import annotations

import socket
import ssl
from dataclasses import replace
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import pytest

from sidecar.identity.pins import Pin
from sidecar.tls import site
from sidecar.tls.engine import TlsEngine
from sidecar.tls.failure import TlsCode, TlsError
from sidecar.tls.site import Site, SiteContext, roots_version, site_tls
from tests.support.ca import HOUR, keypair, resign, rsa_keypair
from tests.support.tls import NOW, TOOLS
from tests.support.web import AUTHORITY, SITE, STRANGER, Authority, Web, demanding, https, page, sending
from tests.unit.identity.corpus import with_serial
from tests.unit.tls.test_web import old_server

if TYPE_CHECKING:
    from pathlib import Path

    from tests.support.ca import Identity

OK = sending(page())


@pytest.fixture(autouse=True)
def roots(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    path = tmp_path / "roots.pem"
    path.write_bytes(AUTHORITY.pem)
    monkeypatch.setenv("SSL_CERT_FILE", str(path))
    monkeypatch.setenv("SSL_CERT_DIR", str(tmp_path))
    return path


def converse(server: Web, name: str = "localhost", pins: frozenset[Pin] = frozenset()) -> tuple[TlsEngine, bytes]:
    """Makes a handshake over a socket and asks for something; raises as the engine does, once its bytes are out."""
    engine = TlsEngine(SiteContext(site_tls(), name, pins), server_name=name)
    with socket.create_connection(("127.0.0.1", server.port), timeout=20) as sock:

        def take() -> None:
            data = sock.recv(65536)
            engine.receive(data) if data else engine.receive_eof()

        try:
            while not engine.handshake(NOW):
                sock.sendall(engine.to_send())
                take()
        except TlsError:
            sock.sendall(engine.to_send())
            raise
        engine.write(b"GET / HTTP/1.1\r\n\r\n")
        sock.sendall(engine.to_send())
        while not (answer := engine.read()):
            take()
    return engine, answer


def refusal(identity: Identity, name: str = "localhost", pins: frozenset[Pin] = frozenset()) -> TlsError:
    with Web(OK, https(identity)) as server:
        with pytest.raises(TlsError) as caught:
            converse(server, name, pins)
        assert not any(server.requests)
    return caught.value


@pytest.mark.parametrize("name", ["localhost", "127.0.0.1"])
def test_a_service_is_proven_by_its_host_name(name: str) -> None:
    with Web(OK, https()) as server:
        engine, answer = converse(server, name)
        assert server.shown == [None]
    assert answer.startswith(b"HTTP/1.1 200")
    assert engine.peer is None
    serial, end = f"{SITE.leaf.serial_number:x}", SITE.leaf.not_valid_after_utc.timestamp()
    assert engine.site == Site(name, SITE.pin, serial, end)


@pytest.mark.threat(27)
@pytest.mark.parametrize(
    ("identity", "code"),
    [
        (AUTHORITY.site("other.internal"), TlsCode.HOST_NAME),
        (AUTHORITY.site(subject="localhost"), TlsCode.HOST_NAME),
        (STRANGER.site("localhost"), TlsCode.AUTHORITY_UNKNOWN),
        (AUTHORITY.site("localhost", not_after=NOW - 60), TlsCode.CERTIFICATE_EXPIRED),
        (AUTHORITY.site("localhost", not_before=NOW + HOUR), TlsCode.CERTIFICATE_NOT_YET_VALID),
        (TOOLS, TlsCode.AUTHORITY_UNKNOWN),
    ],
    ids=["other-host", "common-name", "other-authority", "expired", "not-yet-valid", "spiffe"],
)
def test_threat_27_who_is_not_that_host_gets_no_byte_of_a_request(identity: Identity, code: TlsCode) -> None:
    error = refusal(identity)
    assert error.code is code
    assert error.alert_sent


def test_an_address_is_compared_with_addresses() -> None:
    assert refusal(AUTHORITY.site("localhost"), "127.0.0.1").code is TlsCode.HOST_NAME


@pytest.mark.threat(13)
def test_threat_13_pins_are_those_of_the_leaf() -> None:
    with Web(OK, https()) as server:
        converse(server, pins=frozenset({SITE.pin, Pin(bytes(32))}))
    error = refusal(SITE, pins=frozenset({Pin(bytes(32)), Pin.of_certificate(AUTHORITY.certificate)}))
    assert error.code is TlsCode.PEER_PIN
    assert not error.alert_sent
    assert str(SITE.pin) in str(error)


@pytest.mark.parametrize(
    "change", [(b"\x01\x01\xff", b"\x01\x01\x01"), (b"\xa0\3\2\1\2", b"\xa0\3\2\1\3"), (b"0", b"1")]
)
def test_a_certificate_that_openssl_alone_reads_proves_nobody(
    monkeypatch: pytest.MonkeyPatch, change: tuple[bytes, bytes]
) -> None:
    monkeypatch.setattr(site, "verified_chain", lambda _: [SITE.der[0].replace(*change, 1)])
    connection: Any = SimpleNamespace(session_reused=False)
    with pytest.raises(TlsError) as caught:
        SiteContext(site_tls(), "localhost", frozenset()).prove(connection, NOW)
    assert caught.value.code is TlsCode.BAD_CERTIFICATE


@pytest.mark.parametrize(("chain", "resumed"), [([], False), ([], True), (SITE.der, True)])
def test_a_session_that_is_resumed_proves_nobody(
    monkeypatch: pytest.MonkeyPatch, chain: list[bytes], *, resumed: bool
) -> None:
    monkeypatch.setattr(site, "verified_chain", lambda _: chain)
    connection: Any = SimpleNamespace(session_reused=resumed)
    with pytest.raises(TlsError) as caught:
        SiteContext(site_tls(), "localhost", frozenset()).prove(connection, NOW)
    assert caught.value.code is TlsCode.NO_CERTIFICATE


@pytest.mark.threat(12)
@pytest.mark.parametrize("first", ["leaf", "intermediate", "root"])
def test_threat_12_the_earliest_end_of_the_verified_chain_counts(roots: Path, first: str) -> None:
    ends = dict.fromkeys(("leaf", "intermediate", "root"), NOW + 2 * HOUR) | {first: NOW + HOUR}
    authority = Authority("an authority that ends", not_after=ends["root"])
    between = authority.below("another one", not_after=ends["intermediate"])
    roots.write_bytes(authority.pem)
    spare = AUTHORITY.below("sent, and no part of it", not_after=NOW + 60).certificate
    identity = between.site("localhost", not_after=ends["leaf"])
    with Web(OK, https(replace(identity, chain=(*identity.chain, spare)))) as server:
        engine, _ = converse(server)
    assert engine.site is not None
    assert engine.site.not_after == int(NOW + HOUR)


def test_a_root_that_the_library_warns_of_is_a_root(roots: Path) -> None:
    authority = Authority("an old authority")
    old = resign(authority.certificate, keypair("an old authority"), with_serial(b"\x00"))
    roots.write_text(ssl.DER_cert_to_PEM_cert(old))
    with Web(OK, https(authority.site("localhost"))) as server:
        engine, _ = converse(server)
    assert engine.site is not None


def test_an_rsa_key_has_a_pin_too() -> None:
    identity = AUTHORITY.site("localhost", key=rsa_keypair("site"))
    with Web(OK, https(identity)) as server:
        engine, _ = converse(server, pins=frozenset({identity.pin}))
    assert engine.site is not None


@pytest.mark.threat(59)
def test_threat_59_tls_1_2_is_the_least() -> None:
    with Web(OK, old_server(ssl.TLSVersion.TLSv1_2)) as server:
        engine, _ = converse(server)
        assert engine.version == "TLSv1.2"
    with Web(OK, old_server(ssl.TLSVersion.TLSv1_1)) as server:
        with pytest.raises(TlsError) as caught:
            converse(server)
        assert caught.value.code is TlsCode.ALERT_PROTOCOL_VERSION
        assert server.requests == []


def test_nothing_of_ours_is_shown_to_who_asks() -> None:
    with Web(OK, demanding()) as server:
        with pytest.raises((TlsError, ConnectionError)):
            converse(server)
        assert server.requests == []


def test_roots_that_change_are_noticed(roots: Path) -> None:
    before = roots_version()
    assert roots_version() == before
    roots.write_bytes(AUTHORITY.pem + STRANGER.pem)
    assert roots_version() != before
    roots.unlink()
    assert roots_version() != before
